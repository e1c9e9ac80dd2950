"""Training in fp16: small gradients are scaled, and those that were scaled by too much are left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from catflap.artifacts.dataset import Dataset
from catflap.errors import CatflapError
from catflap.image import Frame
from catflap.training.backbones import Backbone
from catflap.training.features import open_extractor
from catflap.training.finetune import LoopSettings
from tests.matrix import mostly_slow
from tests.training.small import Small, SteepAtZero, small_network
from tests.training.test_finetune import ADAMW, RECIPE, Stop, run, weights

FP16 = "16-mixed"
FIRST_SCALE = 65536.0


class Steep(Small):
    """Its gradients are too large for fp16 as long as they are scaled by what a run begins with."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels) * 30


class Loud(Small):
    """Fine in fp32."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels) * 1e8


def scale(resume: Path) -> float:
    """What the losses of a kept run are multiplied with."""
    fields = load(resume.read_bytes()[32:])["fields"]  # behind the checksum
    return float(json.loads(fields.numpy().tobytes())["scale"]["scale"])


@pytest.mark.slow
def test_features_that_are_too_large_for_fp16_are_worked_out_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On "cpu:0", which is no name of the CPU here, features are those of a GPU."""
    monkeypatch.setattr("catflap.training.features.fastest_precision", lambda device: FP16)
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for kind, close in ((Small, 1e-2), (Loud, 1e-6)):
        body = Backbone(kind.__name__, small_network(kind).backbone, 16, (0.5,) * 3, (0.5,) * 3, "", "none")
        found, exact = (
            open_extractor(body, Frame(32, 32), device=device).model(frames) for device in ("cpu:0", "cpu")
        )
        assert 0 < np.abs(found - exact).max() <= close * np.abs(exact).max()


def test_it_ends_near_fp32(drawn_dataset: Dataset, tmp_path: Path) -> None:
    one = run(drawn_dataset, tmp_path / "fp32")[0].state_dict()
    other = run(drawn_dataset, tmp_path / "fp16", precision=FP16)[0].state_dict()
    distances = [
        float((one[name] - other[name]).norm() / one[name].norm()) for name in one if one[name].any()
    ]
    assert 0 < max(distances) < 0.01
    assert scale(tmp_path / "fp16") == FIRST_SCALE


def test_steps_that_were_scaled_by_too_much_are_left_out(drawn_dataset: Dataset, tmp_path: Path) -> None:
    once = replace(RECIPE, epochs=0.2, ema_decay=0.0)  # one step of five
    network = run(drawn_dataset, tmp_path / "one", once, kind=Steep, precision=FP16)[0]
    assert scale(tmp_path / "one") == FIRST_SCALE / 2
    start = run(drawn_dataset, tmp_path / "none", replace(once, learning_rate=0.0), kind=Steep)[0]
    assert weights(network) == weights(start)
    network, ended = run(drawn_dataset, tmp_path / "all", kind=Steep, precision=FP16)
    assert 1 < scale(tmp_path / "all") < FIRST_SCALE
    losses = [entry["loss"] for entry in ended.history if entry["step"] == "steps"]
    assert np.isfinite(losses).all()
    assert weights(network) != weights(start), "steps are taken once the scale is low enough"


@pytest.mark.parametrize("recipe", mostly_slow([RECIPE, ADAMW]), ids=["sgd", "adamw"])
def test_a_stopped_run_ends_like_an_undisturbed_one(
    drawn_dataset: Dataset, tmp_path: Path, recipe: LoopSettings
) -> None:
    """The scale, which falls at the first steps, is kept too."""
    undisturbed = run(drawn_dataset, tmp_path / "undisturbed", recipe, kind=Steep, precision=FP16)[0]
    for at in (4, 9):
        with pytest.raises(Stop):
            run(drawn_dataset, tmp_path / "resume", recipe, stop=at, kind=Steep, precision=FP16)
        assert scale(tmp_path / "resume") < FIRST_SCALE
    again = run(drawn_dataset, tmp_path / "resume", recipe, kind=Steep, precision=FP16)[0]
    assert weights(again) == weights(undisturbed)


def test_gradients_that_no_scale_makes_numbers_end_the_run(drawn_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="gradients of step 17 are not numbers") as error:
        run(drawn_dataset, tmp_path / "resume", replace(RECIPE, epochs=4), kind=SteepAtZero, precision=FP16)
    assert error.value.fix == "Use --precision fp32."


def test_features_that_are_too_large_for_fp16_end_the_run(drawn_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="loss of step 1 is not a number for 8 of 8 photos") as error:
        run(drawn_dataset, tmp_path / "resume", kind=Loud, precision=FP16)
    assert error.value.fix == "Use --precision fp32."
