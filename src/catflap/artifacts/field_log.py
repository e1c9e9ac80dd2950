"""The FieldLog: what a Bundle answered in the field, in one SQLite file; its rows, its writer and its reader.

It is the one artefact that grows: rows are added while a camera or a server runs. SQLite's write-ahead
log keeps it whole when the process is killed; what was committed, about every half second, is there.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Thread
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from catflap.artifacts.folder import try_lock
from catflap.errors import BadArtifact, CatflapError, system_reason

APPLICATION = 0x43415446  # "CATF", which SQLite keeps in the head of the file
VERSION = 1
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
"""  # the tables and columns keep their names, so that older logs are read: look holds the image statistics
ROW = "time, photo, probabilities, decision, verb, regular, path, picture, look, embedding, strangeness"
LATER = {"look": "BLOB", "embedding": "BLOB", "strangeness": "REAL"}  # columns that the first logs lack
LAST = 1e11  # seconds since 1970, in the year 5138; a later time is invalid

WRITERS_SECONDS = 10.0  # to wait for other writers
FOLDER_SECONDS = 1.0  # to wait for a folder, which a verb that writes into it may hold for long
READERS_SECONDS = 0.5  # to wait for those who read
COMMIT_SECONDS = 0.5  # between two commits
NOTE_SECONDS = 60.0  # between two notes on rows that are lost
QUEUED = 500  # rows that may wait for the disk; then the newest are lost
STEP = 800_000  # bytes that a transaction writes, at most; a small log has less
WAL_STEPS = 5  # steps that the write-ahead log may hold
LARGEST_STEPS = 5  # steps that a single row may take
ROW_BYTES = (
    16_384  # bytes that a row changes besides its own, at most: in the tree, the index, the free pages
)
SHARED_BYTES = 32_768  # of the file that SQLite's processes share


@dataclass(frozen=True)
class LogModel:
    """What answered: the bundle's name and sha256, its variant and labels, and the prior that was stated."""

    bundle: str
    version: str
    variant: str
    labels: tuple[str, ...]
    prior: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class LogRow:
    """A photo and the answer: `time` in seconds since 1970, `photo` the sha256 of its bytes.

    `probabilities` are (labels,) as answered; `verb` is predict, watch, serve or shadow. `regular` is
    False for a photo that was logged because of what it shows. `path` is its file, where it has one;
    `picture` a JPEG of it, where those are kept; `image_statistics` are those of its frame, where they were
    measured; `embedding` the features of the network (width,), which are kept to a 254th of the largest, and
    `ood_score` how far they are from those of its label, where the variant has them.
    """

    time: float
    photo: str
    model: LogModel
    probabilities: npt.NDArray[np.float32]
    decision: str
    verb: str
    regular: bool = True
    path: str = ""
    picture: bytes | None = None
    image_statistics: tuple[float, ...] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    ood_score: float | None = None


class FieldLog:
    """A log that is written to: `add` never waits for the disk, and a full disk raises no error.

    The file and the two that SQLite keeps beside it have at most `limit` bytes, 1,000,000 or more; the oldest
    rows go first. For that a transaction writes a step or one row, the write-ahead log (-wal) is checkpointed
    when it has five, and the pages in use leave room for both. That cannot be done while another process
    reads. `note` is called when rows are lost, at once and then every minute, and when the log is written
    again.

    When the file is moved or deleted a new one is begun within about half a second, which is noted; what
    the old one has in its -wal is checkpointed before.
    """

    def __init__(self, path: Path, *, limit: int, note: Callable[[str], None]) -> None:
        self.path = path
        self.lost = 0
        self._step = min(limit // 100, STEP)
        self._room = limit - (WAL_STEPS + LARGEST_STEPS) * self._step - SHARED_BYTES
        self._note = note
        self._failing = False
        self._noted = 0  # how many of the lost rows a note has named
        self._note_due = 0.0  # when the next note on lost rows may come
        self._waiting: deque[LogRow] = deque()
        self._news = Condition()
        self._closed = False
        self._models: dict[LogModel, int] = {}
        self._reading = 0.0  # until when a reader is assumed, on the monotonic clock
        self._open()
        self._thread = Thread(target=self._run, name="field log", daemon=True)
        self._thread.start()

    def add(self, row: LogRow) -> None:
        """Take a row; it is on its way to the disk."""
        with self._news:
            is_full = len(self._waiting) >= QUEUED
            if is_full:
                self.lost += 1
            else:
                self._waiting.append(row)
            if len(self._waiting) >= QUEUED // 2:
                self._news.notify()
        if is_full:
            self._note_lost("the disk is too slow")

    def close(self) -> None:
        """Write what waits and close the file."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(30)
        self._note_due = 0.0
        self._note_lost("the disk was too slow")

    def _open(self) -> None:
        self._database = _open_database(self.path)
        self._file = _file_id(self.path)
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
                    self._news.wait_for(
                        lambda: self._closed or len(self._waiting) >= QUEUED // 2, COMMIT_SECONDS
                    )
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
        """Begin a new log when the file is no longer at its path; the old one is completed where it is."""
        if self._file is not None:
            if self._file == _file_id(self.path):
                return
            kept = ""
            try:
                if not self._emptied():
                    return  # it is being read; new rows are written there, too
            except sqlite3.Error as error:
                kept = f" The old one lacks its last rows: {error}."
            self._database.close()
            self._models.clear()
            self._reading, self._file = 0.0, None
            self._note(f"{self.path} was moved or deleted; a new log is begun.{kept}")
        self._open()

    def _shrink(self) -> None:
        """Make the file smaller where an earlier limit was greater."""
        try:
            if self._number("page_count") * self._number("page_size") > self._room:
                while self._used() > self._room:
                    with self._database:
                        if not self._trim():
                            break
                    self._checkpoint_when_long()
                self._database.execute("VACUUM")
                self._checkpoint_when_long()
        except sqlite3.Error as error:
            self._database.rollback()
            self._note(f"{self.path} is above its limit and cannot be made smaller: {error}.")

    def _write(self, rows: list[LogRow]) -> None:
        left = len(rows)
        try:
            for chunk, size in self._chunks(rows):
                while not self._insert(chunk, size):
                    self._checkpoint_when_long()
                left -= len(chunk)
                self._checkpoint_when_long()
        except (sqlite3.Error, OSError, ValueError) as error:
            with self._news:
                self.lost += left
            self._models.clear()  # what was rolled back has no number
            self._fail(error)
            return
        if self._failing:
            self._failing, self._noted = False, self.lost
            self._note(f"{self.path} is written again; {self.lost} rows are lost.")

    def _fail(self, error: Exception) -> None:
        why = str(error).rstrip(".")
        if self._failing:
            self._note_lost(why)
            return
        self._failing, self._noted, self._note_due = True, self.lost, monotonic() + NOTE_SECONDS
        self._note(f"{self.path} cannot be written: {why}. The work goes on without its log.")

    def _note_lost(self, why: str) -> None:
        """Note rows that are lost, at once and then every minute."""
        with self._news:
            count = self.lost - self._noted
            if not count or monotonic() < self._note_due:
                return
            self._noted, self._note_due = self.lost, monotonic() + NOTE_SECONDS
        self._note(f"{self.path} lacks {count} rows: {why}.")

    def _chunks(self, rows: list[LogRow]) -> Iterator[tuple[list[LogRow], int]]:
        """Rows of about a step together, without a picture that is too large; how many bytes they write."""
        chunk: list[LogRow] = []
        size = 0
        for row in rows:
            kept = row if _cost(row) <= LARGEST_STEPS * self._step else replace(row, picture=None)
            if chunk and size + _cost(kept) > self._step:
                yield chunk, size
                chunk, size = [], 0
            chunk.append(kept)
            size += _cost(kept)
        yield chunk, size

    def _insert(self, rows: list[LogRow], size: int) -> bool:
        """Insert rows; where they have no room delete some of the oldest instead and return False."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if self._used() + size > self._room and self._trim():
                return False
            for row in rows:
                statistics = row.image_statistics
                values = (
                    row.time, row.photo, row.probabilities.astype("<f4").tobytes(), row.decision, row.verb,
                    row.regular, row.path, row.picture,
                    None if statistics is None else np.array(statistics, "<f4").tobytes(),
                    _quantised(row.embedding), row.ood_score, self._model_id(row.model),
                )  # fmt: skip
                self._database.execute(
                    f"INSERT INTO seen ({ROW}, judge) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", values
                )
        return True

    def _model_id(self, model: LogModel) -> int:
        if model not in self._models:
            labels, prior = json.dumps(model.labels), json.dumps(model.prior)
            values = (model.bundle, model.version, model.variant, labels, prior)
            self._database.execute(
                "INSERT OR IGNORE INTO judge (bundle, version, variant, labels, prior) VALUES (?,?,?,?,?)",
                values,
            )
            found = self._database.execute(
                "SELECT id FROM judge WHERE version = ? AND variant = ? AND prior = ?",
                (values[1], values[2], values[4]),
            )
            self._models[model] = int(found.fetchone()[0])
        return self._models[model]

    def _trim(self) -> bool:
        """Delete some of the oldest rows, whose pages are used again; False when there are none."""
        query = "DELETE FROM seen WHERE id IN (SELECT id FROM seen ORDER BY id LIMIT ?)"
        return self._database.execute(query, (max(1, self._step // ROW_BYTES),)).rowcount > 0

    def _checkpoint_when_long(self) -> None:
        """Checkpoint the write-ahead log once it is long; wait a moment for those who read."""
        if monotonic() < self._reading:
            return
        end = monotonic() + READERS_SECONDS
        with suppress(FileNotFoundError):
            while self._wal.stat().st_size > WAL_STEPS * self._step:
                if self._emptied():
                    return
                if monotonic() > end:
                    self._reading = monotonic() + 4 * READERS_SECONDS  # to write rows meanwhile
                    return
                sleep(0.005)

    def _emptied(self) -> bool:
        """Empty the write-ahead log into the file; False when a reader prevents that."""
        self._database.execute(f"PRAGMA busy_timeout = {READERS_SECONDS * 1e3:.0f}")
        try:
            return not self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            self._database.execute(f"PRAGMA busy_timeout = {WRITERS_SECONDS * 1e3:.0f}")

    def _used(self) -> int:
        pages, free, size = map(self._number, ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size

    def _number(self, name: str) -> int:
        return _pragma(self._database, name)


def read_field_log(
    path: Path,
    *,
    version: str = "",
    regular: bool = False,
    pictures: bool = False,
    embeddings: bool = False,
) -> Iterator[LogRow]:
    """The rows of a FieldLog, the oldest first; BadArtifact when it is damaged or not a field log.

    `version` keeps only the rows of the bundle with this sha256; `regular` only those logged because their
    time had come, not for what they show. Pictures and embeddings, most of the bytes, are read only when they
    are asked for.
    """
    unread = {name for name, asked in (("picture", pictures), ("embedding", embeddings)) if not asked}
    wanted = "WHERE (? = '' OR version = ?) AND (regular OR NOT ?)"
    try:
        with closing(_open_database(path, new=False)) as database:
            unread |= _missing_columns(database)
            columns = ", ".join("NULL" if name in unread else name for name in ROW.split(", "))
            query = (
                f"SELECT {columns}, bundle, version, variant, labels, prior "
                f"FROM seen JOIN judge ON judge.id = seen.judge {wanted} ORDER BY seen.id"
            )
            for row in database.execute(query, (version, version, regular)):
                yield _row_of(row)
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise BadArtifact(f"{path} is damaged: {error}.", "Move it away; a new log is begun.") from error


def read_picture(path: Path, photo: str) -> bytes | None:
    """The picture that was kept of a photo, by the sha256 of the photo; None when there is none."""
    try:
        with closing(_open_database(path, new=False)) as database:
            query = "SELECT picture FROM seen WHERE photo = ? AND picture IS NOT NULL LIMIT 1"
            found = database.execute(query, (photo,)).fetchone()
    except sqlite3.Error as error:
        raise BadArtifact(f"{path} is damaged: {error}.", "Move it away; a new log is begun.") from error
    return found[0] if found and isinstance(found[0], bytes) else None


def _row_of(row: tuple[Any, ...]) -> LogRow:
    time, photo, blob, decision, verb, regular, where, picture, look, embedding, strangeness, *about = row
    bundle, version, variant, labels, prior = about
    model = LogModel(
        str(bundle), str(version), str(variant), tuple(map(str, json.loads(labels))),
        tuple((str(label), float(share)) for label, share in json.loads(prior)),
    )  # fmt: skip
    probabilities = np.frombuffer(blob, "<f4")
    if len(probabilities) != len(model.labels) or not np.isfinite(probabilities).all():
        raise ValueError("an answer does not have one number for each label")
    if picture is not None and not isinstance(picture, bytes):
        raise ValueError("a picture is not bytes")
    if not 0 <= float(time) < LAST:
        raise ValueError("a time is out of range")
    return LogRow(
        float(time),
        str(photo),
        model,
        probabilities,
        str(decision),
        str(verb),
        bool(regular),
        str(where),
        picture,
        None if look is None else tuple(np.frombuffer(look, "<f4").tolist()),
        None if embedding is None else _dequantised(embedding),
        None if strangeness is None else float(strangeness),
    )


def _cost(row: LogRow) -> int:
    """How many bytes of the write-ahead log a row takes at most; each page there has 24 more."""
    embedding = 0 if row.embedding is None else row.embedding.size
    data = len(row.picture or b"") + embedding + row.probabilities.nbytes + len(row.path)
    return data + data // 100 + ROW_BYTES


def _quantised(embedding: npt.NDArray[np.float32] | None) -> bytes | None:
    """An embedding in a byte a feature and four more: a float32 scale, then int8."""
    if embedding is None:
        return None
    scale = np.float32(np.abs(embedding).max() / 127)
    steps = np.rint(embedding / (scale or np.float32(1)))
    return bytes(scale.astype("<f4").tobytes() + steps.astype(np.int8).tobytes())


def _dequantised(blob: bytes) -> npt.NDArray[np.float32]:
    scale, steps = np.frombuffer(blob, "<f4", count=1), np.frombuffer(blob, np.int8, offset=4)
    if not len(steps) or not np.isfinite(scale[0]):
        raise ValueError("an embedding has no numbers")
    found: npt.NDArray[np.float32] = steps * scale
    return found


def _open_database(path: Path, *, new: bool = True) -> sqlite3.Connection:
    """The database; a new one is made where there is none, unless `new` is False."""
    try:
        if not new and not path.is_file():
            raise BadArtifact(f"There is no field log at {path}.", "Write one: catflap watch … --log FILE")
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
        place = path.resolve()
        if new:
            _create_file(place)
        address = f"file://{quote(os.fsencode(place))}?mode={'rwc' if new else _mode(place)}"
        database = sqlite3.connect(address, WRITERS_SECONDS, check_same_thread=False, uri=True)
    except (OSError, ValueError, RuntimeError, sqlite3.Error) as error:
        raise _cannot_open(path, error) from error
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        if new:
            _create_tables(database)
        if _pragma(database, "application_id") != APPLICATION:
            raise BadArtifact(f"{path} is not a field log.", "Choose another name.")
        if _pragma(database, "user_version") != VERSION:
            raise BadArtifact(f"{path} is a field log of another version.", "Choose another name.")
        for column in _missing_columns(database) if new else ():
            with suppress(sqlite3.OperationalError), database:  # another process was as quick
                database.execute(f"ALTER TABLE seen ADD COLUMN {column} {LATER[column]}")
        database.execute("PRAGMA synchronous = NORMAL")
    except (sqlite3.Error, BadArtifact) as error:
        with suppress(sqlite3.Error):
            database.close()
        raise error if isinstance(error, BadArtifact) else _cannot_open(path, error) from error
    return database


def _missing_columns(database: sqlite3.Connection) -> set[str]:
    """The columns that an older log lacks."""
    return set(LATER) - {row[1] for row in database.execute("PRAGMA table_info(seen)")}


def _file_id(path: Path) -> tuple[int, int] | None:
    """The device and number of a file, which stay when it is renamed; None where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _mode(path: Path) -> str:
    """SQLite's mode to read a log: rw; ro where it may not be written; immutable where nobody writes it.

    Another writer has a -wal file beside it.
    """
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "rw"
    return "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"


def _create_file(place: Path) -> None:
    """Make an empty file where there is none; -wal and -shm beside it are of a log that was moved away.

    A process that still writes that one keeps using them, though they have no name any more.
    """
    if place.exists():
        return
    with _folder_lock(place.parent):
        if not place.exists():  # no other process was as quick
            for suffix in ("-wal", "-shm"):
                Path(f"{place}{suffix}").unlink(missing_ok=True)
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT, 0o644))


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against others who begin a log in it; go on where that fails or takes long."""
    descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" and os.access(folder, os.R_OK) else None
    try:
        end = monotonic() + FOLDER_SECONDS
        while descriptor is not None and not try_lock(descriptor) and monotonic() < end:
            sleep(0.001)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _create_tables(database: sqlite3.Connection) -> None:
    """Make the tables of a new log, unless another process is as quick, which SQLite would not wait for."""
    end = monotonic() + WRITERS_SECONDS
    while _is_empty(database):
        try:
            database.execute("PRAGMA journal_mode = WAL")
            with database:
                database.executescript(f"BEGIN IMMEDIATE; {TABLES}")
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > end:
                raise
            sleep(0.01)


def _is_empty(database: sqlite3.Connection) -> bool:
    return not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _cannot_open(path: Path, error: Exception) -> CatflapError:
    why = system_reason(error)
    return CatflapError(
        f"The field log {path} cannot be opened: {why}.", "Check its path, or choose another."
    )


def _pragma(database: sqlite3.Connection, name: str) -> int:
    """A number that SQLite keeps about a database."""
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])
