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
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Thread
from time import monotonic, sleep
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.field_file import PATIENCE, identity, lacking, open_log, pragma
from catflap.errors import BadArtifact, CatflapError

BATCH = 0.5  # seconds between two commits
WAITING = 500  # rows that may wait for the disk; then the newest are lost
STEP = 800_000  # bytes that a transaction writes, at most; a small log has less
FOLDED = 5  # steps that wait in the write-ahead log
LARGEST = 5  # steps that a single row may take
EXTRA = 16_384  # bytes that a row changes besides its own, at most: in the tree, the index, the free pages
SHARED = 32_768  # bytes of the file that SQLite's processes share
READERS = 0.5  # seconds to wait for those who read
LAST = 1e11  # seconds since 1970, in the year 5138; what is later is no time
ROW = "time, photo, probabilities, decision, verb, regular, path, picture, look, embedding, strangeness"


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

    The file and the two that SQLite keeps beside it have at most `limit` bytes, 1,000,000 or more; the
    oldest rows go first. For that a transaction writes a step or one row, the write-ahead log (-wal) is
    folded in when it has five, and the pages in use leave room for both. It cannot be folded in while
    somebody reads. `note` is told when rows are lost, once, and when they no longer are.

    When the file is moved or deleted a new one is begun within about half a second, of which `note` is
    told; what the old one has in its -wal is folded in before.
    """

    def __init__(self, path: Path, *, limit: int, note: Callable[[str], None]) -> None:
        self.path = path
        self.lost = 0
        self._step = min(limit // 100, STEP)
        self._room = limit - (FOLDED + LARGEST) * self._step - SHARED
        self._note = note
        self._failing = False
        self._told = 0  # how many of the lost rows a note has told of
        self._waiting: deque[Seen] = deque()
        self._news = Condition()
        self._closed = False
        self._judges: dict[By, int] = {}
        self._reading = 0.0  # until when somebody is taken to read it, on the monotonic clock
        self._open()
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

    def _open(self) -> None:
        self._database = open_log(self.path)
        self._file = identity(self.path)
        self._wal = Path(f"{self.path.resolve()}-wal")
        for setting in (
            "wal_autocheckpoint = 0",  # two busy writers would put it off for ever
            "secure_delete = FAST",  # else what is deleted is written again, as zeros
        ):
            self._database.execute(f"PRAGMA {setting}")

    def _run(self) -> None:
        try:
            self._shrink()
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._closed or len(self._waiting) >= WAITING // 2, BATCH)
                    rows, closed = list(self._waiting), self._closed
                    self._waiting.clear()
                try:
                    self._follow()
                except (sqlite3.Error, OSError, CatflapError) as error:
                    self._fail(error)
                if rows:
                    self._write(rows)
                del rows  # else their pictures stay in memory while the next are waited for
                if closed:
                    return
        finally:
            self._database.close()

    def _follow(self) -> None:
        """Begin a new log when the file is no longer at its path; the old one is made whole where it is."""
        if self._file is not None:
            if self._file == identity(self.path):
                return
            kept = ""
            try:
                if self._checkpoint():
                    return  # somebody reads it; what comes meanwhile is written there, too
            except sqlite3.Error as error:
                kept = f" The old one lacks its last rows: {error}."
            self._database.close()
            self._judges.clear()
            self._reading, self._file = 0.0, None
            self._note(f"{self.path} was moved or deleted; a new log is begun.{kept}")
        self._open()

    def _shrink(self) -> None:
        """Make the file shorter where it is longer than it may be: an earlier limit was greater."""
        try:
            if self._pragma("page_count") * self._pragma("page_size") > self._room:
                while self._used() > self._room:
                    with self._database:
                        if not self._trim():
                            break
                    self._fold()
                self._database.execute("VACUUM")
                self._fold()
        except sqlite3.Error as error:
            self._database.rollback()
            self._note(f"{self.path} is longer than it may be and cannot be made shorter: {error}.")

    def _write(self, rows: list[Seen]) -> None:
        left = len(rows)
        try:
            for chunk, size in self._chunks(rows):
                while not self._insert(chunk, size):
                    self._fold()
                left -= len(chunk)
                self._fold()
        except (sqlite3.Error, OSError, ValueError) as error:
            with self._news:
                self.lost += left
            self._judges.clear()  # what was rolled back has no number
            self._fail(error)
            return
        if self._failing:
            self._failing, self._told = False, self.lost
            self._note(f"{self.path} is written again; {self.lost} rows are lost.")

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            why = str(error).rstrip(".")
            self._note(f"{self.path} cannot be written: {why}. The work goes on without its log.")

    def _chunks(self, rows: list[Seen]) -> Iterator[tuple[list[Seen], int]]:
        """Rows of about a step together, without a picture that is too large; how many bytes they write."""
        chunk: list[Seen] = []
        size = 0
        for row in rows:
            kept = row if _cost(row) <= LARGEST * self._step else replace(row, picture=None)
            if chunk and size + _cost(kept) > self._step:
                yield chunk, size
                chunk, size = [], 0
            chunk.append(kept)
            size += _cost(kept)
        yield chunk, size

    def _insert(self, rows: list[Seen], size: int) -> bool:
        """Insert rows; where they have no room delete some of the oldest instead, and say False."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if self._used() + size > self._room and self._trim():
                return False
            for row in rows:
                values = (
                    row.time, row.photo, row.probabilities.astype("<f4").tobytes(), row.decision, row.verb,
                    row.regular, row.path, row.picture, _packed(row.look), _rounded(row.embedding),
                    row.strangeness, self._judge(row.by),
                )  # fmt: skip
                self._database.execute(
                    f"INSERT INTO seen ({ROW}, judge) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", values
                )
        return True

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

    def _trim(self) -> bool:
        """Delete some of the oldest rows, whose pages are used again; False when there are none."""
        query = "DELETE FROM seen WHERE id IN (SELECT id FROM seen ORDER BY id LIMIT ?)"
        return self._database.execute(query, (max(1, self._step // EXTRA),)).rowcount > 0

    def _fold(self) -> None:
        """Empty the write-ahead log into the file once it is long; those who read are waited for a moment."""
        if monotonic() < self._reading:
            return
        end = monotonic() + READERS
        with suppress(FileNotFoundError):
            while self._wal.stat().st_size > FOLDED * self._step:
                if not self._checkpoint():
                    return
                if monotonic() > end:
                    self._reading = monotonic() + 4 * READERS  # the rows that come have to be written, too
                    return
                sleep(0.005)

    def _checkpoint(self) -> bool:
        """Empty the write-ahead log into the file; True when somebody reads, and not all could be."""
        self._database.execute(f"PRAGMA busy_timeout = {READERS * 1e3:.0f}")
        try:
            return bool(self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        finally:
            self._database.execute(f"PRAGMA busy_timeout = {PATIENCE * 1e3:.0f}")

    def _used(self) -> int:
        pages, free, size = map(self._pragma, ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size

    def _pragma(self, name: str) -> int:
        return pragma(self._database, name)


def read_field_log(
    path: Path,
    *,
    version: str = "",
    regular: bool = False,
    pictures: bool = False,
    embeddings: bool = False,
) -> Iterator[Seen]:
    """The rows of a FieldLog, the oldest first; BadArtifact when the file is none or is damaged.

    `version` keeps only the rows of the bundle with this sha256; `regular` only those logged because their
    time had come, not for what they show. Pictures and embeddings, most of the bytes, are read only when they
    are asked for.
    """
    unread = {name for name, asked in (("picture", pictures), ("embedding", embeddings)) if not asked}
    wanted = "WHERE (? = '' OR version = ?) AND (regular OR NOT ?)"
    try:
        with closing(open_log(path, new=False)) as database:
            unread |= lacking(database)
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
        with closing(open_log(path, new=False)) as database:
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
    if not 0 <= float(time) < LAST:
        raise ValueError("a time is none")
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


def _cost(row: Seen) -> int:
    """How many bytes of the write-ahead log a row takes at most; each page there has 24 more."""
    embedding = 0 if row.embedding is None else row.embedding.size
    data = len(row.picture or b"") + embedding + row.probabilities.nbytes + len(row.path)
    return data + data // 100 + EXTRA


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
