"""A random start for many small pictures: it must beat the head, and goes on after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.image import Frame
from catflap.progress import Progress, silent
from catflap.runtime.engine import Logits
from catflap.training import deciding
from catflap.training.deciding import RunDecisions, try_from_scratch, tuning_of
from catflap.training.loop.settings import LoopSettings
from catflap.training.networks.backbone import RESNET8
from catflap.training.networks.network import Network
from catflap.training.plan import Plan
from catflap.training.recipes import History, Trained
from catflap.training.search import random_start
from catflap.training.search.clock import clock_of
from catflap.training.search.halving import Pick
from catflap.training.search.random_start import or_from_scratch, suits_random_start
from catflap.training.train import train
from tests.training.small_search import many_small

EPOCHS = 12


class Stop(Exception):
    """What a test raises in the middle of a run."""


def test_many_small_pictures_in_small_frames_suit(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames and pictures may be of 160 px here."""
    many_small(monkeypatch)
    assert suits_random_start(drawn_dataset)
    assert suits_random_start(replace(drawn_dataset, frame=Frame(160, 32)))
    assert suits_random_start(replace(drawn_dataset, frame=Frame(9, 9)))
    assert not suits_random_start(replace(drawn_dataset, frame=Frame(32, 161)))
    assert not suits_random_start(replace(drawn_dataset, frame=Frame(32, 8))), "which resnet8 cannot see"
    for what, value in (("MANY_PHOTOS", 1000), ("SMALL_SIDE", 159)):
        with monkeypatch.context() as other:
            other.setattr(random_start, what, value)
            assert not suits_random_start(drawn_dataset)


def test_a_head_is_left_only_for_what_is_better_by_more_than_chance(drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("validation")
    right = np.where(photos.labels[:, None] == np.arange(2), 2.0, 0.0).astype(np.float32)
    chance = right + np.where(np.arange(len(right))[:, None] % 2, 0.1, 0) * np.sign(1 - right)
    unsure = np.zeros_like(right)
    for learnt, better in ((right, True), (unsure, False), (-right, False)):
        made, _ = tried(drawn_dataset, unsure, learnt)
        assert made.recipe == ("scratch" if better else "head")
        assert made.passes == (7, 3), "the head's"
        steps = [(entry["step"], entry.get("share"), entry.get("kept")) for entry in made.history]
        assert steps[:3] == [("head", None, None), ("settings", None, None), ("finetune", None, None)]
        assert steps[3:] == [("blend", 0.0, not better), ("blend", 1.0, better)]
    made, _ = tried(drawn_dataset, right, chance)
    assert made.recipe == "head", "a photo more or less is no gain"


def test_a_random_start_follows_from_the_seed(drawn_dataset: Dataset) -> None:
    logits = np.zeros((len(drawn_dataset.photos("validation")), 2), np.float32)
    torch.manual_seed(3)
    first = tried(drawn_dataset, logits, logits)[1]
    torch.randn(7)  # what came before does not matter
    again, other = (tried(drawn_dataset, logits, logits, seed)[1] for seed in (0, 1))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_no_epoch_is_the_head(drawn_dataset: Dataset) -> None:
    head = trained(drawn_dataset, np.zeros((1, 2), np.float32))
    assert or_from_scratch(head, drawn_dataset, 0, 0, unused) is head


def test_a_good_head_is_not_left(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """And nobody looks at the clock."""
    labels = drawn_dataset.photos("validation").labels
    head = trained(drawn_dataset, np.eye(2, dtype=np.float32)[labels])
    decisions, clock = RunDecisions(tmp_path / "decided", "this"), clock_of(0.0, 0.0, "cpu", "32-true")
    assert try_from_scratch(head, drawn_dataset, 0, clock, decisions, unused) is head
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("accuracy", "may_begin", "fitting", "epochs"),
    [
        (0.8, True, 3, 0),
        (0.96, True, 3, 3),
        (0.8, False, 3, 3),
        (0.8, False, 0.4, 0.4),
        (0.96, False, 0.4, 0),  # a part of an epoch is for poor heads
    ],
)
def test_a_poor_head_leaves_the_time_to_a_random_start_or_a_part_of_an_epoch(
    drawn_dataset: Dataset, tmp_path: Path, accuracy: float, may_begin: bool, fitting: float, epochs: float
) -> None:
    decisions = RunDecisions(tmp_path / "decided", "this")
    decisions.keep("epochs", lambda: fitting)
    backbone, row = random_start.new_backbone(), {"step": "trial", "recipe": "scratch", "fits": may_begin}
    chosen, clock = Pick(0, backbone, Frame(32, 32), [row]), clock_of(1.0, 0.0, "cpu", "32-true")
    tuning = tuning_of(Plan(minutes=1.0), chosen, drawn_dataset, clock, decisions)
    assert tuning.epochs(Network(backbone, 2), accuracy) == epochs


@pytest.mark.slow
def test_a_random_start_that_was_stopped_ends_with_the_same_bits(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Checkpoint is of its own backbone; the drawn photos' heads are too good to be beaten but so."""
    monkeypatch.setattr(random_start, "beyond_chance", lambda *_: True)
    monkeypatch.setattr(deciding, "GOOD_HEAD", 1.1)
    undisturbed = decided(drawn_dataset, tmp_path / "undisturbed")

    def stop(step: str, done: int, total: int) -> None:
        if (step, done) == ("train every weight", 2 * EPOCHS - 7):
            raise Stop

    with pytest.raises(Stop):
        decided(drawn_dataset, tmp_path / "stopped", stop)
    steps: list[int] = []
    again = decided(
        drawn_dataset,
        tmp_path / "stopped",
        lambda step, done, _: steps.append(done) if step == "train every weight" else None,
    )
    assert steps[0] > 1, "what was learnt is not learnt again"
    assert again.sha256 == undisturbed.sha256
    assert (again.backbone, again.recipe, again.frame) == (RESNET8, "scratch", drawn_dataset.frame)
    assert again.licences == {}, "it has nobody's weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "undisturbed"]


def decided(dataset: Dataset, out: Path, progress: Progress = silent) -> Checkpoint:
    """A run that has picked the first candidate, and a random start after its head."""
    plan = Plan(minutes=2.0)
    kept = RunDecisions(out.with_name(f".{out.name}.decided"), plan.fingerprint(dataset))
    row = {"step": "trial", "backbone": RESNET8, "recipe": "scratch", "fits": True}
    kept.keep("pick", lambda: {"number": 0, "recipe": "head", "trials": [row]})
    kept.keep("epochs from a random start", lambda: EPOCHS)
    return train(dataset, out, plan, progress=progress)


def tried(
    dataset: Dataset, head: Logits, learnt: Logits, seed: int = 0
) -> tuple[Trained, dict[str, torch.Tensor]]:
    """What is kept of a head and of a random start with these logits, and the weights of that start."""
    starts: list[dict[str, torch.Tensor]] = []

    def loop(
        network: Network, how: LoopSettings, seen: Dataset, part: Photos | None
    ) -> tuple[Logits, History]:
        assert (how.epochs, how.train_batch_norm, part) == (EPOCHS, True, None)
        starts.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        blend: dict[str, Any] = {"step": "blend", "share": 1.0, "validation_log_loss": 0.5, "kept": True}
        return learnt, [{"step": "settings"}, {"step": "finetune"}, blend]

    made = or_from_scratch(trained(dataset, head), dataset, EPOCHS, seed, loop)
    return made, starts[0]


def unused(*_: object) -> tuple[Logits, History]:
    """A loop that must not run."""
    pytest.fail("nothing is to be learnt")


def trained(dataset: Dataset, logits: Logits) -> Trained:
    """A head with these logits on the validation photos; its network is nobody's concern here."""
    backbone = random_start.new_backbone()
    network = Network(backbone, 2)
    return Trained("head", backbone, dataset.frame, network, logits, [{"step": "head"}], (7, 3))
