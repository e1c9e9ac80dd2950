"""Two processes that share the weights (FSDP) learn what two learn that share batches only (DDP)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from catflap.artifacts.dataset import Dataset
from catflap.errors import CatflapError
from catflap.image import encode
from catflap.training.plan import Plan
from catflap.training.processes import open_fabric
from catflap.training.train import train
from tests.training.test_every_weight import with_flat_photo
from tests.training.torchrun import TORCHRUN

REPO = Path(__file__).parents[2]


def in_two(
    dataset: Dataset, folder: Path, name: str, strategy: str, stop: int = 0, optimiser: str = "sgd"
) -> Path:
    """What the first of two processes wrote, or nothing where they were stopped."""
    out = folder / f"{name}.safetensors"
    made = run_two(dataset, folder / f"{name}.resume", out, strategy, stop, optimiser)
    assert out.exists() != bool(stop), made.stderr
    return out


def run_two(
    dataset: Dataset,
    resume: Path,
    out: Path,
    strategy: str,
    stop: int = 0,
    optimiser: str = "sgd",
    kind: str = "Small",
) -> subprocess.CompletedProcess[str]:
    words = [str(dataset.path), str(resume), str(out), strategy, str(stop), optimiser, kind]
    return subprocess.run(
        [*TORCHRUN, "-m", "tests.training.finetune_in_two", *words],
        capture_output=True, text=True, check=False, timeout=600, cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, {name: json.loads(text) for name, text in file.metadata().items()}


@pytest.mark.slow
def test_shared_weights_learn_what_shared_batches_learn(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """15 steps, kept after each second; the stopped one ends with the same bits."""
    tensors, told = read(in_two(drawn_dataset, tmp_path, "ddp", "ddp"))
    sharded, same = read(in_two(drawn_dataset, tmp_path, "fsdp", "fsdp"))
    assert tensors.keys() == sharded.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(tensor.float(), sharded[name].float(), atol=1e-4), name
    assert np.allclose(told["logits"], same["logits"], atol=1e-3)
    for one, other in zip(told["history"], same["history"], strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    in_two(drawn_dataset, tmp_path, "stopped", "fsdp", stop=7)
    again, gone_on = read(in_two(drawn_dataset, tmp_path, "stopped", "fsdp"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in sharded.items())
    assert gone_on == same


@pytest.mark.slow
def test_both_moments_of_adamw_are_spread_and_kept(drawn_dataset: Dataset, tmp_path: Path) -> None:
    tensors, told = read(in_two(drawn_dataset, tmp_path, "undisturbed", "fsdp", optimiser="adamw"))
    in_two(drawn_dataset, tmp_path, "stopped", "fsdp", stop=7, optimiser="adamw")
    again, gone_on = read(in_two(drawn_dataset, tmp_path, "stopped", "fsdp", optimiser="adamw"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())
    assert gone_on == told


@pytest.mark.slow
def test_a_machine_without_the_resume_file_is_noticed(drawn_dataset: Dataset, tmp_path: Path) -> None:
    resume, out = tmp_path / "{rank}.resume", tmp_path / "out.safetensors"
    run_two(drawn_dataset, resume, out, "ddp", stop=7)
    assert (tmp_path / "0.resume").exists()
    assert not (tmp_path / "1.resume").exists(), "the first process writes"
    assert "would go on from the steps 6, 0" in run_two(drawn_dataset, resume, out, "ddp").stderr
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_photo_of_another_process_that_gives_no_number_is_named(
    drawn_dataset: Dataset, tmp_path: Path, strategy: str
) -> None:
    """By both, one of which has found nothing wrong with its own photos."""
    flat = encode(np.full((90, 90, 3), 99, np.uint8), "PNG")
    dataset, photo = with_flat_photo(drawn_dataset, tmp_path / "flat", flat)
    resume, out = tmp_path / "resume", tmp_path / "out.safetensors"
    said = run_two(dataset, resume, out, strategy, kind="DividesBySpread").stderr
    assert photo in said
    assert " of 8 photos" in said, "of both processes"
    assert "though every loss is" not in said


@pytest.mark.slow
def test_those_who_share_weights_wait_as_long_as_the_others(tmp_path: Path) -> None:
    """For a day: torch gives the processes of a mesh half an hour, on GPUs ten minutes."""
    script = tmp_path / "waits.py"
    script.write_text(
        "import torch\n"
        "from catflap.training.processes import open_fabric\n"
        "from tests.training.small import small_network\n"
        "fabric = open_fabric('cpu', 'fsdp')\n"
        "learner = fabric.setup_module(small_network())\n"
        "group = next(learner.parameters()).device_mesh.get_group()\n"
        "print(group._get_backend(torch.device('cpu')).options._timeout)\n"
    )
    made = subprocess.run(
        [*TORCHRUN, str(script)], capture_output=True, text=True, check=False, timeout=600, cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert made.stdout.splitlines() == ["1 day, 0:00:00"] * 2, made.stderr


def test_one_process_cannot_share_weights(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is said before the head is fitted: no photo was looked at, no feature is cached."""
    with pytest.raises(CatflapError, match="cannot share weights"):
        open_fabric("cpu", "fsdp")
    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CatflapError, match="cannot share weights"):
        train(drawn_dataset, tmp_path / "out", Plan(recipe="finetune"), strategy="fsdp")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CatflapError, match="no strategy 'magic'"):
        open_fabric("cpu", "magic")
