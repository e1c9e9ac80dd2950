"""The progress of a job: new lines only, half lines, and the time that is left of a build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catflap.studio.job_progress import JobProgress


def line(step: str, done: int, total: int, at: float) -> str:
    return json.dumps({"step": step, "done": done, "total": total, "at": at}) + "\n"


def test_only_new_lines_are_read_and_half_a_line_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress.jsonl"
    progress = JobProgress(file, is_build=False)
    assert progress.read() == []
    second = line("prepare", 3, 4, 11.0)
    file.write_text(line("scan", 1, 2, 10.0) + second[:9])
    assert [one["step"] for one in progress.read()] == ["scan"]
    with file.open("a") as more:
        more.write(second[9:] + line("scan", 2, 2, 12.0))
    assert [(one["step"], one["done"], one["seconds"]) for one in progress.read()] == [
        ("scan", 2, 2.0), ("prepare", 3, 0.0),
    ]  # fmt: skip
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("an unchanged file was read again"))
    assert len(progress.read()) == 2
    assert progress.left is None


def test_a_build_has_one_time_left_that_falls(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    progress = JobProgress(file, is_build=True)
    file.write_text(line("scan", 0, 200, 100.0))
    progress.read()
    assert progress.left is not None
    first = progress.left["seconds"]
    with file.open("a") as more:
        more.write(line("scan", 200, 200, 101.0) + line("write int8", 1, 1, 101.5))
    progress.read()
    assert progress.left["seconds"] < first
    assert 0 < progress.left["share"] < 1
    assert progress.left["at"] == 101.5
