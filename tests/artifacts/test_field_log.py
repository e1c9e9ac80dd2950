"""The field log: whole after a kill, bounded, and no trouble for the work when the disk is full."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.field_log import FieldLog, LogModel, LogRow, read_field_log
from catflap.errors import BadArtifact, CatflapError

BY = LogModel("cat", "a" * 64, "int8", ("cat", "not_cat"))
MB = 1_000_000


def seen(number: int, by: LogModel = BY, picture: bytes | None = None, regular: bool = True) -> LogRow:
    share = np.float32(number % 100 / 100)
    probabilities = np.array([share, 1 - share], np.float32)
    return LogRow(
        1e9 + number, f"{number:064x}", by, probabilities, "unsure", "predict", regular, "", picture
    )


def write(path: Path, rows: list[LogRow], limit: int = 100 * MB) -> None:
    log = FieldLog(path, limit=limit, note=pytest.fail)
    for row in rows:
        log.add(row)
    log.close()
    assert log.lost == 0


def test_a_log_from_before_photos_had_looks_is_read_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / "field.log"
    write(path, [seen(0)])
    with closing(sqlite3.connect(path)) as database, database:
        for column in ("look", "embedding", "strangeness"):
            database.execute(f"ALTER TABLE seen DROP COLUMN {column}")
    assert [row.image_statistics for row in read_field_log(path, embeddings=True)] == [None]
    write(path, [replace(seen(1), image_statistics=(0.5, 0.25, 6.0))])
    assert [row.image_statistics for row in read_field_log(path, pictures=True)] == [None, (0.5, 0.25, 6.0)]


def test_a_log_from_before_photos_had_embeddings_is_read_and_written_on(tmp_path: Path) -> None:
    path, embedding = tmp_path / "field.log", np.linspace(0, 3, 1280, dtype=np.float32)
    write(path, [replace(seen(0), image_statistics=(0.5, 0.25, 6.0))])
    with closing(sqlite3.connect(path)) as database, database:
        for column in ("embedding", "strangeness"):
            database.execute(f"ALTER TABLE seen DROP COLUMN {column}")
    (row,) = read_field_log(path, embeddings=True)
    assert (row.image_statistics, row.embedding, row.ood_score) == ((0.5, 0.25, 6.0), None, None)
    write(path, [replace(seen(1), embedding=embedding, ood_score=0.75)])
    old, new = read_field_log(path, embeddings=True)
    assert (old.embedding, old.ood_score, new.ood_score) == (None, None, 0.75)
    assert new.embedding is not None
    assert np.abs(new.embedding - embedding).max() <= 3 / 254 + 1e-6
    assert [row.embedding for row in read_field_log(path)] == [None, None], "they are most of the bytes"


@pytest.mark.parametrize("values", [[0.0] * 7, [1e-30, -2e-30], [-5.0], [3e38, -3e38, 1e30]])
def test_an_embedding_is_kept_to_a_254th_of_its_greatest(values: list[float], tmp_path: Path) -> None:
    embedding = np.array(values, np.float32)
    write(tmp_path / "field.log", [replace(seen(0), embedding=embedding)])
    (row,) = read_field_log(tmp_path / "field.log", embeddings=True)
    assert row.embedding is not None
    assert row.embedding.dtype == np.float32
    assert np.abs(row.embedding - embedding).max() <= np.abs(embedding).max() / 250
    with closing(sqlite3.connect(tmp_path / "field.log")) as database:
        assert database.execute("SELECT length(embedding) FROM seen").fetchone()[0] == 4 + len(values)


def numbers(path: Path, **which: object) -> list[int]:
    return [int(row.photo, 16) for row in read_field_log(path, **which)]  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "field.log"
    other = LogModel("cat", "b" * 64, "fp32", ("cat", "not_cat"), (("cat", 0.1), ("not_cat", 0.9)))
    rows = [seen(0), seen(1, other, b"jpeg"), seen(2, regular=False)]
    write(path, rows)
    write(path, [seen(3)])
    found = list(read_field_log(path, pictures=True))
    assert [row.photo for row in found] == [f"{number:064x}" for number in range(4)]
    for row, wanted in zip(found, rows, strict=False):
        assert (row.time, row.model, row.decision, row.regular) == (
            wanted.time,
            wanted.model,
            "unsure",
            wanted.regular,
        )
        assert np.array_equal(row.probabilities, wanted.probabilities)
    assert found[1].picture == b"jpeg"
    assert next(iter(read_field_log(path))).picture is None
    assert numbers(path, version="b" * 64) == [1]
    assert numbers(path, regular=True) == [0, 1, 3]


def test_many_threads_and_two_processes_may_write(tmp_path: Path) -> None:
    path = tmp_path / "field.log"
    logs = [FieldLog(path, limit=100 * MB, note=pytest.fail) for _ in range(2)]

    def add(start: int) -> None:
        for number in range(start, start + 100):
            logs[number % 2].add(seen(number))
            time.sleep(0.001)

    threads = [threading.Thread(target=add, args=(100 * place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    assert sorted(numbers(path)) == list(range(400))


KILLED = """
import sys, time
from tests.artifacts.test_field_log import FieldLog, seen
from pathlib import Path
log = FieldLog(Path(sys.argv[1]), limit=10**9, note=print)
number = 0
while True:
    log.add(seen(number, picture=bytes(20_000)))
    number += 1
    time.sleep(0.0005)
    if number % 50 == 0:
        print(number, flush=True)
"""


def test_a_kill_leaves_it_whole(tmp_path: Path, repo: Path) -> None:
    path = tmp_path / "field.log"
    last = -1
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": f"{repo}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-c", KILLED, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert process.stdout
        while True:  # until rows of this process are on disk
            assert process.stdout.readline()
            if len(numbers(path)) > last + 1:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = len(numbers(path))
        assert found > last
        last = found
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    write(path, [seen(5)])
    assert len(numbers(path)) == last + 1


def test_rows_that_are_lost_are_counted_and_those_before_are_kept(tmp_path: Path) -> None:
    notes: list[str] = []
    log = FieldLog(tmp_path / "field.log", limit=MB, note=notes.append)
    for number in range(6):
        row = seen(number, picture=bytes(10_000))
        log.add(replace(row, path="\udcff") if number == 3 else row)
    log.close()
    kept = numbers(log.path)
    assert kept[:3] == [0, 1, 2]
    assert 3 not in kept
    assert log.lost == 6 - len(kept)
    assert "cannot be written" in notes[0]


@pytest.mark.slow
def test_a_full_disk_is_told_once_and_nothing_else_happens(mount_small: Callable[[str], Path]) -> None:
    small_disk = mount_small("1m")
    notes: list[str] = []
    path = small_disk / "field.log"
    log = FieldLog(path, limit=100 * MB, note=notes.append)
    ballast = small_disk / "ballast"
    log.add(seen(0))
    wait(lambda: numbers(path) == [0])
    ballast.write_bytes(bytes(700_000))
    for number in range(1, 30):
        log.add(seen(number, picture=bytes(100_000)))
    wait(lambda: bool(notes))
    ballast.unlink()
    wait(lambda: add_and_find(log, path))
    log.close()
    assert len(notes) == 2
    assert "full" in notes[0]
    assert "The work goes on" in notes[0]
    assert "is written again" in notes[1]


def add_and_find(log: FieldLog, path: Path) -> bool:
    log.add(seen(99))
    return 99 in numbers(path)


def wait(true: object) -> None:
    end = time.monotonic() + 60
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_writer_that_is_too_slow_loses_rows_and_not_memory(tmp_path: Path) -> None:
    notes: list[str] = []
    log = FieldLog(tmp_path / "field.log", limit=100 * MB, note=notes.append)
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # another process keeps the file
        for number in range(5000):
            log.add(seen(number))
        assert log.lost >= 3000
        other.execute("ROLLBACK")
    log.close()
    assert "too slow" in notes[-1]


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to look like one" * 50])
def test_a_file_that_is_no_log_is_refused_and_kept(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CatflapError):
        list(read_field_log(path))
    assert path.read_bytes() == content
    if content:
        with pytest.raises(CatflapError):
            FieldLog(path, limit=MB, note=pytest.fail)
        assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE things (id INTEGER)")
    with pytest.raises(CatflapError, match="not a field log"):
        FieldLog(path, limit=MB, note=pytest.fail)
    with pytest.raises(BadArtifact, match="not a field log"):
        list(read_field_log(path))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE seen SET probabilities = x'00'",
        "UPDATE seen SET probabilities = 'text'",
        "UPDATE seen SET probabilities = x'0000c07f0000c07f'",
        "UPDATE seen SET time = 'noon'",
        "UPDATE seen SET time = 1e15",
        "UPDATE seen SET time = -1e15",
        "UPDATE seen SET time = 9e999",
        "UPDATE seen SET embedding = x'0000803f'",
        "UPDATE seen SET embedding = x'0000c07f01'",
        "UPDATE seen SET embedding = 'text'",
        "UPDATE seen SET strangeness = 'very'",
        "UPDATE judge SET labels = '{'",
        "UPDATE judge SET prior = '[1]'",
        "DROP TABLE seen",
        "PRAGMA user_version = 2",
    ],
)
def test_a_damaged_log_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "field.log"
    write(path, [seen(1)])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(damage)
    with pytest.raises(BadArtifact):
        list(read_field_log(path, embeddings=True))


def as_nobody(path: Path) -> int:
    """How many rows a user reads who may write neither a log nor its folder; -1 when that fails."""
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            os._exit(len(numbers(path)))
        finally:
            os._exit(255)
    found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return -1 if found == 255 else found


def test_a_log_that_may_not_be_written_is_read_at_rest_in_use_and_after_a_kill(repo: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    path = folder / "läg 100%?mode=x#.log"
    try:
        folder.chmod(0o755)
        write(path, [seen(number) for number in range(7)])
        shut(folder)
        assert as_nobody(path) == 7
        assert list(folder.iterdir()) == [path], "nothing was left beside it"
        folder.chmod(0o755)
        path.chmod(0o644)
        environment = {**os.environ, "PYTHONPATH": f"{repo}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-c", HELD, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout
            process.stdout.readline()
            shut(folder)
            assert as_nobody(path) == 9, "what is in the write-ahead log counts"
            process.kill()
        assert as_nobody(path) == 9
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


HELD = """
import sys, time
from tests.artifacts.test_field_log import FieldLog, numbers, seen
from pathlib import Path
log = FieldLog(Path(sys.argv[1]), limit=10**6, note=print)
log.add(seen(7))
log.add(seen(8))
while len(numbers(log.path)) < 9:
    time.sleep(0.01)
print("written", flush=True)
time.sleep(600)
"""


def shut(folder: Path) -> None:
    """Nobody but root may write in a folder or its files."""
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)


@pytest.mark.slow
def test_many_processes_may_begin_a_log_at_once(tmp_path: Path) -> None:
    for turn in range(8):
        start = time.monotonic() + 0.05
        children = [begin(tmp_path / f"{turn}.log", start) for _ in range(8)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8


def begin(path: Path, start: float) -> int:
    """A process that opens a log at a moment."""
    child = os.fork()
    if not child:
        try:
            time.sleep(max(0.0, start - time.monotonic()))
            FieldLog(path, limit=MB, note=print)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "x.log", tmp_path, Path("/proc/x/field.log")):
        with pytest.raises(CatflapError, match="cannot be opened"):
            FieldLog(path, limit=MB, note=pytest.fail)
    with pytest.raises(BadArtifact, match="no field log"):
        list(read_field_log(tmp_path / "absent"))
