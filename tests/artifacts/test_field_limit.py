"""How long a field log becomes, with all that SQLite keeps beside it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.field_log import FieldLog, read_field_log
from tests.artifacts.test_field_log import MB, numbers, seen, wait, write
from tests.matrix import mostly_slow


@pytest.mark.slow
def test_it_does_not_grow_beyond_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "field.log"
    for start in range(0, 800, 100):
        write(path, [seen(number, picture=bytes(10_000)) for number in range(start, start + 100)], 2 * MB)
    kept = numbers(path)
    assert kept[-1] == 799
    assert kept == list(range(kept[0], 800)), "the newest are kept"
    assert 100 <= len(kept) <= 200
    assert path.stat().st_size <= 2 * MB


def test_embeddings_count_for_the_limit(tmp_path: Path) -> None:
    path, random = tmp_path / "field.log", np.random.default_rng(0)
    for start in range(0, 1200, 300):
        rows = [
            replace(seen(number), embedding=random.random(1280, np.float32))
            for number in range(start, start + 300)
        ]
        write(path, rows, 2 * MB)
    kept = numbers(path)
    assert kept == list(range(kept[0], 1200))
    assert 2 * MB / len(kept) < 2500, "bytes a row: two fit a page"
    assert path.stat().st_size <= 2 * MB


@contextmanager
def peak(folder: Path) -> Iterator[list[int]]:
    """The most bytes that all files of a folder ever had together while the block ran."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            found = 0
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    found += entry.stat().st_size
            most[0] = max(most[0], found)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("writers", mostly_slow([1, 2]))
def test_bursts_of_pictures_keep_the_limit_with_all_that_lies_beside_the_file(
    writers: int, tmp_path: Path
) -> None:
    path = tmp_path / "field.log"
    with peak(tmp_path) as most:
        logs = [FieldLog(path, limit=5 * MB, note=pytest.fail) for _ in range(writers)]
        for start in range(0, 600, 200):
            for number in range(start, start + 200):
                for log in logs:
                    log.add(seen(number, picture=bytes(80_000)))
            for log in logs:
                wait(lambda log=log: not log._waiting)
        for log in logs:
            log.close()
            assert log.lost == 0
    assert 4 * MB < most[0] <= 5 * MB
    assert len(numbers(path)) > 40


@pytest.mark.slow
def test_small_rows_that_make_room_for_large_ones_keep_the_limit(tmp_path: Path) -> None:
    path, random = tmp_path / "field.log", np.random.default_rng(0)
    with peak(tmp_path) as most:
        for start in range(0, 6000, 400):
            rows = [
                replace(
                    seen(number, picture=bytes(50_000 * (number % 1000 == 999))), photo=random.bytes(32).hex()
                )
                for number in range(start, start + 400)
            ]
            write(path, rows, MB)
    assert 0.7 * MB < most[0] <= MB


def test_a_log_of_an_earlier_greater_limit_is_made_shorter(tmp_path: Path) -> None:
    path = tmp_path / "field.log"
    write(path, [seen(number, picture=bytes(80_000)) for number in range(100)])
    assert path.stat().st_size > 8 * MB
    write(path, [seen(100)], 2 * MB)
    assert path.stat().st_size <= 2 * MB
    kept = numbers(path)
    assert kept == list(range(kept[0], 101))
    assert len(kept) > 15


def test_a_picture_that_is_too_large_for_the_log_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "field.log"
    write(path, [seen(0, picture=bytes(30_000)), seen(1, picture=bytes(900_000)), seen(2)], MB)
    assert [len(row.picture or b"") for row in read_field_log(path, pictures=True)] == [30_000, 0, 0]


def test_a_reader_makes_it_longer_only_as_long_as_it_reads_and_costs_no_row(tmp_path: Path) -> None:
    path = tmp_path / "field.log"
    write(path, [seen(number, picture=bytes(10_000)) for number in range(50)], MB)
    log = FieldLog(path, limit=MB, note=pytest.fail)
    rows = read_field_log(path, pictures=True)
    assert next(rows)
    for number in range(50, 250):
        log.add(seen(number, picture=bytes(10_000)))
    wait(lambda: not log._waiting)
    rows.close()

    def is_short() -> bool:
        log.add(seen(250))
        return sum(file.stat().st_size for file in tmp_path.iterdir()) <= MB

    wait(is_short)
    log.close()
    assert log.lost == 0
