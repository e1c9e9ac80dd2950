"""Operating points in bundle.json: what is written is read, and what contradicts itself is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from catflap.artifacts.bundle import load_bundle
from tests.artifacts.samples import small_bundle
from tests.artifacts.test_bundle import refused, repacked
from tests.serving.bundles import max_fpr_point


def with_points(folder: Path, *points: object) -> Path:
    def change(head: dict[str, Any]) -> None:
        head["variants"]["int8"]["operating_points"] = list(points)

    return repacked(small_bundle(folder), change)


def test_a_bundle_carries_operating_points_and_needs_none(tmp_path: Path) -> None:
    point, of_later = (
        max_fpr_point("cat", 0.001, 0.9),
        {**max_fpr_point("cat", 0, 0.8), "wish": {"max_cost": 7}},
    )
    assert load_bundle(with_points(tmp_path, point, of_later)).variant().operating_points == [point, of_later]
    assert load_bundle(small_bundle(tmp_path)).variant().operating_points == []


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": "x"},
        {"threshold": math.nan},
        {"threshold": 1.5},
        {"threshold": None},
        {"label": "dog"},
        {"label": 1},
        {"wish": {}},
        {"wish": {"max_fpr": 0.1, "min_recall": 0.9}},
        {"wish": {"max_fpr": "0.1"}},
        {"wish": "max_fpr"},
        {"test": 1},
    ],
    ids=repr,
)
def test_a_hostile_operating_point_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    refused(with_points(tmp_path, {**max_fpr_point("cat", 0.001, 0.9), **changed}))


def test_an_operating_point_that_stands_twice_is_refused(tmp_path: Path) -> None:
    reported = refused(with_points(tmp_path, max_fpr_point("cat", 0.1, 0.9), max_fpr_point("cat", 0.1, 0.8)))
    assert "an operating point has an unknown label, not exactly one target, or a duplicate" in reported
