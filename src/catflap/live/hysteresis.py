"""Rules of when the watched decision changes: averaged probabilities, two thresholds, a dwell time. Pure.

The probabilities are averaged over time (an exponential average), and a decision changes only when the
average has stayed beyond a threshold for a while and for several frames, so one bad frame changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from catflap.errors import CatflapError

MARGIN = 4.0  # the factor of the odds between entering a label and leaving it


@dataclass(frozen=True)
class Rules:
    """When a decision changes.

    A label is entered when its averaged probability reaches `enter`, and left when it is below `leave`, for
    `dwell` seconds and `frames` frames in a row. Without `enter` the bundle decides on the average, by its
    own threshold; without `leave` it is `leave_threshold` of the one that enters. `smoothing` is the time
    constant of the average in seconds; 0 uses each frame as it is.
    """

    enter: float | None = None
    leave: float | None = None
    dwell: float = 0.3
    frames: int = 3
    smoothing: float = 0.3

    def __post_init__(self) -> None:
        for option, probability, above in (("--enter", self.enter, 0.5), ("--leave", self.leave, 0)):
            if probability is not None and not above < probability <= 1:
                raise CatflapError(f"{option} is {probability:g}.", f"Use more than {above} and at most 1.")
        for option, value, unit, least, most in (
            ("--dwell", self.dwell, "seconds", 0, 3600),
            ("--smoothing", self.smoothing, "seconds", 0, 3600),
            ("--min-frames", self.frames, "frames", 1, 10_000),
        ):
            if not least <= value <= most:
                raise CatflapError(f"{option} is {value:g} {unit}.", f"Use {least} to {most:,} {unit}.")
        if self.enter is not None and self.leave is not None:
            check_order(self.enter, self.leave)


def check_order(enter: float, leave: float) -> None:
    """Raise CatflapError if a label would be left at a higher probability than it is entered at."""
    if leave > enter:
        raise CatflapError(
            f"--leave {leave:g} is above the {enter:g} at which a label is entered.",
            f"Use at most --leave {enter:g}.",
        )


def leave_threshold(enter: float) -> float:
    """The probability below which a label is left: a quarter of the odds of `enter`, 0.5 for 0.8."""
    return enter / (enter + MARGIN * (1 - enter))


@dataclass(frozen=True)
class Run:
    """Frames in a row that agree, and the seconds from the first of them to the last."""

    frames: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class State:
    """The decision after some frames.

    `current` is the index of the decided label, None for unsure; `average` the averaged probabilities.
    `candidate` is another label that passes its threshold, `entering` the frames for which it did; `leaving`
    are those for which the current label was below `leave`. `clock` is the last frame's, in seconds.
    """

    current: int | None = None
    average: tuple[float, ...] = ()
    candidate: int | None = None
    entering: Run = Run()
    leaving: Run = Run()
    clock: float = 0.0


def average(
    state: State, probabilities: Sequence[float], clock: float, smoothing: float
) -> tuple[float, ...]:
    """The averaged probabilities with one more frame, taken at `clock`."""
    if not state.average:
        return tuple(probabilities)
    passed = max(0.0, clock - state.clock)
    weight = 1 - math.exp(-passed / smoothing) if smoothing > 0 else 1.0
    pairs = zip(state.average, probabilities, strict=True)
    return tuple([old + weight * (new - old) for old, new in pairs])


def step(
    state: State,
    averaged: tuple[float, ...],
    passing: int | None,
    leave: float,
    clock: float,
    rules: Rules,
) -> State:
    """The state after one more frame, whose time is `clock`, in seconds of a clock that should not jump.

    A label takes the place of another that is still above its own leave threshold only if it is MARGIN times
    as likely. `averaged` is what `average` gives, `passing` the label that it passes the threshold of, if
    any, and `leave` the probability below which the current label is left. A clock that goes back counts as
    one that stands still; one that leaps ahead makes the past count less, but still `frames` frames have to
    agree before the decision changes.
    """
    passed = max(0.0, clock - state.clock) if state.average else 0.0
    current = state.current
    candidate = passing if passing != current else None
    before = 0.0 if current is None or averaged[current] < leave else averaged[current]
    if candidate is not None and averaged[candidate] < MARGIN * before:
        candidate = None  # at a threshold of 0.5 two labels would take turns
    entering = leaving = Run()
    if candidate is not None:
        entering = _extend(state.entering if candidate == state.candidate else Run(), passed)
        if entering.frames >= rules.frames and entering.seconds >= rules.dwell:
            return State(candidate, averaged, clock=clock)
    if current is not None and averaged[current] < leave:
        leaving = _extend(state.leaving, passed)
        # While one candidate lasts its run is awaited, so that the decision goes straight to it.
        is_contested = candidate is None or state.candidate not in (None, candidate)
        if is_contested and leaving.frames >= rules.frames and leaving.seconds >= rules.dwell:
            return State(None, averaged, clock=clock)
    return State(current, averaged, candidate, entering, leaving, clock)


def _extend(run: Run, passed: float) -> Run:
    return Run(run.frames + 1, run.seconds + passed if run.frames else 0.0)
