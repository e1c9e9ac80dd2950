"""From the probabilities of frame after frame to a decision that does not flicker; pure functions.

The probabilities are averaged over time (an exponential average), and a decision changes only when the
average has stayed beyond a threshold for a while and for several frames: one bad frame opens no door.
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
    `leave`, for `dwell` seconds and `frames` frames in a row. `memory` is the time constant of the
    average in seconds; 0 takes each frame as it is.
    """

    enter: float = 0.8
    leave: float = 0.5
    dwell: float = 0.3
    frames: int = 3
    memory: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter <= 1 or self.enter <= 0.5:
            raise CatflapError(
                f"Entering at {self.enter:g} and leaving below {self.leave:g} is not possible.",
                "Use 0 < leave ≤ enter ≤ 1 and an enter above 0.5.",
            )
        times = (self.dwell, self.memory)
        if not all(0 <= seconds <= 3600 for seconds in times) or not 1 <= self.frames <= 10_000:
            raise CatflapError(
                f"A dwell of {self.dwell:g} s and {self.frames} frames with a memory of {self.memory:g} s "
                "is not possible.",
                "Use 0 to 3600 s, and at least 1 frame.",
            )


@dataclass(frozen=True)
class State:
    """What is believed after some frames.

    `current` is the position of the decided label, None for unsure; `average` the averaged probabilities.
    `wanted` is what the last `count` frames ask for instead, for `held` seconds; `clock` the last frame's.
    """

    current: int | None = None
    average: tuple[float, ...] = ()
    wanted: int | None = None
    count: int = 0
    held: float = 0.0
    clock: float = 0.0


UNKNOWN = State()


def step(state: State, probabilities: Sequence[float], clock: float, rules: Rules) -> State:
    """The state after one more frame, whose time is `clock`, in seconds of a clock that should not jump.

    A clock that goes back counts as one that stands; one that leaps ahead makes the past count less,
    but still `frames` frames have to agree before the decision changes.
    """
    passed = max(0.0, clock - state.clock) if state.average else 0.0
    average = _averaged(state.average, probabilities, passed, rules.memory)
    wanted = _wanted(state.current, average, rules)
    if wanted == state.current:
        return State(state.current, average, clock=clock)
    again = state.count > 0 and wanted == state.wanted
    count = state.count + 1 if again else 1
    held = state.held + passed if again else 0.0
    if count >= rules.frames and held >= rules.dwell:
        return State(wanted, average, clock=clock)
    return State(state.current, average, wanted, count, held, clock)


def _averaged(
    before: Sequence[float], now: Sequence[float], passed: float, memory: float
) -> tuple[float, ...]:
    if not before:
        return tuple(now)
    weight = 1 - math.exp(-passed / memory) if memory > 0 else 1.0
    return tuple(old + weight * (new - old) for old, new in zip(before, now, strict=True))


def _wanted(current: int | None, average: Sequence[float], rules: Rules) -> int | None:
    """What the average alone asks for: the likeliest label when it enters, the current one, or None."""
    best = max(range(len(average)), key=average.__getitem__)
    if average[best] >= rules.enter:
        return best
    if current is not None and average[current] >= rules.leave:
        return current
    return None
