"""Two processes under torchrun train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from catflap.artifacts.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.cli.main import main
from tests.tiny import TINY
from tests.training.torchrun import COMMANDS


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(
    drawn_dataset: Dataset,
    drawn_checkpoint: Checkpoint,
    tmp_path: Path,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """torchrun with gloo: a head and every weight, one after the other, as this process learns them.

    With nothing cached no photo is looked at twice, and the head is the same; batches are shared, so the
    weights are the same but for the order of sums.
    """
    tuned = ["--recipe", "finetune", "--epochs", "1", "--precision", "fp32"]
    tuned += ["--teacher", str(drawn_checkpoint.path)]

    def lines(name: str) -> list[list[str]]:
        monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path / f"cache of {name}"))
        start = ["train", str(drawn_dataset.path), "--backbone", TINY, "--json", "-o"]
        return [[*start, str(tmp_path / f"{name} head")], [*start, str(tmp_path / f"{name} tuned"), *tuned]]

    for words in lines("one"):
        assert main(words) == 0
    printed = {"one": capsys.readouterr().out}
    paths = os.pathsep.join([*sys.path, str(repo)])
    made = subprocess.run(
        [*COMMANDS, json.dumps(lines("two"))], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    printed["two"] = made.stdout

    heads = [load_checkpoint(tmp_path / f"{name} head") for name in printed]
    photos = sum(len(drawn_dataset.photos(role)) for role in ("train", "validation", "calibration"))
    for each in heads:
        assert (each.cost["photo_passes"], each.cost["cached_photos"]) == (photos, 0)
    assert heads[0].sha256 == heads[1].sha256

    one, two = (load_file(tmp_path / f"{name} tuned" / WEIGHTS) for name in printed)
    for tensor in one:
        assert torch.allclose(one[tensor], two[tensor], atol=1e-4), tensor
    answers = [[json.loads(line) for line in text.splitlines()] for text in printed.values()]
    assert [len(each) for each in answers] == [2, 2], "the second process prints nothing"
    settings = [entry for entry in answers[0][1]["history"] if entry["step"] == "settings"]
    assert [entry["precision"] for entry in settings] == ["32-true"] * 2, "of the train photos, and of all"
    losses = [each[1]["metrics"]["log_loss"]["value"] for each in answers]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    left = {f"{name} {what}" for name in printed for what in ("head", "tuned")}
    assert {path.name for path in tmp_path.iterdir()} == left | {f"cache of {name}" for name in printed}
