"""What the verbs on the device answer: Prediction and Verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

UNSURE = "unsure"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo: the likeliest label, calibrated probabilities, and a decision.

    `decision` is a label, "unsure" or "unknown"; `ms` is the wall time from photo to answer in milliseconds.
    The rest is there where it was asked for: the `logits`, float32 (labels,); and for the field log and drift
    the `image_statistics` of the frame (runtime/image_statistics.py), the `embedding`, which is the features
    before the head, float32 (width,), and its `ood_score` (runtime/ood.py).
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    decision: str
    ms: float
    logits: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    image_statistics: tuple[float, ...] | None = field(default=None, repr=False, compare=False)
    embedding: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    ood_score: float | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The fields of one line of `catflap predict --json`."""
        names = ("label", "probability", "probabilities", "decision", "ms")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Check:
    """One check of a verification: a number must not exceed `limit`; a string describes what was found."""

    name: str
    passed: bool
    value: float | str
    limit: float | str

    def to_json(self) -> dict[str, Any]:
        """The check as `catflap verify --json` has it."""
        return {"name": self.name, "pass": self.passed, "value": self.value, "limit": self.limit}


@dataclass(frozen=True)
class Verdict:
    """Whether a Bundle works on this machine as tested: passed only when every check passed.

    `not_run` maps each variant that cannot run here to the reason; the Verdict does not cover those.
    """

    bundle: str
    checks: tuple[Check, ...]
    not_run: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True when every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap verify`."""
        return {
            "verdict": "pass" if self.passed else "fail",
            "bundle": self.bundle,
            "checks": [check.to_json() for check in self.checks],
            "not_run": dict(self.not_run),
        }
