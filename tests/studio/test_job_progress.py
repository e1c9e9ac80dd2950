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
    assert progress.left() is None


def test_a_build_has_one_time_left_that_falls_with_each_step_and_grows_while_one_is_overdue(
    tmp_path: Path,
) -> None:
    file = tmp_path / "progress.jsonl"
    now = 100.0
    progress = JobProgress(file, is_build=True, clock=lambda: now)
    assert progress.left() is None
    file.write_text(line("scan", 0, 200, 100.0))
    progress.read()
    first = progress.left()
    assert first is not None
    with file.open("a") as more:
        more.write(line("scan", 200, 200, 101.0) + line("write int8", 1, 1, 101.5))
    now = 101.5
    progress.read()
    second = progress.left()
    assert second is not None
    assert second["seconds"] < first["seconds"]
    assert 0 < second["share"] < 1
    assert second["at"] == 101.5
    now = 1000.0  # nothing was reported since
    overdue = progress.left()
    assert overdue is not None
    assert overdue["seconds"] > second["seconds"]
    assert overdue["share"] >= second["share"]


def test_the_entries_of_a_training_are_kept_as_they_grow(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    trial = {"step": "trial", "backbone": "lite0", "size": 288, "fit": "squash", "share": 0.0}
    steps = {"step": "steps", "first": 1, "last": 1, "loss": 0.7}
    entries = [
        trial,
        {**trial, "size": 320},
        {**trial, "share": 1.0, "validation_accuracy": 0.9},
        steps,
        {**steps, "last": 4, "loss": 0.5},
        {"step": "finetune", "epoch": 1, "validation_accuracy": 0.95},
        {"step": "settings", "epochs": 1},
    ]
    file.write_text("".join(json.dumps({"entry": entry}) + "\n" for entry in entries))
    progress = JobProgress(file, is_build=True)
    assert progress.read() == []
    found = progress.training()
    assert found["trial"] == [entries[2], entries[1]]
    assert found["steps"] == [entries[4]]
    assert found["finetune"] == [entries[5]]
    assert progress.left() is None
