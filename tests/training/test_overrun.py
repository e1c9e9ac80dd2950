"""Minutes in which not even the features can be worked out are told before any photo is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from catflap.artifacts.dataset import Dataset
from catflap.errors import Refused
from catflap.training import deciding
from catflap.training.networks.backbone import PACKAGED
from catflap.training.plan import Plan
from catflap.training.search import candidates, halving
from catflap.training.train import train
from tests.training.small_search import SMALL


@pytest.fixture(autouse=True)
def _ten_seconds_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, on which they are at once here; and where no feature is known."""
    monkeypatch.setattr(candidates, "ORDER", SMALL[:2])
    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path / "cache"))
    for place in (deciding, halving):
        monkeypatch.setattr(place, "seconds_of_features", lambda *_: 10.0)


@pytest.mark.parametrize("backbone", [None, PACKAGED])
def test_features_that_take_longer_than_the_minutes_are_told_at_once(
    drawn_dataset: Dataset, tmp_path: Path, backbone: str | None
) -> None:
    photos = drawn_dataset.roles["train"] + drawn_dataset.roles["validation"]
    with pytest.raises(Refused, match=f"The features of {photos} photos take about") as caught:
        train(drawn_dataset, tmp_path / "out", Plan(minutes=1.0, backbone=backbone))
    minutes = photos / 6
    assert f"about {minutes:.0f} minutes at the rate measured here ({PACKAGED}, " in caught.value.what
    assert f"--minutes {-(-2 * photos // 6) + 1} or more" in caught.value.fix
    assert not list((tmp_path / "cache" / "features").rglob("*"))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_what_is_cached_takes_no_time(drawn_dataset: Dataset, tmp_path: Path) -> None:
    train(drawn_dataset, tmp_path / "before", Plan(backbone=PACKAGED))
    made = train(drawn_dataset, tmp_path / "made", Plan(minutes=1.0, backbone=PACKAGED, recipe="head"))
    assert made.recipe == "head"
    damaged = next((tmp_path / "cache" / "features").rglob("*.npz"))
    damaged.write_bytes(b"")
    train(drawn_dataset, tmp_path / "made", Plan(minutes=1.0, backbone=PACKAGED, recipe="head"))
