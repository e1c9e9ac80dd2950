"""The slim backbone: at full rank it is the network that it was, at its rank the nearest one on photos."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.errors import CatflapError
from catflap.training.backbones import SLIM, SLIM_RANK, Backbone, load_backbone
from catflap.training.network import Network, load_network, open_checkpoint, save_weights
from catflap.training.plan import Plan
from catflap.training.slim import LEAST_RANK, project, rank_for, slimmed
from catflap.training.train import train
from tests.tiny import FRAME

WIDE, NECK = 1248, 352


@pytest.fixture(scope="module")
def slim() -> Backbone:
    return load_backbone(SLIM)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1


def projected(backbone: Backbone, rank: int, moments: tuple[torch.Tensor, torch.Tensor]) -> torch.nn.Module:
    network = copy.deepcopy(backbone.network)
    project(network, rank, moments)
    return network


@torch.inference_mode()
def received(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    """What the last two layers see, float64 (positions, WIDE)."""
    seen = []
    hook = backbone.network.blocks[-1][-1].conv_pwl.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    backbone.network(pixels)
    hook.remove()
    return seen[0].movedim(1, -1).flatten(0, -2).double()


@pytest.mark.slow
@torch.inference_mode()
def test_at_full_rank_nothing_changes(slim: Backbone, pixels: torch.Tensor) -> None:
    plain = (torch.zeros(WIDE).double(), torch.eye(WIDE).double())
    expected = slim.network(pixels)
    assert expected.shape == (4, slim.features) == (4, 1280)
    torch.testing.assert_close(projected(slim, NECK, plain)(pixels), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@torch.inference_mode()
def test_the_photos_decide_what_is_kept(slim: Backbone, pixels: torch.Tensor) -> None:
    """At half the rank, moments of the photos lose less on these than plain ones."""
    expected, rows = slim.network(pixels), received(slim, pixels)
    theirs = (rows.mean(0), torch.cov(rows.T, correction=0))
    plain = (rows.mean(0), torch.eye(WIDE).double())
    lost = [
        float((projected(slim, 24, known)(pixels) - expected).square().mean()) for known in (theirs, plain)
    ]
    assert 0 < lost[0] < 0.5 * lost[1]


def test_the_head_of_many_labels_takes_its_room_from_the_rank(slim: Backbone) -> None:
    ranks = [rank_for(slim, labels) for labels in (2, 60, 80, 120, 1_000)]
    assert ranks[:2] == [SLIM_RANK, SLIM_RANK]
    for labels, rank in zip((80, 120), ranks[2:4], strict=True):
        assert 0 <= (SLIM_RANK - rank) * (WIDE + 1280) - (labels - 60) * 1280 < WIDE + 1280
    assert ranks[4] == LEAST_RANK


def test_a_network_of_another_rank_is_loaded(
    slim: Backbone, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = load_backbone(SLIM, pretrained=False, rank=40)
    save_weights(tmp_path, Network(other, len(drawn_checkpoint.labels)))
    loaded = load_network(replace(drawn_checkpoint, path=tmp_path, backbone=SLIM))
    assert loaded.backbone.conv_head.weight.shape[:2] == (1280, 40)


@pytest.mark.slow
def test_it_is_smaller_and_always_the_same(slim: Backbone, drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("train")
    fitted = [slimmed(load_backbone(SLIM), photos, FRAME) for _ in range(2)]
    assert fitted[0].sha256 == fitted[1].sha256 != slim.sha256
    assert fitted[0].rank == 0
    assert slim.rank == SLIM_RANK
    sizes = [sum(weight.numel() for weight in one.network.parameters()) for one in (fitted[0], slim)]
    assert sizes[0] < 3.7e6 < sizes[1]
    assert slimmed(fitted[0], photos, FRAME) is fitted[0]


def test_without_train_photos_it_cannot_be_fitted(slim: Backbone, drawn_dataset: Dataset) -> None:
    none = drawn_dataset.photos("train").take(np.arange(0))
    with pytest.raises(CatflapError, match="no train photos"):
        slimmed(slim, none, FRAME)


@pytest.mark.slow
def test_a_checkpoint_of_it_answers(drawn_dataset: Dataset, tmp_path: Path) -> None:
    checkpoint = train(drawn_dataset, tmp_path / "slim", Plan(backbone=SLIM))
    assert checkpoint.backbone == SLIM
    assert load_network(load_checkpoint(tmp_path / "slim")).features(torch.zeros(1, 64, 64, 3)).shape == (
        1,
        1280,
    )
    assert checkpoint.metrics["accuracy"]["value"] > 0.9
    frames = np.zeros((2, FRAME.height, FRAME.width, 3), np.uint8)
    assert open_checkpoint(checkpoint)(frames).shape == (2, 2)
