"""The search: halving keeps what validation likes, limits are kept, and the pick travels to the Bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catflap.artifacts.bundle import read_bundle
from catflap.artifacts.dataset import Dataset
from catflap.errors import Refused
from catflap.exporting.export import export
from catflap.image import Frame
from catflap.progress import silent
from catflap.training import search as room
from catflap.training.plan import Plan
from catflap.training.search import Limits, Trial, _framed, _pareto, _share, search
from catflap.training.train import train

SMALL = (
    ("efficientnet_lite0", 32, False), ("efficientnet_lite0", 48, True), ("efficientnet_lite1", 48, False),
)  # fmt: skip


@pytest.fixture
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn photos need no more pixels, and the tests no more minutes."""
    monkeypatch.setattr(room, "ORDER", SMALL)


def test_parts_of_the_photos_lie_inside_the_larger_ones(drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("train")
    parts = [set(_share(photos, share).ids) for share in room.RUNGS]
    assert parts[0] < parts[1] < parts[2] == set(photos.ids)
    assert len(parts[0]) == round(len(photos) / 4)


def test_trials_keep_the_shape_of_the_frame() -> None:
    square, wide = Frame(64, 64), Frame(352, 288)
    assert _framed(square, 240, "crop") == Frame(240, 240, "crop")
    assert _framed(wide, 320, "squash") == Frame(352, 288, "squash")
    tried = _framed(wide, 160, "squash")
    assert (tried.width, tried.height) == (176, 144)


def test_pareto_is_what_nothing_beats() -> None:
    good, dear, poor, fast = (
        Trial("x", 1, "squash", ms, 1.0, share=1.0, validation_log_loss=loss)
        for ms, loss in ((2, 0.1), (3, 0.1), (2, 0.2), (1, 0.3))
    )
    table = [good, dear, poor, fast]
    assert [trial for trial in table if _pareto(trial, table)] == [good, fast]
    untried = Trial("x", 1, "squash", 0.5, 1.0)
    assert not _pareto(untried, [*table, untried])


def test_what_cannot_be_is_refused_with_the_nearest(drawn_dataset: Dataset) -> None:
    with pytest.raises(Refused, match=r"None of 2 trials keeps the limits; the nearest, efficientnet_lite"):
        search(drawn_dataset, 2, Limits(max_mb=0.1), "cpu", silent)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_the_pick_travels_to_the_bundle(drawn_dataset: Dataset, tmp_path: Path) -> None:
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint", Plan(trials=3))
    rows = [entry for entry in checkpoint.history if entry["step"] == "trial"]
    assert [(row["backbone"], row["size"], row["fit"] == "crop") for row in rows] == list(SMALL)
    (picked,) = (row for row in rows if row["picked"])
    whole = [row for row in rows if row["share"] == 1.0]
    assert picked["validation_log_loss"] == min(row["validation_log_loss"] for row in whole)
    assert len(whole) == 1, "three, then two, then one"
    assert any(row["pareto"] for row in rows)
    assert (checkpoint.backbone, checkpoint.frame.width) == (picked["backbone"], picked["size"])
    assert checkpoint.frame.fit == picked["fit"]
    assert checkpoint.made_from == Plan(trials=3).fingerprint(drawn_dataset)
    assert checkpoint.made_from != Plan().fingerprint(drawn_dataset)
    export(checkpoint, drawn_dataset, tmp_path / "x.catflap", variants=("fp32",))
    assert read_bundle(tmp_path / "x.catflap").frame == checkpoint.frame


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_limits_are_kept(drawn_dataset: Dataset) -> None:
    backbone, frame, rows = search(drawn_dataset, 3, Limits(max_mb=4.2), "cpu", silent)
    assert backbone.name == "efficientnet_lite0"
    assert frame.width in (32, 48)
    assert [row["fits"] for row in rows] == [True, True, False]
    assert rows[2]["share"] == 0, "what does not fit costs no photo"
    assert rows[2]["validation_log_loss"] is None
    json.dumps(rows, allow_nan=False)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sizes")
def test_within_minutes_validation_chooses_the_recipe_of_the_pick(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    checkpoint = train(drawn_dataset, tmp_path / "checkpoint", Plan(trials=2, minutes=1.0))
    assert {entry["step"] for entry in checkpoint.history} >= {"trial", "head", "finetune", "blend"}
    (kept,) = (entry["share"] for entry in checkpoint.history if entry["step"] == "blend" and entry["kept"])
    assert checkpoint.recipe == ("finetune" if kept else "head")
