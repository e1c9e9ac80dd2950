"""Two processes under torchrun train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from catflap.artifacts.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset
from tests.tiny import CATFLAP, TINY
from tests.training.torchrun import TORCHRUN


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """torchrun with gloo; batches are shared, so the weights are the same but for the order of sums."""
    words = ["train", str(drawn_dataset.path), "--recipe", "finetune", "--epochs", "1", "--json"]
    words += ["--backbone", TINY]
    words += ["--precision", "fp32", "--teacher", str(drawn_checkpoint.path)]
    answers = {}
    for name, command in {"one": [*CATFLAP], "two": [*TORCHRUN, CATFLAP[1]]}.items():
        made = subprocess.run(
            [*command, *words, "-o", str(tmp_path / name)], capture_output=True, text=True, check=False,
            timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        (line,) = made.stdout.splitlines()
        answers[name] = json.loads(line)
    one, two = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    for tensor in one:
        assert torch.allclose(one[tensor], two[tensor], atol=1e-4), tensor
    settings = [entry for entry in answers["one"]["history"] if entry["step"] == "settings"]
    assert [entry["precision"] for entry in settings] == ["32-true"] * 2, "of the train photos, and of all"
    losses = [answer["metrics"]["log_loss"]["value"] for answer in answers.values()]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.slow
def test_two_processes_share_the_photos_of_a_head(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """With nothing cached no photo is looked at twice, and the head is that of one process."""
    made, backbone = {}, ["--backbone", TINY]
    for name, command in {"one": [*CATFLAP], "two": [*TORCHRUN, CATFLAP[1]]}.items():
        answer = subprocess.run(
            [*command, "train", str(drawn_dataset.path), "-o", str(tmp_path / name), "--json", *backbone],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CATFLAP_CACHE": str(tmp_path / f"cache of {name}")},
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        made[name] = load_checkpoint(tmp_path / name)
    photos = sum(len(drawn_dataset.photos(role)) for role in ("train", "validation", "calibration"))
    for each in made.values():
        assert (each.cost["photo_passes"], each.cost["cached_photos"]) == (photos, 0)
    assert made["one"].sha256 == made["two"].sha256
