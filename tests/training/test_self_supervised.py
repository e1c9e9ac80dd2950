"""The self-supervised warm-up: what it changes, what it leaves, and when it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import catflap.training.train as training
from catflap.artifacts.dataset import Dataset
from catflap.errors import CatflapError
from catflap.image import Frame, Pixels, read_pixels
from catflap.training.backbones import Backbone, digest_tensors, load_backbone
from catflap.training.network import Network
from catflap.training.plan import Plan
from catflap.training.search import OVERHEAD, Clock, pixels_of, usual_seconds
from catflap.training.self_supervised import (
    EPOCHS,
    MARGIN,
    MOST_PHOTOS,
    SIDE,
    VIEW_FLOPS,
    epochs_for,
    view_of,
    warmed_up,
)
from catflap.training.train import train
from tests.tiny import TINY
from tests.training.test_train import puzzling


def pixels(dataset: Dataset, role: str) -> Pixels:
    photos, frame = dataset.photos(role), view_of(dataset.frame, MARGIN)
    return np.stack([read_pixels(photos[n], frame) for n in range(len(photos))])


def alike(backbone: Backbone, dataset: Dataset) -> float:
    """How much more alike a photo and its crop are than two photos: the gap of mean cosines."""
    photos = dataset.photos("test")
    frames = np.stack([read_pixels(photos[n], dataset.frame) for n in range(len(photos))])
    crops = torch.from_numpy(frames[:, 8:56, 8:56].copy()).permute(0, 3, 1, 2).float()
    crops = torch.nn.functional.interpolate(crops, frames.shape[1:3], mode="bilinear")
    whole = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        one, other = (
            torch.nn.functional.normalize(backbone.network(each / 127.5 - 1)) for each in (whole, crops)
        )
    cosines = one @ other.T
    own = cosines.diagonal()
    others = (cosines.sum() - own.sum()) / (len(own) * (len(own) - 1))
    return float(own.mean() - others)


def test_a_photo_is_distinguished_from_others(drawn_dataset: Dataset) -> None:
    """Also new ones; the first stages, batch norm and the original stay as they were."""
    plain = load_backbone(TINY)
    before = {name: tensor.clone() for name, tensor in plain.network.state_dict().items()}
    warmed, again = (
        warmed_up(plain, pixels(drawn_dataset, "train"), drawn_dataset.frame, epochs=EPOCHS) for _ in range(2)
    )
    assert alike(warmed, drawn_dataset) > alike(plain, drawn_dataset) + 0.005
    assert warmed.sha256 == again.sha256 == digest_tensors(warmed.network.state_dict()) != plain.sha256
    assert digest_tensors(before) == digest_tensors(plain.network.state_dict()) == plain.sha256
    changed = {
        name for name, tensor in warmed.network.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed
    assert not any(
        "running" in name or name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1")) for name in changed
    )


def test_it_is_the_same_whatever_the_cores(drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = pixels(drawn_dataset, "validation")
    found = set()
    monkeypatch.setattr("catflap.training.gradients.threads_each", lambda: 1)
    for cores in (1, 2, 3):
        monkeypatch.setattr("catflap.training.gradients.worker_count", lambda cores=cores: cores)
        found.add(warmed_up(load_backbone(TINY), photos, drawn_dataset.frame, epochs=EPOCHS, seed=1).sha256)
    assert len(found) == 1


def test_many_photos_and_large_networks_take_fewer_epochs_and_large_frames_are_seen_smaller() -> None:
    assert epochs_for(0, 1) == epochs_for(500, VIEW_FLOPS) == EPOCHS
    assert epochs_for(MOST_PHOTOS, 1) == 1
    assert epochs_for(MOST_PHOTOS, 4 * VIEW_FLOPS) == 0.25
    assert view_of(Frame(288, 288)) == Frame(SIDE, SIDE)
    assert view_of(Frame(64, 32, "crop")) == Frame(64, 32, "crop")
    wide = view_of(Frame(400, 200))
    assert wide.width == 2 * wide.height
    assert wide.width * wide.height == pytest.approx(SIDE**2, rel=0.02)


@pytest.mark.parametrize("better", [True, False])
def test_the_better_head_decides(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    """Fine-tuning starts from the warmed weights or from the plain ones; a good head is left alone."""
    dataset = puzzling(drawn_dataset, tmp_path / "dataset")
    monkeypatch.setattr(training, "WARM_UP_GAIN", -10.0 if better else 1.0)
    made = train(dataset, tmp_path / "made", Plan(backbone=TINY))
    (entry,) = (entry for entry in made.history if entry["step"] == "warm up")
    assert entry["kept"] is better
    (chosen,) = (entry for entry in made.history if entry.get("chosen"))
    assert chosen["validation_log_loss"] == entry["after" if better else "before"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "made"]


@pytest.mark.parametrize(
    ("share", "low", "high"), [(0.0, 3, 3), (0.6, 1.05, 2), (1.0, 0.95, 1.0), (2.0, 0.45, 0.5), (20.0, 0, 0)]
)
def test_minutes_decide_for_how_long(
    drawn_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    low: float,
    high: float,
) -> None:
    """So many times the usual epochs, of a usual warm-up and fine-tuning that take this share of the time."""
    dataset = puzzling(drawn_dataset, tmp_path / "dataset")
    view, minutes = view_of(dataset.frame), 5.0
    network = Network(load_backbone(TINY), len(dataset.labels))
    once = sum(usual_seconds(network, dataset, pixels_of(dataset.frame) / pixels_of(view)))
    monkeypatch.setattr(
        training, "seconds_a_photo", lambda *_: share * 60 * minutes / once / OVERHEAD or 1e-9
    )
    monkeypatch.setattr(Clock, "epochs", lambda *_: 0)
    made = train(dataset, tmp_path / "made", Plan(backbone=TINY, minutes=minutes))
    found = [entry["epochs"] for entry in made.history if entry["step"] == "warm up"]
    assert low * EPOCHS <= sum(found) <= high * EPOCHS
    assert len(found) == (high > 0)


def test_good_heads_and_those_that_were_asked_for_are_not_warmed_up(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    dataset = puzzling(drawn_dataset, tmp_path / "dataset")
    for of, plan in ((drawn_dataset, Plan(backbone=TINY)), (dataset, Plan(backbone=TINY, recipe="head"))):
        made = train(of, tmp_path / "made", plan)
        assert not any(entry["step"] == "warm up" for entry in made.history)


def test_a_network_for_one_size_is_not_warmed_up(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = puzzling(drawn_dataset, tmp_path / "dataset")
    monkeypatch.setattr("catflap.training.self_supervised.SIDE", 32)

    def check(backbone: Backbone, frame: Frame) -> None:
        if frame != dataset.frame:
            raise CatflapError(f"{backbone.name} does not accept it.", "Use another.")

    monkeypatch.setattr(training, "check_frame", check)
    made = train(dataset, tmp_path / "made", Plan(backbone=TINY, epochs=1))
    assert not any(entry["step"] == "warm up" for entry in made.history)


def test_a_stopped_run_keeps_the_warmed_weights(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, plan = puzzling(drawn_dataset, tmp_path / "dataset"), Plan(backbone=TINY)
    monkeypatch.setattr(training, "WARM_UP_GAIN", -10.0)
    expected = train(dataset, tmp_path / "undisturbed", plan)
    steps: list[str] = []

    def stopping(step: str, *_: Any) -> None:
        steps.append(step)
        if step == "train every weight":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "made", plan, progress=stopping)
    assert "warm up" in steps
    assert (tmp_path / ".made.warmed").is_file()
    resumed: list[str] = []
    made = train(dataset, tmp_path / "made", plan, progress=lambda step, *_: resumed.append(step))
    assert "warm up" not in resumed
    assert made.sha256 == expected.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "made", "undisturbed"]
