"""The Verdict of `verify` with its checks, and the decisions that are no label: `unsure` and `unknown`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

UNSURE = "unsure"
UNKNOWN = "unknown"


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
