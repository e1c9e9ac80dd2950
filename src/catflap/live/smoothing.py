"""From the probabilities of frame after frame to a decision that does not flicker; pure functions.

The probabilities are averaged over time (an exponential average), and a decision changes only when the
average has stayed beyond a threshold for a while and for several frames: one bad frame changes no decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from catflap.errors import CatflapError


@dataclass(frozen=True)
class Rules:
    """When a decision changes.

    A label is entered when its averaged probability is at least `enter`, and left when it is below
    `leave`, for `dwell` seconds and `frames` frames in a row. `smoothing` is the time constant of the
    average in seconds; 0 takes each frame as it is.
    """

    enter: float = 0.8
    leave: float = 0.5
    dwell: float = 0.3
    frames: int = 3
    smoothing: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter <= 1 or self.enter <= 0.5:
            raise CatflapError(
                f"Entering at {self.enter:g} and leaving below {self.leave:g} is not possible.",
                "Use 0 < leave ≤ enter ≤ 1 and an enter above 0.5.",
            )
        for option, value, unit, least, most in (
            ("--dwell", self.dwell, "seconds", 0, 3600),
            ("--smoothing", self.smoothing, "seconds", 0, 3600),
            ("--min-frames", self.frames, "frames", 1, 10_000),
        ):
            if not least <= value <= most:
                raise CatflapError(f"{option} is {value:g} {unit}.", f"Use {least} to {most:,} {unit}.")


@dataclass(frozen=True)
class Run:
    """Frames in a row that agree, and the seconds from the first of them to the last."""

    frames: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class State:
    """What is believed after some frames.

    `current` is the position of the decided label, None for unsure; `average` the averaged probabilities.
    `wanted` is another label whose average has reached `enter`, `entering` the frames for which it has;
    `leaving` are those for which the current label's average was below `leave`. `clock` is the last frame's.
    """

    current: int | None = None
    average: tuple[float, ...] = ()
    wanted: int | None = None
    entering: Run = Run()
    leaving: Run = Run()
    clock: float = 0.0


UNKNOWN = State()


def step(state: State, probabilities: Sequence[float], clock: float, rules: Rules) -> State:
    """The state after one more frame, whose time is `clock`, in seconds of a clock that should not jump.

    A clock that goes back counts as one that stands; one that leaps ahead makes the past count less,
    but still `frames` frames have to agree before the decision changes.
    """
    passed = max(0.0, clock - state.clock) if state.average else 0.0
    average = _averaged(state.average, probabilities, passed, rules.smoothing)
    best = max(range(len(average)), key=average.__getitem__)
    wanted = best if average[best] >= rules.enter and best != state.current else None
    entering = leaving = Run()
    if wanted is not None:
        entering = _longer(state.entering if wanted == state.wanted else Run(), passed)
    if state.current is not None and average[state.current] < rules.leave:
        leaving = _longer(state.leaving, passed)
    if _is_enough(entering, rules):
        return State(wanted, average, clock=clock)
    is_fickle = wanted is None or state.wanted not in (None, wanted)
    if is_fickle and _is_enough(leaving, rules):  # else the run of `wanted` is seen to its end: no detour
        return State(None, average, clock=clock)
    return State(state.current, average, wanted, entering, leaving, clock)


def _averaged(
    before: Sequence[float], now: Sequence[float], passed: float, memory: float
) -> tuple[float, ...]:
    if not before:
        return tuple(now)
    weight = 1 - math.exp(-passed / memory) if memory > 0 else 1.0
    return tuple(old + weight * (new - old) for old, new in zip(before, now, strict=True))


def _longer(run: Run, passed: float) -> Run:
    return Run(run.frames + 1, run.seconds + passed if run.frames else 0.0)


def _is_enough(run: Run, rules: Rules) -> bool:
    return run.frames >= rules.frames and run.seconds >= rules.dwell
