"""Gradients of a batch, part by part on the cores of a CPU; and stages that keep their weights."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from catflap.training.backbones import Backbone
from catflap.training.gradients import add_gradients, freeze, open_workers
from catflap.training.network import Network
from tests.training.small import small_network


def batch(photos: int) -> tuple[np.ndarray, torch.Tensor]:
    dice = np.random.default_rng(0)
    frames = dice.integers(0, 256, (photos, 64, 64, 3), dtype=np.uint8)
    return frames, torch.eye(2)[torch.from_numpy(dice.integers(0, 2, photos))]


def gradients(network: Network, frames: np.ndarray, targets: torch.Tensor) -> list[torch.Tensor]:
    with open_workers() as pool:
        losses = add_gradients(pool, network, frames, targets, 0.1, "32-true")
    assert losses.shape == (len(frames),)
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


def test_the_parts_add_up_to_the_gradients_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catflap.training.gradients.PART_PIXELS", 3 * 64 * 64)
    frames, targets = batch(8)
    whole = small_network()
    loss = nn.functional.cross_entropy(whole(torch.from_numpy(frames)), targets, label_smoothing=0.1)
    loss.backward()
    for expected, found in zip(
        [weight.grad for weight in whole.parameters()],
        gradients(small_network(), frames, targets),
        strict=True,
    ):
        assert expected is not None
        assert torch.allclose(expected, found, atol=1e-6)


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catflap.training.gradients.PART_PIXELS", 2 * 64 * 64)
    found = []
    for workers in (1, 4):
        monkeypatch.setattr("catflap.training.gradients.worker_count", lambda workers=workers: workers)
        monkeypatch.setattr("catflap.training.gradients.threads_each", lambda: 1)
        found.append(gradients(small_network(), *batch(9)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_first_stages_keep_their_weights() -> None:
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    whole = Network(Backbone("lite0", network, 1280, (0.5,) * 3, (0.5,) * 3, "", "none"), 2)
    freeze(whole, 3)
    kept = {name for name, weight in whole.named_parameters() if not weight.requires_grad}
    first = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0.", "backbone.blocks.1.")
    assert kept == {name for name, _ in whole.named_parameters() if name.startswith(first)}
    freeze(whole, 0)
    assert all(weight.requires_grad for weight in whole.parameters())
