"""The budget of a variant in MB, ms and accuracy, and the choice among judged variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catflap.errors import CatflapError, Refused
from catflap.image import Pixels
from catflap.runtime.bench import DeviceProfile, device_slowdown, median_ms
from catflap.runtime.engine import Model, check_threads


@dataclass(frozen=True)
class Budget:
    """Limits for each variant: the MB of its files, the ms of its network for one frame, its accuracy.

    The accuracy is that on calibration photos, because test photos must not choose what they judge. ms are
    measured here with `threads`, one by default; with a device profile they are scaled to that device, with
    the threads it was profiled with. Stating both is a CatflapError.
    """

    max_mb: float | None = None
    max_ms: float | None = None
    min_accuracy: float | None = None
    threads: int | None = None
    device: DeviceProfile | None = None

    def __post_init__(self) -> None:
        for name in ("max_mb", "max_ms", "min_accuracy"):
            limit = getattr(self, name)
            if limit is not None and not 0 < limit < 1e9:
                raise CatflapError(f"A budget of {limit:g} is not possible.", "Use numbers above 0.")
        if self.min_accuracy is not None and self.min_accuracy > 1:
            raise CatflapError("No accuracy is above 1.", "Use a share, such as 0.98.")
        check_threads(self.threads)
        if self.threads is not None and self.device is not None:
            raise CatflapError(
                f"The device was profiled with its own number of threads, {self.device.threads}.",
                "Leave out --threads, or profile it with others.",
            )


class LatencyMeter:
    """The latency of one frame on the intended device, which is compared with this machine once."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.scale = 1.0 if budget.device is None else device_slowdown(budget.device)

    def ms(self, model: Model, frame: Pixels) -> float:
        """The milliseconds of a model that was opened with `threads`, scaled to the device."""
        return median_ms(lambda: model(frame)) * self.scale

    @property
    def threads(self) -> int:
        """The number of threads to open models with."""
        device = self.budget.device
        return self.budget.threads or 1 if device is None else device.threads

    @property
    def place(self) -> str:
        """Where the milliseconds were measured, in words."""
        device = self.budget.device
        if device is not None:
            return f"on {device.name()}, scaled"
        return "here with 1 thread" if self.threads == 1 else f"here with {self.threads} threads"


def choose_variants(costs: Mapping[str, Mapping[str, float]], clock: LatencyMeter) -> list[str]:
    """The variants within the budget: the most accurate on calibration photos first, then the fastest.

    `costs` maps variants to mb, ms, accuracy (on test photos) and calibration_accuracy. Raises Refused,
    which names the nearest variant and its limits, when none is within the budget.
    """
    over = {name: _overshoot(cost, clock.budget) for name, cost in costs.items()}
    fitting = [name for name in costs if over[name] <= 1]
    if not fitting:
        nearest = min(costs, key=lambda name: over[name])
        raise Refused(
            f"No variant fits the budget. Nearest is {nearest}: {_describe(costs[nearest], clock)}.",
            "Loosen the budget, add --targets, or train with a smaller --size or another backbone.",
        )
    return sorted(fitting, key=lambda name: (-costs[name]["calibration_accuracy"], costs[name]["ms"]))


def _overshoot(cost: Mapping[str, float], budget: Budget) -> float:
    """The worst ratio of a cost to its limit, at most 1 within the budget; for accuracy, of errors."""
    parts = [0.0]
    if budget.max_mb is not None:
        parts.append(cost["mb"] / budget.max_mb)
    if budget.max_ms is not None:
        parts.append(cost["ms"] / budget.max_ms)
    if budget.min_accuracy is not None and cost["calibration_accuracy"] < budget.min_accuracy:
        parts.append((1 - cost["calibration_accuracy"]) / max(1 - budget.min_accuracy, 1e-6))
    return max(parts)


def _describe(cost: Mapping[str, float], clock: LatencyMeter) -> str:
    budget, right = clock.budget, cost["calibration_accuracy"]
    limits: list[tuple[Any, str, bool]] = [
        (budget.max_mb, f"{cost['mb']:.2f} MB of {budget.max_mb} allowed", cost["mb"] > (budget.max_mb or 0)),
        (
            budget.max_ms,
            f"{cost['ms']:.2f} ms {clock.place} of {budget.max_ms} allowed",
            cost["ms"] > (budget.max_ms or 0),
        ),
        (
            budget.min_accuracy,
            f"accuracy {right:.4f} of {budget.min_accuracy} wanted on calibration photos",
            right < (budget.min_accuracy or 0),
        ),
    ]
    return ", ".join(
        text + (" (misses)" if missed else "") for limit, text, missed in limits if limit is not None
    )
