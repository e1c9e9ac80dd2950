"""A field log that is moved away or deleted while it is written: no row is lost, and a warning says so."""

from __future__ import annotations

import os
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from catflap.artifacts.field_log import FieldLog
from catflap.errors import BadArtifact
from tests.artifacts.test_field_log import MB, numbers, seen, write

WRITER = """
import sys
from pathlib import Path
from catflap.artifacts.field_log import FieldLog
from catflap.errors import BadArtifact
from tests.artifacts.test_field_log import seen
log = FieldLog(Path(sys.argv[1]), limit=10**8, note=lambda text: print(text, flush=True))
for line in sys.stdin:
    for number in range(*map(int, line.split())):
        log.add(seen(number))
log.close()
"""


@contextmanager
def writing(path: Path, repo: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """A process that writes the rows `FIRST LAST` of each line on stdin, and its warnings."""
    environment = {**os.environ, "PYTHONPATH": f"{repo}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdin, process.stdout
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def next_line(reported: IO[str]) -> str:
    assert select.select([reported], [], [], 30)[0], "no warning came"
    return reported.readline()


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def has(path: Path, count: int) -> Callable[[], bool]:
    def there() -> bool:
        with suppress(BadArtifact):  # while it is begun it is none yet
            return len(numbers(path)) == count
        return False

    return there


def test_a_log_that_is_moved_away_keeps_its_rows_and_a_new_one_is_begun(tmp_path: Path, repo: Path) -> None:
    path, old = tmp_path / "field.log", tmp_path / "field.log.1"
    with writing(path, repo) as (first, reported), writing(path, repo) as (second, told_too):
        first.write("0 10\n")
        second.write("10 20\n")
        eventually(has(path, 20))
        path.rename(old)
        for notes in (reported, told_too):
            assert next_line(notes) == f"{path} was moved or deleted; a new log is begun.\n"
        assert sorted(numbers(old)) == list(range(20)), "it is whole once the warning is out"
        first.write("20 30\n")
        second.write("30 40\n")
        eventually(has(path, 20))
        write(path, [seen(40)])
    assert sorted(numbers(old)) == list(range(20))
    assert sorted(numbers(path)) == list(range(20, 41))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["field.log", "field.log.1"]


@pytest.mark.slow
def test_a_log_that_somebody_else_begins_anew_has_no_part_of_the_old_one(tmp_path: Path, repo: Path) -> None:
    path, old = tmp_path / "field.log", tmp_path / "field.log.1"
    for turn in range(3):
        with writing(path, repo) as (first, reported):
            first.write("0 10\n")
            eventually(has(path, 10))
            path.rename(old)
            with writing(path, repo) as (second, _):  # often before the first one has looked
                second.write("20 30\n")
                first.write("10 20\n")
            assert "a new log is begun" in next_line(reported)
        found = sorted(numbers(old)), sorted(numbers(path))
        assert sorted([*found[0], *found[1]]) == list(range(30)), turn
        assert set(range(10)) <= set(found[0])
        assert set(range(20, 30)) <= set(found[1])
        path.unlink()
        old.unlink()


def test_a_log_that_is_deleted_is_begun_anew_and_that_is_told(tmp_path: Path) -> None:
    path, notes = tmp_path / "field.log", list[str]()
    log = FieldLog(path, limit=MB, note=notes.append)
    log.add(seen(0))
    eventually(has(path, 1))
    path.unlink()
    eventually(lambda: len(notes) == 1)
    log.add(seen(1))
    log.close()
    assert notes == [f"{path} was moved or deleted; a new log is begun."]
    assert numbers(path) == [1]
    assert log.lost == 0


@pytest.mark.slow
def test_what_is_put_at_the_place_of_a_log_and_is_none_is_left_alone(tmp_path: Path) -> None:
    path, notes = tmp_path / "field.log", list[str]()
    log = FieldLog(path, limit=MB, note=notes.append)
    log.add(seen(0))
    eventually(has(path, 1))
    path.rename(tmp_path / "old")
    (tmp_path / "holiday").write_text("somebody's letter")
    (tmp_path / "holiday").replace(path)
    eventually(lambda: bool(notes))
    log.add(seen(1))
    eventually(lambda: log.lost == 1)
    assert path.read_text() == "somebody's letter"
    path.unlink()
    log.add(seen(2))
    eventually(lambda: "is written again; 1 rows are lost" in notes[-1])
    log.close()
    assert (numbers(tmp_path / "old"), numbers(path)) == ([0], [2])
    assert "cannot be written" in notes[1] or "cannot be written" in notes[0]


@pytest.mark.slow
def test_moving_a_log_waits_for_its_readers(tmp_path: Path) -> None:
    path, old, notes = tmp_path / "field.log", tmp_path / "old", list[str]()
    log = FieldLog(path, limit=MB, note=notes.append)
    log.add(seen(0))
    eventually(has(path, 1))
    with closing(sqlite3.connect(path)) as database:
        database.execute("BEGIN")
        assert database.execute("SELECT count(*) FROM seen").fetchone() == (1,)
        log.add(seen(1))
        eventually(has(path, 2))
        path.rename(old)
        log.add(seen(2))
        time.sleep(1.5)  # it looks about twice a second
        assert notes == []
        assert not path.exists()
    eventually(lambda: len(notes) == 1)
    log.add(seen(3))
    log.close()
    assert (numbers(old), numbers(path)) == ([0, 1, 2], [3])
