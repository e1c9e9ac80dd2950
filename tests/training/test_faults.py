"""What goes wrong around a training: one clear error, and nothing that was done is lost."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catflap.artifacts.checkpoint import MARKER
from catflap.artifacts.dataset import SHARDS, Dataset, load_dataset
from catflap.artifacts.folder import atomic_folder
from catflap.errors import CatflapError
from catflap.progress import silent
from catflap.training.finetune import LoopSettings, train_weights
from catflap.training.network import save_weights
from catflap.training.plan import Plan
from catflap.training.train import train
from tests.tiny import TINY
from tests.training.small import small_network

QUICK = LoopSettings(epochs=1, batch=8, save_every=1)


class Stop(Exception):
    """What a test raises in the middle of a run."""


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to write more into a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_damaged_shard_is_one_error(drawn_dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(drawn_dataset.path, tmp_path / "dataset")
    plan = Plan(backbone=TINY, recipe="finetune", epochs=1)
    for shard in (tmp_path / "dataset" / SHARDS).iterdir():
        shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(CatflapError, match="cut short"):
        train(load_dataset(tmp_path / "dataset"), tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_while_keeping_is_one_error_and_loses_nothing(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done == 2:
            raise Stop

    resume = tmp_path / "resume"
    with pytest.raises(Stop):
        train_weights(small_network(), drawn_dataset, resume, QUICK, 0, "cpu", stop)
    with largest_file(1000), pytest.raises(CatflapError, match="cannot be written") as caught:
        train_weights(small_network(), drawn_dataset, resume, QUICK, 0, "cpu", silent)
    assert caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["resume"]
    steps: list[int] = []

    def reported(step: str, done: int, total: int) -> None:
        steps.append(done)

    train_weights(small_network(), drawn_dataset, resume, QUICK, 0, "cpu", reported)
    assert steps[0] == 3, "the two steps that were kept are not done again"


def test_a_full_disk_at_the_end_is_one_error(tmp_path: Path) -> None:
    with (
        largest_file(1000),
        pytest.raises(CatflapError, match="cannot be written"),
        atomic_folder(tmp_path / "out", MARKER) as folder,
    ):
        save_weights(folder, small_network())
    assert list(tmp_path.iterdir()) == []
