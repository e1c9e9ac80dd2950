"""How often the 95 % intervals of a page hold the truth: simulated sets with near-duplicates, seeded.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --sets 200

A set has two labels; a quarter of its groups are 2 to 4 nearly equal photos. Weak classifiers are right on
76 % of photos, good ones on 99 %. The truth is measured on 400,000 groups of the same source. Each line is
one kind of set: the coverage of every figure, the least and the mean. An interval should hold 93 to 97 % of
1,000 sets; figures of few mistakes may be above, since those of a discrete count cannot be exactly 95 %.

    python benchmarks/coverage.py --calibration

The calibration error alone, which is the hardest, in more kinds of sets: few photos, ten labels, groups of
up to 12 photos or of one, probabilities that are right, too high and too low.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[Any]
NAMES = ["cat", "other"]
WEAK, GOOD = 1.5, 5.0  # shifts of the true label's logit: accuracy 0.76 and 0.99
KINDS = ((150, WEAK), (2000, WEAK), (500, GOOD), (4000, GOOD))  # groups, shift
CALIBRATION_KINDS = (  # groups, shift, temperature, the largest group, labels
    (60, 3.0, 1.0, 1, 2),
    (150, WEAK, 1.0, 4, 2),
    (150, WEAK, 1.5, 4, 2),
    (150, 3.0, 1.0, 1, 2),
    (300, 3.0, 0.75, 12, 2),
    (300, 3.0, 0.4, 12, 2),
    (500, WEAK, 0.6, 1, 2),
    (500, 3.0, 1.0, 4, 10),
    (500, GOOD, 0.2, 4, 2),
    (500, GOOD, 0.45, 4, 2),
    (500, GOOD, 1.0, 4, 2),
    (1000, 3.0, 0.75, 1, 2),
    (2000, WEAK, 1.0, 4, 2),
    (2000, WEAK, 1.53, 4, 2),
    (2000, 3.0, 0.75, 1, 10),
    (4000, GOOD, 0.2, 4, 2),
    (4000, GOOD, 0.46, 4, 2),
    (4000, GOOD, 1.0, 4, 2),
)


def main() -> None:
    """Simulate and print."""
    from machine import header  # beside this script; a test imports the rest of it

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--calibration", action="store_true")
    args = parser.parse_args()
    header(sets=args.sets)
    for of in CALIBRATION_KINDS if args.calibration else ():
        print(json.dumps(calibration_coverage(*of, args.sets)), flush=True)
    if args.calibration:
        return
    for groups, shift in KINDS:
        found = coverage(groups, shift, args.sets)
        kind = "weak" if shift == WEAK else "good"
        about = {"groups": groups, "classifier": kind, "mean": float(np.mean(list(found.values())))}
        print(json.dumps({**about, "least": min(found.values()), "figures": found}), flush=True)


def coverage(groups: int, shift: float, sets: int, seed: int = 15) -> dict[str, float]:
    """The share of simulated sets in which the interval of each figure holds the truth.

    Figures that fewer than half of the sets can show, such as recall at a low rate, are left out.
    """
    rng = np.random.default_rng(seed)
    truth = figures(*source(rng, 400_000, shift, 1.0))
    held, given = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for number in range(sets):
        for name, found in figures(*source(rng, groups, shift, 1.0), seed=number).items():
            if found["low"] is not None:
                given[name] += 1
                held[name] += found["low"] <= truth[name]["value"] <= found["high"]
    return {name: round(held[name] / given[name], 4) for name in truth if given[name] > sets / 2}


def calibration_coverage(
    groups: int, shift: float, temperature: float, largest: int, labels: int, sets: int, seed: int = 3
) -> dict[str, float]:
    """How often the interval of the calibration error holds the population's, lies above it and below it."""
    from catflap.evaluation.calibration_error import calibration_error, expected_calibration_error
    from catflap.runtime.decisions import softmax

    rng = np.random.default_rng(seed)
    kind = (shift, temperature, largest, labels)
    logits, truth, _ = source(rng, 400_000, *kind)
    error, found = expected_calibration_error(softmax(logits), truth), list[tuple[float, ...]]()
    for number in range(sets):
        logits, truth, owners = source(rng, groups, *kind)
        given = softmax(logits)
        one = calibration_error(given.max(axis=1), given.argmax(axis=1) == truth, owners, number)
        found.append((one["value"], one["low"], one["high"]))
    values, lows, highs = np.array(found).T
    return {
        "groups": groups,
        "shift": shift,
        "temperature": temperature,
        "largest group": largest,
        "labels": labels,
        "population": round(error, 4),
        "sample": round(float(values.mean()), 4),
        "held": float(((lows <= error) & (error <= highs)).mean()),
        "above": float((lows > error).mean()),
        "below": float((highs < error).mean()),
        "width": round(float((highs - lows).mean()), 4),
    }


def source(
    rng: np.random.Generator, groups: int, shift: float, temperature: float, largest: int = 4, labels: int = 2
) -> tuple[Rows, Rows, Rows]:
    """Logits, labels and groups; a quarter of the groups have 2 to `largest` nearly equal photos."""
    truth = (rng.random(groups) < 2 / 3).astype(int) if labels == 2 else rng.integers(0, labels, groups)
    logits = rng.normal(0, 1.5, (groups, labels))
    logits[np.arange(groups), truth] += shift
    sizes = np.ones(groups, int)
    if largest > 1:
        sizes += (rng.random(groups) < 0.25) * rng.integers(1, largest, groups)
    owners = np.repeat(np.arange(groups), sizes)
    noisy = logits[owners] + rng.normal(0, 0.2, (len(owners), labels))
    return noisy / temperature, truth[owners], owners


def figures(logits: Rows, labels: Rows, owners: Rows, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Every figure with an interval on the page of two labels, the decisions' too."""
    from catflap.evaluation.decision_rates import decision_rates
    from catflap.evaluation.metrics import measure
    from catflap.runtime.decisions import DecisionRule, decide, softmax

    metrics = measure(logits, labels, owners, NAMES, seed=seed)
    cat = metrics["per_class"]["cat"]
    rule, matrix = DecisionRule(0.9, 0.02), metrics["confusion_matrix"]
    rates = decision_rates(decide(softmax(logits), NAMES, rule), labels, owners, NAMES)
    return {
        **{name: metrics[name] for name in ("accuracy", "macro_f1", "roc_auc", "log_loss")},
        "calibration_error": metrics["calibration_error"],
        **{f"cat {name}": cat[name] for name in ("precision", "recall", "f1")},
        **{f"cat recall at {rate}": cat["recall_at_fpr"][rate] for rate in ("0.01", "0.001")},
        **{name: rates[name] for name in ("decided", "right", "wrong", "unsure", "wrong_when_decided")},
        **{
            f"cat {name}": rates["per_label"]["cat"][name] for name in ("decided", "right", "wrong", "unsure")
        },
        "cat roc_auc": cat["roc_auc"],
        "cat taken for other": {bound: matrix[bound][0][1] for bound in ("value", "low", "high")},
        **slice_figures(softmax(logits).argmax(axis=1) == labels, labels, owners),
    }


def slice_figures(right: Rows, labels: Rows, owners: Rows) -> dict[str, dict[str, Any]]:
    """The two figures of a slice of a third of the groups."""
    from catflap.evaluation.slices import judge_slices

    found = judge_slices(right, labels, owners, NAMES, {"third": owners % 3 == 0})
    row = next(row for row in found["rows"] if row["label"] is None)
    return {"slice": row["right"], "elsewhere": row["elsewhere"]}


if __name__ == "__main__":
    main()
