"""The file of a FieldLog, opened: to be written, or to be read where it may not be written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

from catflap.artifacts.folder import try_lock
from catflap.errors import BadArtifact, CatflapError, system_reason

APPLICATION = 0x43415446  # "CATF", which SQLite keeps in the head of the file
VERSION = 1
PATIENCE = 10.0  # seconds to wait for other writers
HELD = 1.0  # seconds to wait for a folder, which a verb that writes into it may hold for long
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
LATER = {"look": "BLOB", "embedding": "BLOB", "strangeness": "REAL"}  # columns that the first logs lack


def open_log(path: Path, *, new: bool = True) -> sqlite3.Connection:
    """The database; a new one is made where there is none, unless `new` is False."""
    try:
        if not new and not path.is_file():
            raise BadArtifact(f"There is no field log at {path}.", "Write one: catflap watch … --log FILE")
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
        place = path.resolve()
        if new:
            _begin(place)
        address = f"file://{quote(os.fsencode(place))}?mode={'rwc' if new else _mode(place)}"
        database = sqlite3.connect(address, PATIENCE, check_same_thread=False, uri=True)
    except (OSError, ValueError, RuntimeError, sqlite3.Error) as error:
        raise _unusable(path, error) from error
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        if new:
            _fill(database)
        if pragma(database, "application_id") != APPLICATION:
            raise BadArtifact(f"{path} is not a field log.", "Choose another name.")
        if pragma(database, "user_version") != VERSION:
            raise BadArtifact(f"{path} is a field log of another version.", "Choose another name.")
        for column in lacking(database) if new else ():
            with suppress(sqlite3.OperationalError), database:  # another process was as quick
                database.execute(f"ALTER TABLE seen ADD COLUMN {column} {LATER[column]}")
        database.execute("PRAGMA synchronous = NORMAL")
    except (sqlite3.Error, BadArtifact) as error:
        with suppress(sqlite3.Error):
            database.close()
        raise error if isinstance(error, BadArtifact) else _unusable(path, error) from error
    return database


def lacking(database: sqlite3.Connection) -> set[str]:
    """The columns that a log from before them does not have."""
    return set(LATER) - {row[1] for row in database.execute("PRAGMA table_info(seen)")}


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from any other, under whatever name; None where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def pragma(database: sqlite3.Connection, name: str) -> int:
    """A number that SQLite keeps about a database."""
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _mode(path: Path) -> str:
    """SQLite's mode to read a log: rw; ro where it may not be written; immutable where nobody writes it.

    Whoever else writes it has a -wal file beside it.
    """
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "rw"
    return "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"


def _begin(place: Path) -> None:
    """Make an empty file where there is none; what lies beside it is of a log that was moved away.

    Whoever still writes that one goes on with its -wal and -shm, which have no name any more.
    """
    if place.exists():
        return
    with _alone(place.parent):
        if not place.exists():  # nobody was as quick
            for suffix in ("-wal", "-shm"):
                Path(f"{place}{suffix}").unlink(missing_ok=True)
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT, 0o644))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against others who begin a log in it; where that takes long or cannot be, go on."""
    descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" and os.access(folder, os.R_OK) else None
    try:
        end = monotonic() + HELD
        while descriptor is not None and not try_lock(descriptor) and monotonic() < end:
            sleep(0.001)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _fill(database: sqlite3.Connection) -> None:
    """Make the tables of a new log, unless another process is as quick, which SQLite would not wait for."""
    end = monotonic() + PATIENCE
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


def _unusable(path: Path, error: Exception) -> CatflapError:
    why = system_reason(error)
    return CatflapError(
        f"The field log {path} cannot be opened: {why}.", "Check its path, or choose another."
    )
