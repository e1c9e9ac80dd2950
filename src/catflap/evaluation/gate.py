"""Whether a variant still is the model that was tested: the gate of `export` and `bundle add`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.results import Check
from catflap.errors import CatflapError, Refused
from catflap.evaluation.intervals import Ints, effective_photos, wilson


def fidelity(
    reference_probabilities: npt.ArrayLike,
    variant_probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
) -> dict[str, Any]:
    """How a variant's answers differ from the reference's on the same photos, ready for JSON.

    Probabilities (n, classes), labels and groups (n,). A flip is another likeliest label;
    `accuracy_difference` is variant minus reference; `mcnemar_p` is the exact two-sided p-value
    that one is right more often than the other (McNemar 1947), a group counting once. Raises
    Refused when the variant gives something that is not a number.
    """
    reference = np.asarray(reference_probabilities, np.float64)
    variant = np.asarray(variant_probabilities, np.float64)
    truth, owners = np.asarray(labels, np.int64), np.unique(np.asarray(groups), return_inverse=True)[1]
    if not len(truth) or reference.shape != variant.shape or len(reference) != len(truth):
        raise CatflapError(
            f"Answers of the shapes {reference.shape} and {variant.shape} for {len(truth)} photos "
            "cannot be compared.",
            "Give both models the same photos, at least one.",
        )
    if not (np.isfinite(reference).all() and np.isfinite(variant).all()):
        raise Refused("The variant gave values that are not numbers.", "Export another variant.")
    differences = np.abs(reference - variant)
    before, after = reference.argmax(axis=1), variant.argmax(axis=1)
    flips = int((before != after).sum())
    gained = (after == truth).astype(np.int64) - (before == truth)
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
        "mcnemar_p": _mcnemar(gained, owners),
    }


def gate(
    fidelity: dict[str, Any],
    *,
    max_flip_rate: float,
    max_probability_difference: float,
    max_accuracy_drop: float,
) -> tuple[Check, ...]:
    """The checks that a variant must pass: plain limits on what `fidelity` measured.

    A few photos cannot show that a rate stays under a small limit, nor that it does not (0 flips
    in 100 photos: 0 to 3.7 %), so on a small set the caller allows a stated number of photos,
    number / photos, rather than trust a test of significance that such a set always passes.
    """
    measured = (
        ("flip_rate", fidelity["flip_rate"], max_flip_rate),
        ("probability_difference", fidelity["max_probability_difference"], max_probability_difference),
        ("accuracy_drop", 0.0 - fidelity["accuracy_difference"], max_accuracy_drop),
    )
    return tuple(Check(name, bool(value <= limit + 1e-12), value, limit) for name, value, limit in measured)


def furthest(
    reference_probabilities: npt.ArrayLike, variant_probabilities: npt.ArrayLike, count: int
) -> tuple[tuple[int, int], ...]:
    """The photos whose probabilities changed most, most first: each by its row and the label's column."""
    changes = np.abs(np.asarray(variant_probabilities) - np.asarray(reference_probabilities))
    rows = np.argsort(-changes.max(axis=1), kind="stable")[:count]
    return tuple((int(row), int(changes[row].argmax())) for row in rows)


def _mcnemar(gained: Ints, owners: Ints) -> float:
    """The exact sign test on the groups in which the two models differ in right answers."""
    nets = np.sign(np.bincount(owners, gained))
    better, worse = int((nets > 0).sum()), int((nets < 0).sum())
    total = better + worse
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(min(better, worse) + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))
