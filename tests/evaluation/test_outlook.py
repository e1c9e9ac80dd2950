"""What more photos would promise follows the measured curve and the width of the interval."""

from __future__ import annotations

import numpy as np
import pytest

from catflap.evaluation.intervals import share
from catflap.evaluation.outlook import MOST, curve_points, error_power, next_goal, outlook, promised


def points(power: float, factor: float = 0.8) -> list[dict[str, float]]:
    return [{"photos": n, "accuracy": 1 - factor * n**-power} for n in (20, 40, 80, 120, 160)]


@pytest.mark.parametrize("power", [0.2, 0.5, 0.9])
def test_the_power_of_a_curve_is_found(power: float) -> None:
    assert error_power(points(power)) == pytest.approx(power, abs=0.01)


def test_a_curve_that_falls_or_rises_too_fast_is_held_within_limits() -> None:
    assert error_power([{"photos": 10, "accuracy": 0.9}, {"photos": 100, "accuracy": 0.8}]) == 0
    assert error_power(points(3.0, 50.0)) == 1
    assert error_power([{"photos": 10, "accuracy": 1.0}, {"photos": 20, "accuracy": 1.0}]) == 0.5
    assert error_power([]) == 0.5


def test_few_test_photos_promise_little_and_more_photos_promise_more() -> None:
    accuracy = share(8, 8, 8, "")
    assert promised(accuracy) == 0.67
    rows = outlook(points(0.5), accuracy, photos=50, groups=8, labels=2)
    assert [row["promised"] for row in rows] == sorted(row["promised"] for row in rows)
    assert rows[0]["promised"] >= 0.67
    assert all(1 + row["each_label"] * 2 / 50 <= MOST for row in rows)
    goal = next_goal(rows, 0.67)
    assert goal is not None
    assert (
        goal["promised"]
        >= 0.8
        > max(row["promised"] for row in rows if row["each_label"] < goal["each_label"])
    )


def test_the_promise_holds_where_the_curve_is_a_power() -> None:
    """Simulated: 200 photos, errors of 0.8 n ^ -0.5; four times as many halve them, as the outlook says."""
    error = 0.8 * 200**-0.5
    row = next(
        row
        for row in outlook(
            points(0.5), share(round(1000 * (1 - error)), 1000, 1000, ""), photos=200, groups=1000, labels=2
        )
        if row["each_label"] == 200
    )  # 200 + 2 × 200 = 600 photos
    assert row["accuracy"] == pytest.approx(1 - error / np.sqrt(3), abs=0.003)
    assert row["promised"] == pytest.approx(row["accuracy"] - 0.01, abs=0.01)


def test_nothing_is_promised_where_nothing_was_measured() -> None:
    nothing = share(0, 0, 0, "no photos")
    assert promised(nothing) is None
    assert outlook([], nothing, photos=10, groups=0, labels=2) == []


def test_a_history_gives_the_points_with_their_intervals() -> None:
    history = [{"step": "head"}, {"step": "curve", "photos": 20, "right": 15, "judged_by": 20}]
    (point,) = curve_points(history)
    assert (point["photos"], point["accuracy"]) == (20, 0.75)
    assert point["low"] < 0.75 < point["high"]
