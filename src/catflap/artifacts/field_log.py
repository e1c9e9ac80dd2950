"""The FieldLog: what a Bundle saw in the field and what it answered, in one SQLite file.

It is the one artefact that grows: rows are added while a camera or a server runs. SQLite's write-ahead
log keeps it whole when the process is killed; what was committed, about every half second, is there.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import BadArtifact, CatflapError

APPLICATION = 0x43415446  # "CATF", which SQLite keeps in the head of the file
VERSION = 1
BATCH = 0.5  # seconds between two commits
WAITING = 500  # rows that may wait for the disk; then the newest are lost
TABLES = """
CREATE TABLE IF NOT EXISTS judge (
  id INTEGER PRIMARY KEY, bundle TEXT NOT NULL, version TEXT NOT NULL, variant TEXT NOT NULL,
  labels TEXT NOT NULL, prior TEXT NOT NULL, UNIQUE (version, variant, prior)
);
CREATE TABLE IF NOT EXISTS seen (
  id INTEGER PRIMARY KEY, time REAL NOT NULL, photo TEXT NOT NULL, judge INTEGER NOT NULL,
  probabilities BLOB NOT NULL, decision TEXT NOT NULL, verb TEXT NOT NULL, regular INTEGER NOT NULL,
  path TEXT NOT NULL, picture BLOB, look BLOB, embedding BLOB, strangeness REAL
);
CREATE INDEX IF NOT EXISTS seen_photo ON seen (photo);
"""
ROW = "time, photo, probabilities, decision, verb, regular, path, picture, look, embedding, strangeness"
LATER = {"look": "BLOB", "embedding": "BLOB", "strangeness": "REAL"}  # columns that the first logs lack


@dataclass(frozen=True)
class By:
    """Who answered: the bundle's name and sha256, its variant and labels, and the prior that was stated."""

    bundle: str
    version: str
    variant: str
    labels: tuple[str, ...]
    prior: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Seen:
    """A photo and the answer: `time` in seconds since 1970, `photo` the sha256 of its bytes.

    `probabilities` are (labels,) as answered; `verb` is predict, watch, serve or shadow. `regular` is
    False for a photo that was logged because of what it shows. `path` is its file, where it has one;
    `picture` a JPEG of it, where those may be kept; `look` how its frame looks, where that was measured;
    `embedding` the features of the network (width,), which are kept to a 254th of the greatest, and
    `strangeness` how far they are from those of its label, where the variant has them.
    """

    time: float
    photo: str
    by: By
    probabilities: npt.NDArray[np.float32]
    decision: str
    verb: str
    regular: bool = True
    path: str = ""
    picture: bytes | None = None
    look: tuple[float, ...] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    strangeness: float | None = None


class FieldLog:
    """A log that is written to: `add` never waits, and a disk that is full stops nobody.

    The file does not grow beyond `limit` bytes, the oldest rows go first. `note` is told when
    rows are lost, once, and when they no longer are.
    """

    def __init__(self, path: Path, *, limit: int, note: Callable[[str], None]) -> None:
        self.path = path
        self.lost = 0
        self._limit = limit
        self._note = note
        self._failing = False
        self._told = 0  # how many of the lost rows a note has told of
        self._waiting: deque[Seen] = deque()
        self._news = Condition()
        self._closed = False
        self._judges: dict[By, int] = {}
        self._database = _open(path)
        self._thread = Thread(target=self._run, name="field log", daemon=True)
        self._thread.start()

    def add(self, seen: Seen) -> None:
        """Take a row; it is on its way to the disk."""
        with self._news:
            if len(self._waiting) >= WAITING:
                self.lost += 1
                return
            self._waiting.append(seen)
            if len(self._waiting) >= WAITING // 2:
                self._news.notify()

    def close(self) -> None:
        """Write what waits and close the file."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(30)
        if self.lost > self._told and not self._failing:
            self._note(f"{self.path} lacks {self.lost - self._told} rows that the disk was too slow for.")

    def _run(self) -> None:
        with closing(self._database):
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._closed or len(self._waiting) >= WAITING // 2, BATCH)
                    rows, closed = list(self._waiting), self._closed
                    self._waiting.clear()
                if rows:
                    self._write(rows)
                if closed:
                    return

    def _write(self, rows: list[Seen]) -> None:
        try:
            with self._database:
                self._insert(rows)
            self._trim()
        except (sqlite3.Error, OSError, ValueError) as error:
            self.lost += len(rows)
            self._judges.clear()  # what was rolled back has no number
            if not self._failing:
                self._failing = True
                self._note(f"{self.path} cannot be written: {error}. The work goes on without its log.")
            return
        if self._failing:
            self._failing, self._told = False, self.lost
            self._note(f"{self.path} is written again; {self.lost} rows are lost.")

    def _insert(self, rows: list[Seen]) -> None:
        for row in rows:
            values = (
                row.time, row.photo, row.probabilities.astype("<f4").tobytes(), row.decision, row.verb,
                row.regular, row.path, row.picture, _packed(row.look), _rounded(row.embedding),
                row.strangeness, self._judge(row.by),
            )  # fmt: skip
            self._database.execute(
                f"INSERT INTO seen ({ROW}, judge) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", values
            )

    def _judge(self, by: By) -> int:
        if by not in self._judges:
            values = (by.bundle, by.version, by.variant, json.dumps(by.labels), json.dumps(by.prior))
            self._database.execute(
                "INSERT OR IGNORE INTO judge (bundle, version, variant, labels, prior) VALUES (?,?,?,?,?)",
                values,
            )
            found = self._database.execute(
                "SELECT id FROM judge WHERE version = ? AND variant = ? AND prior = ?",
                (values[1], values[2], values[4]),
            )
            self._judges[by] = int(found.fetchone()[0])
        return self._judges[by]

    def _trim(self) -> None:
        """Delete the oldest tenth until the pages in use are within the limit; they are used again."""
        while self._used() > self._limit:
            first, last = self._database.execute("SELECT min(id), max(id) FROM seen").fetchone()
            if first is None:
                return
            with self._database:
                self._database.execute("DELETE FROM seen WHERE id <= ?", (first + (last - first) // 10,))

    def _used(self) -> int:
        pages, free, size = (
            int(self._database.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def read_field_log(
    path: Path,
    *,
    version: str = "",
    regular: bool = False,
    pictures: bool = False,
    embeddings: bool = False,
) -> Iterator[Seen]:
    """The rows of a FieldLog, the oldest first; BadArtifact when the file is none or is damaged.

    `version` leaves the rows of one bundle, by its sha256; `regular` those that were not chosen for
    what they show. Pictures and embeddings, most of the bytes, are read only when they are asked for.
    """
    unread = {name for name, asked in (("picture", pictures), ("embedding", embeddings)) if not asked}
    wanted = "WHERE (? = '' OR version = ?) AND (regular OR NOT ?)"
    try:
        with closing(_open(path, new=False)) as database:
            unread |= _lacking(database)
            columns = ", ".join("NULL" if name in unread else name for name in ROW.split(", "))
            query = (
                f"SELECT {columns}, bundle, version, variant, labels, prior "
                f"FROM seen JOIN judge ON judge.id = seen.judge {wanted} ORDER BY seen.id"
            )
            for row in database.execute(query, (version, version, regular)):
                yield _seen(row)
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise BadArtifact(f"{path} is damaged: {error}.", "Move it away; a new log is begun.") from error


def read_picture(path: Path, photo: str) -> bytes | None:
    """The picture that was kept of a photo, by the sha256 of the photo; None when there is none."""
    try:
        with closing(_open(path, new=False)) as database:
            query = "SELECT picture FROM seen WHERE photo = ? AND picture IS NOT NULL LIMIT 1"
            found = database.execute(query, (photo,)).fetchone()
    except sqlite3.Error as error:
        raise BadArtifact(f"{path} is damaged: {error}.", "Move it away; a new log is begun.") from error
    return found[0] if found and isinstance(found[0], bytes) else None


def _seen(row: tuple[Any, ...]) -> Seen:
    time, photo, blob, decision, verb, regular, where, picture, look, embedding, strangeness, *about = row
    bundle, version, variant, labels, prior = about
    by = By(
        str(bundle), str(version), str(variant), tuple(map(str, json.loads(labels))),
        tuple((str(label), float(share)) for label, share in json.loads(prior)),
    )  # fmt: skip
    probabilities = np.frombuffer(blob, "<f4")
    if len(probabilities) != len(by.labels) or not np.isfinite(probabilities).all():
        raise ValueError("an answer has not one number a label")
    if picture is not None and not isinstance(picture, bytes):
        raise ValueError("a picture is no bytes")
    return Seen(
        float(time),
        str(photo),
        by,
        probabilities,
        str(decision),
        str(verb),
        bool(regular),
        str(where),
        picture,
        None if look is None else tuple(np.frombuffer(look, "<f4").tolist()),
        None if embedding is None else _restored(embedding),
        None if strangeness is None else float(strangeness),
    )


def _packed(look: tuple[float, ...] | None) -> bytes | None:
    return None if look is None else np.array(look, "<f4").tobytes()


def _rounded(embedding: npt.NDArray[np.float32] | None) -> bytes | None:
    """An embedding in a byte a feature and four more: a float32 scale, then int8."""
    if embedding is None:
        return None
    scale = np.float32(np.abs(embedding).max() / 127)
    steps = np.rint(embedding / (scale or np.float32(1)))
    return bytes(scale.astype("<f4").tobytes() + steps.astype(np.int8).tobytes())


def _restored(blob: bytes) -> npt.NDArray[np.float32]:
    scale, steps = np.frombuffer(blob, "<f4", count=1), np.frombuffer(blob, np.int8, offset=4)
    if not len(steps) or not np.isfinite(scale[0]):
        raise ValueError("an embedding has no numbers")
    found: npt.NDArray[np.float32] = steps * scale
    return found


def _lacking(database: sqlite3.Connection) -> set[str]:
    """The columns that a log from before them does not have."""
    return set(LATER) - {row[1] for row in database.execute("PRAGMA table_info(seen)")}


def _open(path: Path, *, new: bool = True) -> sqlite3.Connection:
    """The database; a new one is made where there is none, unless `new` is False."""
    try:
        if not new and not path.is_file():
            raise BadArtifact(f"There is no field log at {path}.", "Write one: catflap watch … --log FILE")
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=10, check_same_thread=False)
    except (OSError, ValueError, sqlite3.Error) as error:
        raise _unusable(path, error) from error
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        if _is_empty(database) and new:
            database.execute("PRAGMA journal_mode = WAL")
            with database:
                database.executescript(f"BEGIN IMMEDIATE; {TABLES}")
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {VERSION}")
        if _pragma(database, "application_id") != APPLICATION:
            raise BadArtifact(f"{path} is not a field log.", "Choose another name.")
        if _pragma(database, "user_version") != VERSION:
            raise BadArtifact(f"{path} is a field log of another version.", "Choose another name.")
        for column in _lacking(database) if new else ():
            with suppress(sqlite3.OperationalError), database:  # another process was as quick
                database.execute(f"ALTER TABLE seen ADD COLUMN {column} {LATER[column]}")
        database.execute("PRAGMA synchronous = NORMAL")
    except (sqlite3.Error, BadArtifact) as error:
        with suppress(sqlite3.Error):
            database.close()
        raise error if isinstance(error, BadArtifact) else _unusable(path, error) from error
    return database


def _is_empty(database: sqlite3.Connection) -> bool:
    return not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _unusable(path: Path, error: Exception) -> CatflapError:
    why = getattr(error, "strerror", None) or str(error)
    return CatflapError(
        f"The field log {path} cannot be opened: {why}.", "Check its path, or choose another."
    )
