"""The tiny backbone: the beginning of Lite0, whose weights learn as fast as the head's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from catflap.artifacts.dataset import Dataset
from catflap.training.backbones import PACKAGED, SLIM, TINY, load_backbone
from catflap.training.network import Network, load_network, open_checkpoint
from catflap.training.plan import Plan
from catflap.training.train import train
from tests.tiny import FRAME


@torch.inference_mode()
def test_it_is_the_beginning_of_lite0() -> None:
    tiny, whole = load_backbone(TINY), load_backbone(PACKAGED)
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = []
    hook = whole.network.blocks[4][0].register_forward_hook(lambda _, __, answer: seen.append(answer))
    whole.network(pixels)
    hook.remove()
    assert tiny.features == 112
    assert sum(weight.numel() for weight in tiny.network.parameters()) < 0.37e6
    torch.testing.assert_close(tiny.network(pixels), seen[0].mean((2, 3)))


@pytest.mark.slow
def test_its_weights_learn_as_fast_as_the_head(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """By its own statement; other backbones keep what they know. On "cpu:0" training writes no graph."""
    assert [load_backbone(name).rate for name in (TINY, PACKAGED, SLIM)] == [1.0, 0.1, 0.1]
    plan = Plan(backbone=TINY, recipe="finetune", epochs=1)
    checkpoint = train(drawn_dataset, tmp_path / "made", plan, device="cpu:0")
    settings = [entry for entry in checkpoint.history if entry["step"] == "settings"]
    assert {entry["backbone_rate_ratio"] for entry in settings} == {1.0}
    start = load_backbone(TINY).network.conv_stem.weight
    assert not torch.equal(load_network(checkpoint).backbone.conv_stem.weight, start)
    frames = np.zeros((2, FRAME.height, FRAME.width, 3), np.uint8)
    assert open_checkpoint(checkpoint)(frames).shape == (2, 2)


def test_a_checkpoint_of_it_needs_no_pretrained_weights() -> None:
    empty = Network(load_backbone(TINY, pretrained=False), 2)
    full = Network(load_backbone(TINY), 2)
    assert empty.state_dict().keys() == full.state_dict().keys()
    assert not torch.equal(empty.backbone.conv_stem.weight, full.backbone.conv_stem.weight)
