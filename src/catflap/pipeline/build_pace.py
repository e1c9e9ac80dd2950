"""How much of a build is done and how long the rest takes, from the steps that it reports.

Each step has an expected time, by the number of photos, on two cores; how fast the finished part was here
scales what is left. The step that runs is extrapolated from itself as soon as it can be. Whether every weight
is trained is known only when the head is judged. Until then the time left is the geometric mean of the times
with it and without it, which is wrong by the same factor either way, and `at_most` is the time with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from time import monotonic

GUESSED_PHOTOS = 500  # until the photos are counted
PRIOR_SECONDS = 1.0  # of expected time, by which a first measurement counts little
EXTRAPOLATED = 0.1  # share of a step after which it is extrapolated from itself
LEAST_SECONDS = 1.0
OVERDUE = 0.2  # of a step that takes longer than expected is always left


@dataclass(frozen=True)
class Step:
    """A step of a build: its name as reported, what it does, and its expected seconds.

    `a_photo` and `a_root` are seconds for each photo and for each of their square root. A `rare` step counts
    only once it runs; the parts of `several` in one are each reported from 0 to all.
    """

    name: str  # a regular expression
    words: str
    fixed: float = 0.0
    a_photo: float = 0.0
    a_root: float = 0.0
    rare: bool = False
    several: bool = False

    def seconds(self, photos: int) -> float:
        """The expected seconds."""
        return self.fixed + self.a_photo * photos + self.a_root * sqrt(photos)


INSIDE = {"slim backbone": "fitting the slim backbone to the photos"}  # steps that run inside another
EVERY_WEIGHT = "train every weight"
STEPS = (
    Step("scan", "reading photos", 0.7, 0.0008),
    Step("duplicates", "looking for near-duplicates", 0.1, 0.0001),
    Step("profile", "describing the photos", 0.3, 0.0003),
    Step("prepare", "assigning roles and packing photos", 0.2, 0.0004),
    Step("profile", "describing the roles", 0.4, 0.0002),
    Step("trials measured|slim backbone", "measuring two backbones", 14.0),
    Step(".* at .* px, .*", "comparing backbones", 0.5, 0.003),
    Step("heads", "fitting the head", 0.5, 0.0004),
    Step(".* at .* px, .*", "comparing backbones", 0.5, 0.005),
    Step("heads", "fitting the head", 0.5, 0.0004),
    Step("features of train", "computing features of train photos", 0.1, 0.001),
    Step("features of validation", "computing features of validation photos", 0.1, 0.0002),
    Step("heads", "fitting the head", 1.0, 0.0015),
    Step("warm up", "learning what the photos look like, without labels", a_root=2.2, rare=True),
    Step("features after the warm-up", "computing features of all photos again", 0.1, 0.03, rare=True),
    Step(EVERY_WEIGHT, "training every weight", a_root=15.0, rare=True),
    Step(EVERY_WEIGHT, "training every weight, with validation photos", a_root=6.0, rare=True),
    Step("features of calibration", "learning from calibration photos", 0.5, 0.001),
    Step(
        "write .*|.* on calibration|.* on test", "writing and measuring variants", 40.0, 0.007, several=True
    ),
    Step("verify", "verifying the bundle", 1.0),
    Step("evaluate .*", "measuring on test photos", 1.5, 0.002, several=True),
)


RARE = [place for place, step in enumerate(STEPS) if step.rare]
NOTABLE = 1.5  # times longer with the rare steps, from which on both times are shown


@dataclass(frozen=True)
class Pace:
    """The share of a build that is done, the seconds that are left, and what runs, for people.

    `at_most` are the seconds that are left if every weight is trained, as long as that is not known.
    """

    share: float
    seconds_left: float
    words: str
    at_most: float | None = None


class BuildPace:
    """Turns the steps that a build reports into a Pace; keeps where it is, and its clock."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._photos = GUESSED_PHOTOS
        self._place = -1
        self._behind = 0.0  # expected seconds of the steps that ran
        self._share = 0.0
        self._step_begun = self._begun
        self._first = 0.0  # the share of the step that a stopped run had done
        self._part = 0.0

    def __call__(self, step: str, done: int, total: int) -> Pace:
        """The Pace after a progress report of `build`."""
        if step == "scan" and total:
            self._photos = total
        part = done / total if total else 0.0
        self._move(step, part)
        now = self._clock()
        current = STEPS[self._place] if self._place >= 0 else Step("", step, 0, 0)
        if step not in INSIDE and not current.several:
            self._part = part
        left, longer = self._left(now), self._left(now, rare=True)
        at_most = longer if self._place < RARE[0] and longer > NOTABLE * left else None
        if at_most is not None:
            left = sqrt(left * at_most)
        spent = max(now - self._begun, 1e-9)
        self._share = max(self._share, min(1.0, spent / (spent + left)))
        counted = f": {done:,} of {total:,}" if total > 1 else ""
        words = INSIDE.get(step, current.words)
        return Pace(self._share, left, f"{words}{counted}", at_most)

    def _move(self, step: str, part: float) -> None:
        """Go on to the step's place in the table, if it is ahead."""
        here = STEPS[self._place] if self._place >= 0 else None
        ahead = range(self._place + 1, len(STEPS))
        found = next((place for place in ahead if re.fullmatch(STEPS[place].name, step)), None)
        anew = part < self._part  # a step of the same name begins
        if found is None or (here is not None and re.fullmatch(here.name, step) and not anew):
            return
        if here is not None:
            self._behind += (1 - self._first) * here.seconds(self._photos)
        self._place, self._step_begun = found, self._clock()
        self._first = self._part = 0.0 if STEPS[found].several else part

    def _left(self, now: float, *, rare: bool = False) -> float:
        """The seconds left; `rare` ones count as soon as the first of them runs, or if asked for."""
        current = STEPS[self._place] if self._place >= 0 else None
        rare = rare or (current is not None and current.rare)
        later = sum(step.seconds(self._photos) for step in STEPS[self._place + 1 :] if rare or not step.rare)
        if current is None:
            return later
        expected, taken = (1 - self._first) * current.seconds(self._photos), now - self._step_begun
        before = self._step_begun - self._begun
        pace = (before + PRIOR_SECONDS) / (self._behind + PRIOR_SECONDS)
        overdue = (before + taken + PRIOR_SECONDS) / (self._behind + expected + PRIOR_SECONDS)
        fresh = (self._part - self._first) / max(1e-9, 1 - self._first)
        if fresh >= EXTRAPOLATED and taken > LEAST_SECONDS:
            whole = taken / fresh
            pace = (before + whole + PRIOR_SECONDS) / (self._behind + expected + PRIOR_SECONDS)
            return whole - taken + later * pace
        pace = max(pace, overdue)
        return max(OVERDUE * expected * (1 - fresh), expected * pace - taken) + later * pace
