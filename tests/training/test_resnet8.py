"""resnet8: a backbone for small pictures, from a random start only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from catflap.artifacts.dataset import Dataset
from catflap.errors import CatflapError
from catflap.exporting.export import export
from catflap.training.backbones import RESNET8, load_backbone
from catflap.training.plan import Plan
from catflap.training.train import train


@torch.inference_mode()
def test_a_place_of_a_small_picture_is_kept_until_the_end() -> None:
    """Of 32 px there are 3 × 3 places left where a backbone for 224 px has one; their maximum is last."""
    body = load_backbone(RESNET8, pretrained=False)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    places = body.network.stages(body.network.stem(pixels))
    assert places.shape == (2, body.features, 3, 3)
    torch.testing.assert_close(body.network(pixels), places.flatten(2).max(2).values / 9)
    assert 1.9e6 < sum(weight.numel() for weight in body.network.parameters()) < 2.0e6


def test_a_frame_of_which_nothing_would_be_left_is_refused() -> None:
    network = load_backbone(RESNET8, pretrained=False).network
    assert network(torch.zeros(2, 3, 9, 32)).shape == (2, 256)
    with pytest.raises(CatflapError, match="resnet8 does not accept frames below 9 px"):
        network(torch.zeros(2, 3, 32, 8))


def test_it_has_no_weights_to_start_from(drawn_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="no pretrained weights") as caught:
        train(drawn_dataset, tmp_path / "never", Plan(backbone=RESNET8))
    assert "--recipe scratch" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_was_trained_is_what_runs_in_int8(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """The graph, its quantisation and its golden cases: another network than EfficientNet."""
    plan = Plan(backbone=RESNET8, recipe="scratch", epochs=6)
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint", plan)
    assert checkpoint.licences == {}
    answer = export(checkpoint, drawn_dataset, tmp_path / "small.catflap", variants=("int8", "fp32"))
    assert answer["verdict"] == "pass"
    int8, fp32 = (answer["variants"][name] for name in ("int8", "fp32"))
    assert int8["bytes"] < fp32["bytes"] / 3
    assert int8["fidelity"]["flips"] == 0
