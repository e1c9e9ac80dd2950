"""One time left for the whole of a build, from its steps: within a factor of two for most of it."""

from __future__ import annotations

import pytest

from catflap.pipeline.build_pace import STEPS, BuildPace, Pace

NAMES = {  # a report for each row of the table
    "trials measured|slim backbone": "trials measured",
    ".* at .* px, .*": "lite0 at 288 px, squash",
    "write .*|.* on calibration|.* on test": "int8 on calibration",
    "evaluate .*": "evaluate int8",
}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(slow: float, photos: int, every_weight: bool = False) -> list[tuple[float, Pace]]:
    """The Pace after each report of a build that takes `slow` times as long, and what is left."""
    clock = Clock()
    pace, seen = BuildPace(clock), []
    for number, step in enumerate(one for one in STEPS if every_weight or not one.rare):
        name = NAMES.get(step.name, step.name)
        seconds = (
            slow * step.seconds(photos) * (1.25 if number % 2 else 0.8)
        )  # none takes just what is expected
        reports = 2 if name == "trials measured" else 10
        for done in range(reports + 1):
            total = photos if name == "scan" else reports
            seen.append((clock.now, pace(name, done * total // reports, total)))
            clock.now += seconds / (reports + 1)
    return [(clock.now - at, one) for at, one in seen]


@pytest.mark.parametrize("slow", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("photos", [60, 4000])
@pytest.mark.parametrize("every_weight", [False, True])
def test_the_time_left_is_within_a_factor_of_two_from_a_tenth_to_seven_tenths(
    slow: float, photos: int, every_weight: bool
) -> None:
    """Before the head is judged nobody knows that every weight will be trained, which takes longest."""
    reports = run(slow, photos, every_weight)
    whole = reports[0][0]
    for left, pace in reports:
        if pace.at_most is None and 0.1 * whole < whole - left < 0.7 * whole:
            assert left / 2 <= pace.seconds_left <= 2 * left, (left / whole, left, pace)


@pytest.mark.parametrize("every_weight", [False, True])
def test_before_the_head_is_judged_both_times_are_told(every_weight: bool) -> None:
    """Whatever is decided then, the estimate is wrong by the same factor, and at most is at most."""
    reports = [(left, pace) for left, pace in run(1.0, 200, every_weight) if pace.at_most is not None]
    assert len(reports) > 50
    for left, pace in reports[10:]:
        assert pace.at_most is not None
        without = pace.seconds_left**2 / pace.at_most
        assert (pace.at_most if every_weight else without) == pytest.approx(left, rel=0.5)


def test_the_share_only_grows_and_ends_near_one() -> None:
    shares = [pace.share for _, pace in run(3.0, 500)]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.1
    assert shares[-1] > 0.97


def test_a_build_that_skips_what_is_there_counts_only_the_rest() -> None:
    clock = Clock()
    pace = BuildPace(clock)
    pace("scan", 0, 300)
    clock.now += 1
    before = pace("scan", 300, 300)
    later = pace("int8 on calibration", 0, 10)
    assert later.seconds_left < 0.8 * before.seconds_left
    assert later.words == "writing and measuring variants: 0 of 10"


def test_a_step_that_no_table_knows_does_not_move_it() -> None:
    pace = BuildPace(Clock())
    pace("prepare", 1, 2)
    assert pace("something new", 1, 10).words.startswith("assigning roles")
