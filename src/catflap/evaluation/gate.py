"""The gate of `export`, `bundle add`: which flips (changed labels) and lost accuracy a variant may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.results import Check
from catflap.errors import CatflapError, Refused
from catflap.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature
from catflap.evaluation.calibration_error import expected_calibration_error
from catflap.evaluation.intervals import Floats, Ints, effective_photos, significantly_positive, wilson
from catflap.evaluation.paired import mcnemar, paired_difference
from catflap.runtime.decisions import softmax

NEAR_BOUND = 1.02  # a temperature within this factor of a bound of the fit was not fitted, but stopped
LOSS_MARGIN = 0.01  # nats per photo; or a quarter of the loss that it is compared with, if that is more
ERROR_MARGIN = 0.02  # of the calibration error; or what so few photos cannot resolve, if that is more


@dataclass(frozen=True)
class GateLimits:
    """What a variant may lose against the Checkpoint before export refuses it.

    `tolerance` is the share of the largest golden logit by which another machine may differ. Labels flip
    among photos that the model hardly decides, and a weak model has more of those: so half of the
    Checkpoint's own errors may flip and a quarter be added (`of_errors`), and at least the stated rates.
    `free` photos are always allowed, because so few prove nothing.
    """

    tolerance: float
    max_flip_rate: float
    max_probability_difference: float
    max_accuracy_drop: float
    of_errors: tuple[float, float]
    free: int


GATE_LIMITS: Mapping[str, GateLimits] = {
    "int8": GateLimits(0.01, 0.005, 0.5, 0.005, (0.5, 0.25), 2),
    "fp16": GateLimits(0.01, 0.001, 0.05, 0.001, (0.1, 0.05), 1),
    "frame": GateLimits(0.001, 0.002, 0.05, 0.002, (0.1, 0.05), 1),  # fp32, but pixels differ by one level
    "fp32": GateLimits(0.001, 0.0, 1e-3, 0.0, (0.0, 0.0), 0),
}


def fidelity(
    reference_probabilities: npt.ArrayLike,
    variant_probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
) -> dict[str, Any]:
    """How a variant's probabilities differ from the reference's on the same photos, ready for JSON.

    Probabilities (n, classes), each at its own temperature; labels and groups (n,). A flip is a change
    of the most probable label. `accuracy_difference` is variant minus reference; `mcnemar_p` is the
    exact two-sided p-value of McNemar's test (1947), each group counted once. Raises Refused when a
    value of the variant is not finite.
    """
    reference = np.asarray(reference_probabilities, np.float64)
    variant = np.asarray(variant_probabilities, np.float64)
    truth, owners = np.asarray(labels, np.int64), np.unique(np.asarray(groups), return_inverse=True)[1]
    if not len(truth) or reference.shape != variant.shape or len(reference) != len(truth):
        raise CatflapError(
            f"Shapes {reference.shape} and {variant.shape} do not match {len(truth)} photos.",
            "Give both models the same photos, at least one.",
        )
    if not (np.isfinite(reference).all() and np.isfinite(variant).all()):
        raise Refused("A probability of the variant is not finite.", "Export another variant.")
    differences = np.abs(reference - variant)
    before, after = reference.argmax(axis=1), variant.argmax(axis=1)
    flips = int((before != after).sum())
    gained = (after == truth).astype(np.int64) - (before == truth)
    accuracy = paired_difference(gained, owners)
    low, high = wilson(flips / len(truth), effective_photos(np.zeros_like(owners), owners, 1)[0])
    return {
        "photos": len(truth),
        "groups": int(owners.max()) + 1,
        "flips": flips,
        "flip_rate": flips / len(truth),
        "flip_rate_low": float(low),
        "flip_rate_high": float(high),
        "max_probability_difference": min(1.0, float(differences.max())),
        "mean_probability_difference": float(differences.mean()),
        "accuracy_difference": float(gained.mean()),
        "accuracy_difference_low": accuracy["low"],
        "accuracy_difference_high": accuracy["high"],
        "mcnemar_p": mcnemar(gained, owners),
    }


def gate(
    fidelity: dict[str, Any],
    *,
    max_flip_rate: float,
    max_probability_difference: float,
    max_accuracy_drop: float,
) -> tuple[Check, ...]:
    """The checks of a variant against limits on what `fidelity` measured.

    A few photos cannot show whether a rate is under a small limit (0 flips in 100 photos: 0 to 3.7 %).
    So on a small set the caller allows a stated number of photos, number / n, instead of a significance
    test, which a small set always passes.
    """
    measured = (
        ("flip_rate", fidelity["flip_rate"], max_flip_rate),
        ("probability_difference", fidelity["max_probability_difference"], max_probability_difference),
        ("accuracy_drop", 0.0 - fidelity["accuracy_difference"], max_accuracy_drop),
    )
    return tuple(Check(name, bool(value <= limit + 1e-12), value, limit) for name, value, limit in measured)


def calibration_checks(
    variant_logits: npt.ArrayLike,
    reference_logits: npt.ArrayLike,
    temperature: float,
    reference_temperature: float,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
) -> tuple[Check, ...]:
    """The checks of a variant's calibration on test photos, each model at its own temperature.

    Logits (n, classes), labels and groups (n,). `temperature`: the fit on the calibration photos did not
    stop at its bound, as it does when their labels are wrong. `calibration_transfer`: the log loss is not
    significantly above that at the best temperature of these photos, or by a margin only.
    `log_loss_increase` and `calibration_error_increase`: variant minus reference. Margins are a
    hundredth of a nat, a quarter of the loss or 4 / groups, and two points of the calibration error or
    1 / sqrt(n).
    """
    truth = np.asarray(labels, np.int64)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    logits, reference = np.asarray(variant_logits, np.float64), np.asarray(reference_logits, np.float64)
    losses, before = _losses(logits, temperature, truth), _losses(reference, reference_temperature, truth)
    best = _losses(logits, fit_temperature(logits, truth, owners), truth)
    few = 4 / (int(owners.max()) + 3)  # Laplace smoothing alone raises the loss of a small set so much
    excess, increase = float((losses - best).mean()), float((losses - before).mean())
    allowed = max(LOSS_MARGIN, float(best.mean()) / 4, few)
    increase_allowed = max(LOSS_MARGIN, float(before.mean()) / 4, few)
    error, error_before = (
        expected_calibration_error(softmax(given, heat), truth)
        for given, heat in ((logits, temperature), (reference, reference_temperature))
    )
    error_allowed = max(ERROR_MARGIN, len(truth) ** -0.5)
    bound = MAX_TEMPERATURE if temperature > 1 else MIN_TEMPERATURE
    fitted = MIN_TEMPERATURE * NEAR_BOUND < temperature < MAX_TEMPERATURE / NEAR_BOUND
    transfers = excess <= allowed or not significantly_positive(losses - best, owners)
    kept = increase <= increase_allowed or not significantly_positive(losses - before, owners)
    return (
        Check("temperature", fitted, temperature, bound),
        Check("calibration_transfer", transfers, excess, allowed),
        Check("log_loss_increase", kept, increase, increase_allowed),
        Check(
            "calibration_error_increase",
            error - error_before <= error_allowed,
            error - error_before,
            error_allowed,
        ),
    )


def furthest(
    reference_probabilities: npt.ArrayLike, variant_probabilities: npt.ArrayLike, count: int
) -> tuple[tuple[int, int], ...]:
    """The photos whose probabilities changed most, in order: (row, column of the label)."""
    changes = np.abs(np.asarray(variant_probabilities) - np.asarray(reference_probabilities))
    rows = np.argsort(-changes.max(axis=1), kind="stable")[:count]
    return tuple((int(row), int(changes[row].argmax())) for row in rows)


def _losses(logits: Floats, temperature: float, truth: Ints) -> Floats:
    """The log loss of each photo."""
    scaled = logits / temperature
    highest = scaled.max(axis=1)
    logs = np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return np.asarray(highest + logs - scaled[np.arange(len(truth)), truth])
