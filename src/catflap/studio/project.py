"""The project of a Studio: a folder whose SQLite file has photos, labels, decisions with undo, and jobs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from catflap.artifacts.folder import try_lock, unwritable, write_atomically
from catflap.data.listing import check_labels
from catflap.errors import CatflapError, first_line

FILE, BACKUP, LOCK = "project.sqlite", "backup.sqlite", "studio.lock"
OURS = {
    FILE,
    BACKUP,
    LOCK,
    f"{FILE}-wal",
    f"{FILE}-shm",
    "photos",
    "inbox",
    "cache",
    "jobs",
    "models",
    "secret",
}
APPLICATION, VERSION = 0x43415446, 1  # in the head of the SQLite file
ASIDE = ""  # the label of a photo that a person left out
SCHEMA = """
create table photos (
  n integer primary key, id text not null unique, place text not null, name text not null,
  bytes integer not null, width integer not null, height integer not null, phash blob, thumb blob,
  stack integer not null, label text, remarks text not null, added real not null,
  predicted text, predicted_probability real
);
create index photos_stack on photos (stack);
create index photos_label on photos (label);
create table refused (
  n integer primary key, name text not null, reason text not null, sentence text not null, added real not null
);
create table labels (n integer primary key, name text not null unique);
create table decisions (
  n integer primary key, at real not null, what text not null, key text unique,
  undone integer not null default 0
);
create table changes (
  decision integer not null references decisions (n) on delete cascade, photo integer not null,
  before text, after text
);
create index changes_decision on changes (decision);
create table jobs (
  n integer primary key, kind text not null, command text not null, settings text not null,
  state text not null,  started real not null, ended real, answer text
);
"""
LATER = {"predicted": "text", "predicted_probability": "real"}  # columns that the first projects lack


@dataclass(frozen=True)
class NewPhoto:
    """A photo to add: where it lies, relative to the project or absolute, and its row of a Manifest.

    `predicted` is what a Bundle answered about it in the field, with the probability: no label, but a
    suggestion.
    """

    place: str
    name: str
    label: str | None
    row: dict[str, Any]
    predicted: tuple[str, float] | None = None


class Project:
    """An open project. Every change is one transaction, so that a kill loses none that was answered.

    One process at a time has it open; any thread may use it.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self._database = database
        self._lock_file = lock
        self._lock = RLock()
        self.revision = 0  # of labels: grows with every decision

    def close(self) -> None:
        """Close the file and let another Studio open the project."""
        with self._lock:
            self._database.close()
        os.close(self._lock_file)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._database.execute("begin immediate")
                yield self._database
                self._database.execute("commit")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    self._database.execute("rollback")
                if isinstance(error, sqlite3.OperationalError):  # a full disk
                    raise CatflapError(
                        f"The project cannot be written: {first_line(error)}.",
                        f"Make room on the disk of {self.path}; what was answered before is safe.",
                    ) from error
                raise

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query."""
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def note_address(self, address: str) -> None:
        """Write the address of the Studio that has the project open into its lock file."""
        os.ftruncate(self._lock_file, 0)
        os.pwrite(self._lock_file, address.encode(), 0)

    # --- Photos

    def add_photos(self, photos: Sequence[NewPhoto]) -> list[dict[str, Any]]:
        """Add photos; returns for each its number, and what is special: "known" or "two_labels".

        The bytes of a known photo are not added again; it takes the label if it has none.
        """
        answers = []
        with self._transaction() as database:
            self._add_labels(database, {photo.label for photo in photos if photo.label})
            now, labelled = time.time(), []
            for photo in photos:
                row = photo.row
                known = database.execute("select n, label from photos where id = ?", (row["id"],)).fetchone()
                if known is None:
                    hashed = row["phash"]
                    cursor = database.execute(
                        "insert into photos (id, place, name, bytes, width, height, phash, thumb, stack, "
                        "label, remarks, added, predicted, predicted_probability) "
                        "values (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
                        (
                            row["id"], photo.place, photo.name, row["bytes"], row["width"], row["height"],
                            None if hashed is None else int(hashed).to_bytes(8, "big"), row["thumb"],
                            photo.label, row["reason"], now, *(photo.predicted or (None, None)),
                        ),
                    )  # fmt: skip
                    number = cursor.lastrowid
                    database.execute("update photos set stack = n where n = ?", (number,))
                    answers.append({"photo": number, "name": photo.name})
                    continue
                answer = {"photo": known["n"], "name": photo.name, "special": "known"}
                if photo.label and known["label"] is None:
                    labelled.append((known["n"], None, photo.label))
                elif photo.label and known["label"] not in (photo.label, None):
                    answer["special"] = "two_labels"
                answers.append(answer)
            if labelled:
                self._record(database, "imported again with a label", None, labelled)
            self.revision += 1
        return answers

    def refuse(self, refused: Iterable[tuple[str, str]]) -> None:
        """Note photos that could not be used: name, and reason as a Manifest states it."""
        now = time.time()
        rows = [(name, *_split_reason(reason), now) for name, reason in refused]
        with self._transaction() as database:
            database.executemany(
                "insert into refused (name, reason, sentence, added) values (?, ?, ?, ?)", rows
            )

    def latest_refused(self, most: int) -> list[dict[str, Any]]:
        """Name, reason and sentence of the photos that were refused last."""
        rows = self.rows("select name, reason, sentence from refused order by n desc limit ?", (most,))
        return [dict(row) for row in rows]

    def clear_refused(self) -> None:
        """Forget the list of refused photos."""
        with self._transaction() as database:
            database.execute("delete from refused")

    def place_of(self, number: int) -> Path | None:
        """The file of a photo; None for a number that no photo has."""
        found = self.rows("select place from photos where n = ?", (number,))
        return self.path / found[0]["place"] if found else None

    def photos_of_screen(self, show: str, like: int | None = None) -> list[int]:
        """The numbers of photos, one a stack: of those without a label ("open"), or what else `show` names.

        "all", "aside", "field" (open, with an answer of the field), "label:NAME", "suspects" (labelled), or
        "expanded" for each photo of the stack of `like`.
        """
        if show == "expanded" and like is not None:
            rows = self.rows(
                "select n from photos where stack = (select stack from photos where n = ?) order by n", [like]
            )
            return [row["n"] for row in rows]
        condition, values = "label is null", list[Any]()
        if show == "suspects":
            condition = "label != ''"
        elif show == "all":
            condition = "1"
        elif show == "aside":
            condition = "label = ''"
        elif show == "field":
            condition = "label is null and predicted is not null"
        elif show.startswith("label:"):
            condition, values = "label = ?", [show.removeprefix("label:")]
        rows = self.rows(
            f"select min(n) as n from photos where {condition} group by stack order by 1", values
        )
        return [row["n"] for row in rows]

    def describe(self, photos: Sequence[int]) -> list[dict[str, Any]]:
        """What a grid shows of photos that exist: label, name, size, field answer, how many its stack has."""
        rows = self.rows(
            "select p.n, p.label, p.name, p.width, p.height, p.remarks, p.stack, p.predicted, "
            "p.predicted_probability, "
            "(select count(*) from photos s where s.stack = p.stack) as alike "
            f"from photos p where p.n in ({','.join('?' * len(photos))})",
            photos,
        )
        return [dict(row) for row in rows]

    def open_photos(self) -> list[int]:
        """The numbers of the photos without a label, of every photo in a stack."""
        return [row["n"] for row in self.rows("select n from photos where label is null")]

    def labels_by_number(self) -> dict[int, str | None]:
        """The label of each photo."""
        return {row["n"]: row["label"] for row in self.rows("select n, label from photos")}

    def numbers_by_id(self) -> dict[str, int]:
        """The number of each photo by its id."""
        return {row["id"]: row["n"] for row in self.rows("select n, id from photos")}

    def set_stacks(self, stacks: Iterable[tuple[int, int]]) -> None:
        """Note the stack of photos: (photo, the first photo that shows the same)."""
        with self._transaction() as database:
            database.executemany("update photos set stack = ?2 where n = ?1 and stack != ?2", stacks)

    # --- Labels and decisions

    def add_label(self, name: str) -> None:
        """Add a label; CatflapError for a name that no classifier may have."""
        with self._transaction() as database:
            self._add_labels(database, {name})

    def _add_labels(self, database: sqlite3.Connection, names: set[str]) -> None:
        there = {row["name"] for row in database.execute("select name from labels")}
        if new := names - there:
            check_labels(there | new, least=1)
            database.executemany("insert into labels (name) values (?)", [(name,) for name in sorted(new)])

    def remove_label(self, name: str) -> None:
        """Remove a label that no photo has; CatflapError otherwise."""
        with self._transaction() as database:
            used = database.execute("select count(*) from photos where label = ?", (name,)).fetchone()[0]
            if used:
                raise CatflapError(
                    f"{used:,} photos have the label {name!r}.", "Give them another label first."
                )
            database.execute("delete from labels where name = ?", (name,))

    def decide(
        self, photos: Sequence[int], label: str | None, *, key: str | None = None, with_stacks: bool = True
    ) -> int:
        """Give photos a label (ASIDE leaves them out, None takes it away); returns how many changed.

        Near-duplicates in the same stacks get it, too. A `key` that is known changes nothing, so that a
        client that got no answer can send its decision again.
        """
        with self._transaction() as database:
            if label:
                self._add_labels(database, {label})
            if key and database.execute("select 1 from decisions where key = ?", (key,)).fetchone():
                return 0
            changes = []
            for number in dict.fromkeys(photos):
                for row in database.execute(
                    "select n, label from photos where stack = (select stack from photos where n = ?)"
                    if with_stacks
                    else "select n, label from photos where n = ?",
                    (number,),
                ):
                    if row["label"] != label:
                        changes.append((row["n"], row["label"], label))
            changes = list(dict.fromkeys(changes))
            if changes:
                shown = {ASIDE: "leave out", None: "remove label"}.get(label, label)
                self._record(database, f"{shown}: {len(changes)}", key, changes)
            return len(changes)

    def _record(
        self,
        database: sqlite3.Connection,
        what: str,
        key: str | None,
        changes: Sequence[tuple[int, str | None, str | None]],
    ) -> None:
        """Carry out changes (photo, before, after) and append them to the history; drop undone ones."""
        database.execute("delete from changes where decision in (select n from decisions where undone)")
        database.execute("delete from decisions where undone")
        cursor = database.execute(
            "insert into decisions (at, what, key) values (?, ?, ?)", (time.time(), what, key)
        )
        database.executemany(
            "insert into changes values (?, ?, ?, ?)", [(cursor.lastrowid, *change) for change in changes]
        )
        database.executemany(
            "update photos set label = ? where n = ?", [(after, photo) for photo, _, after in changes]
        )
        self.revision += 1

    def undo(self, *, redo: bool = False) -> list[int]:
        """Take back the last decision, or with `redo` the last undo; returns the photos, [] at the end."""
        order, value = ("asc", "after") if redo else ("desc", "before")
        with self._transaction() as database:
            found = database.execute(
                f"select n from decisions where undone = ? order by n {order} limit 1", (int(redo),)
            ).fetchone()
            if found is None:
                return []
            changes = database.execute(
                f"select photo, {value} as label from changes where decision = ?", (found["n"],)
            ).fetchall()
            database.executemany(
                "update photos set label = ? where n = ?", [(row["label"], row["photo"]) for row in changes]
            )
            database.execute("update decisions set undone = ? where n = ?", (int(not redo), found["n"]))
            self.revision += 1
            return [row["photo"] for row in changes]

    def summary(self) -> dict[str, Any]:
        """What the page shows at all times: counts by label, history, refused photos."""
        with self._lock:
            counts = {
                row["label"]: (row["photos"], row["stacks"])
                for row in self.rows(
                    "select label, count(*) as photos, count(distinct stack) as stacks from photos "
                    "group by label"
                )
            }
            names = [row["name"] for row in self.rows("select name from labels order by n")]
            refused = self.rows(
                "select reason, count(*) as count from refused group by reason order by 2 desc"
            )
            next_undo = self.rows("select what from decisions where not undone order by n desc limit 1")
            next_redo = self.rows("select what from decisions where undone order by n limit 1")
            return {
                "labels": [
                    {
                        "name": name,
                        "photos": counts.get(name, (0, 0))[0],
                        "stacks": counts.get(name, (0, 0))[1],
                    }
                    for name in names
                ],
                "photos": sum(photos for photos, _ in counts.values()),
                "open": counts.get(None, (0, 0))[0],
                "aside": counts.get(ASIDE, (0, 0))[0],
                "field": self.rows(
                    "select count(*) from photos where predicted is not null and label is null"
                )[0][0],
                "refused": {row["reason"]: row["count"] for row in refused},
                "undo": next_undo[0]["what"] if next_undo else None,
                "redo": next_redo[0]["what"] if next_redo else None,
                "revision": self.revision,
            }

    # --- Jobs

    def add_job(self, kind: str, command: Sequence[str], settings: dict[str, Any]) -> int:
        """Note a job that is about to start; returns its number."""
        with self._transaction() as database:
            cursor = database.execute(
                "insert into jobs (kind, command, settings, state, started) values (?, ?, ?, 'running', ?)",
                (kind, json.dumps(command), json.dumps(settings), time.time()),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def set_job(self, number: int, state: str, answer: dict[str, Any] | None = None) -> None:
        """Note how a job goes on or ended."""
        ended = None if state == "running" else time.time()
        with self._transaction() as database:
            database.execute(
                "update jobs set state = ?, ended = ?, answer = ? where n = ?",
                (state, ended, None if answer is None else json.dumps(answer), number),
            )

    def write_list(self, out: Path) -> dict[str, int]:
        """Write the labelled photos as a list that `scan` reads; returns the number of photos by label."""
        import csv
        import io

        rows = self.rows("select place, label, stack from photos where label != '' order by n")
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["path", "label", "group"])
        counts: dict[str, int] = {}
        for row in rows:
            writer.writerow([str(self.path.absolute() / row["place"]), row["label"], f"stack {row['stack']}"])
            counts[row["label"]] = counts.get(row["label"], 0) + 1
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.getvalue().encode())
        return counts

    def copy_labelled(self, target: Path) -> dict[str, int]:
        """Copy the labelled photos as class folders into a new folder; returns their number by label.

        CatflapError when the folder exists, is no whole path or cannot be written.
        """
        if not target.is_absolute() or target.exists():
            raise CatflapError(
                f"{target} exists, or is no whole path.", "Name a new folder, such as /home/me/cats."
            )
        part = target.with_name(f".{target.name}.part")
        counts: dict[str, int] = {}
        try:
            shutil.rmtree(part, ignore_errors=True)
            for row in self.rows("select place, label, id from photos where label != '' order by n"):
                place = self.path / row["place"]
                folder = part / row["label"].replace("/", "∕").lstrip(".")
                folder.mkdir(parents=True, exist_ok=True)
                if place.is_file():
                    shutil.copyfile(place, folder / f"{row['id'][:16]}{place.suffix}")
                    counts[row["label"]] = counts.get(row["label"], 0) + 1
            part.rename(target)
        except OSError as error:
            raise unwritable(target, error) from error
        return counts


def _split_reason(reason: str) -> tuple[str, str]:
    word, _, sentence = reason.partition(": ")
    return word, sentence


def open_project(path: Path) -> Project:
    """Open the project in a folder, or make one in a new or empty folder.

    Raises CatflapError when another Studio has it open, when the folder has other files, and when the file is
    damaged or of a newer Catflap.
    """
    file = path / FILE
    if path.exists() and not file.exists():
        if not path.is_dir():
            raise CatflapError(f"{path} is not a folder.", "Name a new folder for the project.")
        if others := sorted(entry.name for entry in path.iterdir() if entry.name not in OURS):
            raise CatflapError(
                f"{path} is no Studio project; it has {', '.join(others[:3])}.",
                "Name a new folder, and import these photos in its page.",
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unwritable(path, error) from error
    if not try_lock(lock):
        where = os.pread(lock, 200, 0).decode("utf-8", "replace")
        os.close(lock)
        raise CatflapError(
            f"Another Studio has {path} open{f' at {where}' if where else ''}.",
            "Use that one, or stop it first.",
        )
    try:
        return Project(path, _open_database(file), lock)
    except BaseException:
        os.close(lock)
        raise


def _open_database(file: Path) -> sqlite3.Connection:
    is_new = not file.exists()
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=10)
    database.row_factory = sqlite3.Row
    try:
        application = database.execute("pragma application_id").fetchone()[0]
        version = database.execute("pragma user_version").fetchone()[0]
        if not is_new and version > VERSION and application == APPLICATION:
            raise CatflapError(
                f"{file.parent} was made by a newer Catflap: version {version}, this one knows {VERSION}.",
                "Run: pip install --upgrade catflap",
            )
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        if application != APPLICATION:
            if database.execute("select count(*) from sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("it is not a Studio project")
            database.executescript(
                f"begin; {SCHEMA} pragma application_id = {APPLICATION}; "
                f"pragma user_version = {VERSION}; commit;"
            )
        there = {row["name"] for row in database.execute("pragma table_info(photos)")}
        for column in LATER.keys() - there:
            database.execute(f"alter table photos add column {column} {LATER[column]}")
        found = database.execute("pragma quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        _back_up(database, file.with_name(BACKUP))
    except sqlite3.Error as error:
        database.close()
        backup = file.with_name(BACKUP)
        raise CatflapError(
            f"{file} is damaged: {first_line(error)}. The photos are safe: they lie in "
            f"{file.parent / 'photos'} or where they were imported from.",
            f"Copy {backup} over it: that is the project when it was last opened."
            if backup.exists()
            else f"Rename {file} and import the photos again.",
        ) from error
    except BaseException:
        database.close()
        raise
    return database


def _back_up(database: sqlite3.Connection, out: Path) -> None:
    """Keep a copy of a sound project file, under a temporary name until it is whole."""
    part = out.with_suffix(".part")
    part.unlink(missing_ok=True)
    copy = sqlite3.connect(part)
    try:
        database.backup(copy)
    finally:
        copy.close()
    part.replace(out)
