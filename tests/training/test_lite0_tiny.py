"""The tiny backbone: the beginning of Lite0, whose weights learn as fast as the head's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catflap.artifacts.checkpoint import load_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.training import recipes
from catflap.training.loop.settings import LoopSettings, finetuning
from catflap.training.networks.answer import open_checkpoint
from catflap.training.networks.backbone import PACKAGED, SLIM, TINY, load_backbone
from catflap.training.networks.network import Network, load_network
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


def test_its_weights_learn_as_fast_as_the_head(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loop is given, from the backbone's own statement; the others keep what they know."""
    assert load_backbone(TINY).rate == 1.0
    assert (
        load_backbone(PACKAGED).rate == load_backbone(SLIM).rate == LoopSettings().backbone_rate_ratio == 0.1
    )
    start = load_backbone(TINY).network.conv_stem.weight.clone()
    stated: list[float] = []
    moved: dict[float, float] = {}
    for rate in (1.0, 0.1):

        def unblended(epochs: int, body: float, *rest: Any, rate: float = rate) -> LoopSettings:
            """At a rate, without the share of the start that validation may like to keep."""
            stated.append(body)
            return replace(finetuning(epochs, body, *rest), backbone_rate_ratio=rate, blended=False)

        monkeypatch.setattr(recipes, "finetuning", unblended)
        steps: list[dict[str, Any]] = []
        plan, out = Plan(backbone=TINY, recipe="finetune", epochs=2), tmp_path / str(rate)
        checkpoint = train(drawn_dataset, out, plan, watch=lambda _, told, steps=steps: steps.append(told))
        assert checkpoint.recipe == "finetune"
        assert steps
        network = load_network(load_checkpoint(out))
        moved[rate] = float((network.backbone.conv_stem.weight - start).detach().abs().mean())
    assert stated == [1.0, 1.0]
    assert moved[1.0] > 5 * moved[0.1] > 0
    frames = np.zeros((2, FRAME.height, FRAME.width, 3), np.uint8)
    assert open_checkpoint(checkpoint)(frames).shape == (2, 2)


def test_a_checkpoint_of_it_needs_no_pretrained_weights() -> None:
    empty = Network(load_backbone(TINY, pretrained=False), 2)
    full = Network(load_backbone(TINY), 2)
    assert empty.state_dict().keys() == full.state_dict().keys()
    assert not torch.equal(empty.backbone.conv_stem.weight, full.backbone.conv_stem.weight)
