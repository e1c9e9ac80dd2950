"""Do photos get the answers that a Bundle promises? Its stated figures compared, and what explains a gap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catflap.artifacts.bundle import Variant
from catflap.evaluation.drift_baseline import OOD, Drift
from catflap.evaluation.intervals import Flags, Ints, Metric, effective_photos, share
from catflap.runtime.decisions import TOP

LEVEL = 0.002  # p-value of a difference, divided by the number of comparisons: few folders alarm by chance
NO_DECISION = -1  # the number of "unsure", "unknown" and of other words that are no label
UNLABELLED = -1  # the number of a photo without a label that the Bundle knows
RENAMED = 0.8  # share of the photos of an unknown label that get one and the same label
NONE = "there are no such photos"


def compare_with_promises(
    variant: Variant,
    labels: Sequence[str],
    prior: Mapping[str, float],
    predicted: Ints,
    decided: Ints,
    truth: Ints,
    groups: Ints,
    drift: Drift | None = None,
) -> dict[str, Any]:
    """A variant's part of the verdict in report.json: `pass`, `checks`, `explanations` and `not_stated`.

    `predicted` (n,) are the numbers of the likeliest labels, `decided` (n,) those of the decided ones, -1 for
    no decision; `truth` (n,) the true ones, -1 for photos without a known label. `groups` (n,) name photos
    that are not independent. Compared are the recall of each label that occurs, the share of wrong decisions
    and the share without a decision: a check fails where the photos do worse, by Fisher's exact test with
    p < 0.002 divided by the number of checks, groups counted. `drift` fails a check only where no photo has a
    known label, so that nothing else can be compared; else it is an explanation. `not_stated` names figures
    that the Bundle, of an earlier version or another writer, does not have.
    """
    known = truth != UNLABELLED
    recalls = _recall_checks(variant, labels, predicted, truth, groups)
    checks = [
        *recalls,
        *_wrong_check(variant, decided, truth, groups),
        *_decided_check(variant, decided, groups),
    ]
    for check in checks:
        check["pass"] = bool(check["p"] >= LEVEL / len(checks))
    if drift is not None and not known.any():
        checks.append(
            {
                "name": "drift", "value": round(drift.score, 4), "promised": 1.0, "p": drift.p,
                "pass": not drift.alarm,
                "text": f"Drift score {drift.score:.2f}, limit 1; furthest off: {_named(drift.most)}.",
            }
        )  # fmt: skip
    passed = all(check["pass"] for check in checks)
    explanations = [
        *_permuted(variant, labels, predicted, truth, groups, recalls),
        *_other_mix(labels, prior, truth, groups),
        *_other_camera(drift, passed and bool(known.any())),
    ]
    if not passed and not explanations:
        explanations = [
            {
                "kind": "unexplained",
                "text": "Neither permuted labels, nor another mix of labels, nor another camera explains it. "
                "Look at the worst mistakes, and check the labels: catflap audit.",
            }
        ]
    return {
        "pass": passed,
        "checks": checks,
        "explanations": explanations,
        "not_stated": _not_stated(variant),
    }


def _not_stated(variant: Variant) -> list[str]:
    stated = {
        "the recall of each label": "per_class" in variant.metrics,
        "how often it decides": bool(variant.decisions),
        "an error rate of its decisions": variant.decision.get("rule") == TOP,
    }
    return [name for name, known in stated.items() if not known]


def worse_than_promised(hits: float, photos: float, promised_hits: float, promised_photos: float) -> float:
    """The p-value of so few hits among photos beside those that were promised (Fisher's exact test).

    Counts are those of independent photos; fractions are rounded.
    """
    n, m = round(photos), round(promised_photos)
    k, both = min(round(hits), n), min(round(hits), n) + min(round(promised_hits), m)
    if not n or not m:
        return 1.0
    fewest = max(0, both - m)
    possible = np.arange(fewest, k + 1)
    log = np.array([_log_choose(n, i) + _log_choose(m, both - i) for i in possible.tolist()])
    return float(min(1.0, np.exp(log - _log_choose(n + m, both)).sum()))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _recall_checks(
    variant: Variant, labels: Sequence[str], predicted: Ints, truth: Ints, groups: Ints
) -> list[dict[str, Any]]:
    """The recall of each label that occurs beside the one that the Bundle states."""
    found = []
    for number, label in enumerate(labels):
        stated, chosen = _stated_recall(variant, label), truth == number
        if stated is None or not chosen.any():
            continue
        promised, size = stated
        here = _rate(predicted == number, chosen, groups)
        value, effective = here["value"], _effective(chosen, groups)
        p = worse_than_promised(value * effective, effective, promised["value"] * size, size)
        text = f"Recall of {label} is {_range(here)}; the bundle promises {_range(promised)}."
        found.append(_check(f"recall:{label}", here, promised, p, text))
    return found


def _stated_recall(variant: Variant, label: str) -> tuple[Metric, float] | None:
    """The recall of a label that the Bundle states, and on how many independent photos."""
    metrics = variant.metrics
    row = metrics.get("per_class", {}).get(label)
    if row is None or row["recall"]["value"] is None or not metrics.get("photos"):
        return None
    independent = metrics.get("groups", metrics["photos"]) / metrics["photos"]
    return row["recall"], row["support"] * independent


def _wrong_check(variant: Variant, decided: Ints, truth: Ints, groups: Ints) -> list[dict[str, Any]]:
    """The share of wrong decisions beside the stated error rate, which the calibration photos prove."""
    decision, known = variant.decision, truth != UNLABELLED
    if decision.get("rule") != TOP or "curve" not in decision or not known.any():
        return []
    rate = decision["error_rate"]
    here = _rate((decided != truth) & (decided != NO_DECISION), known, groups)
    effective, size = _effective(known, groups), decision.get("groups", decision["photos"]) + 1
    p = worse_than_promised((1 - here["value"]) * effective, effective, size - math.floor(size * rate), size)
    promised = {"value": rate, "low": 0.0, "high": rate}
    text = f"Wrong decisions: {_range(here)}; the bundle promises at most {rate:g}."
    return [_check("wrong", here, promised, p, text)]


def _decided_check(variant: Variant, decided: Ints, groups: Ints) -> list[dict[str, Any]]:
    """The share of photos with a decision beside the one on the test photos; it needs no labels."""
    stated = variant.decisions
    if not stated or stated["decided"]["value"] is None or not len(decided):
        return []
    everything = np.ones(len(decided), np.bool_)
    here, promised = _rate(decided != NO_DECISION, everything, groups), stated["decided"]
    effective, size = _effective(everything, groups), stated["groups"]
    p = worse_than_promised(here["value"] * effective, effective, promised["value"] * size, size)
    text = f"Decided: {_range(here)}; the bundle promises {_range(promised)}."
    return [_check("decided", here, promised, p, text)]


def _permuted(
    variant: Variant,
    labels: Sequence[str],
    predicted: Ints,
    truth: Ints,
    groups: Ints,
    recalls: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The permutation of labels that restores the promised recalls, where there is one.

    Each label that occurs is taken for the label that most of its photos get; it counts if no two are taken
    for the same one, and if the mapped labels pass the checks of recall.
    """
    if all(check["pass"] for check in recalls):
        return []
    given = np.unique(truth[truth != UNLABELLED])
    answers = [np.bincount(predicted[truth == number], minlength=len(labels)) for number in given]
    taken = np.array([int(counts.argmax()) for counts in answers])
    if len(set(taken.tolist())) < len(taken) or (taken == given).all():
        return []
    mapped = truth.copy()
    for number, other in zip(given, taken, strict=True):
        mapped[truth == number] = other
    restored = _recall_checks(variant, labels, predicted, mapped, groups)
    if any(check["p"] < LEVEL / len(restored) for check in restored):
        return []
    right = int((predicted == mapped)[truth != UNLABELLED].sum())
    changed = {
        labels[number]: labels[other]
        for number, other in zip(given.tolist(), taken.tolist(), strict=True)
        if number != other
    }
    pairs = ", ".join(f"{label} is {other}" for label, other in list(changed.items())[:20])
    return [
        {
            "kind": "permuted labels", "permutation": changed,
            "accuracy": round(right / int((truth != UNLABELLED).sum()), 6),
            "text": f"Permuted labels: if {pairs}, {right:,} of {int((truth != UNLABELLED).sum()):,} answers "
            "are right, as promised. Compare the folders' names with the bundle's labels.",
        }
    ]  # fmt: skip


def _other_mix(
    labels: Sequence[str], prior: Mapping[str, float], truth: Ints, groups: Ints
) -> list[dict[str, Any]]:
    """The shares of the labels beside those in training, where Pearson's test tells them apart."""
    known = truth != UNLABELLED
    if not known.any():
        return []
    effective = _effective(known, groups)
    trained = np.array([prior[label] for label in labels], np.float64)
    shares = np.bincount(truth[known], minlength=len(labels)) / known.sum()
    statistic = effective * float(((shares - trained) ** 2 / np.maximum(trained, 1e-12)).sum())
    freedom = max(1, len(labels) - 1)  # Wilson and Hilferty's approximation of chi-squared
    deviate = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    if 0.5 * math.erfc(deviate / math.sqrt(2)) >= LEVEL:
        return []
    furthest = int(np.abs(shares - trained).argmax())
    stated = (
        f" State it: --prior {labels[furthest]}={shares[furthest]:.3g}." if 0 < shares[furthest] < 1 else ""
    )
    return [
        {
            "kind": "another mix",
            "shares": {label: round(float(one), 6) for label, one in zip(labels, shares, strict=True)},
            "text": f"Another mix of labels: {labels[furthest]} is {100 * shares[furthest]:.3g} % of these "
            f"photos and {100 * trained[furthest]:.3g} % in training.{stated}",
        }
    ]


def _other_camera(drift: Drift | None, is_promise_kept: bool) -> list[dict[str, Any]]:
    """The statistics of the photos that differ from those of the calibration photos."""
    if drift is None or not drift.alarm:
        return []
    names = [_named(name) for name, score in drift.scores.items() if score > 1]
    if is_promise_kept:
        advice = "The promise holds all the same."
    else:
        advice = "They are other photos than it was calibrated on: another camera, light or kind of thing."
    return [
        {
            "kind": "other photos", "scores": {name: round(one, 4) for name, one in drift.scores.items()},
            "text": f"Other photos than the calibration photos, by {', '.join(names)}. {advice}",
        }
    ]  # fmt: skip


def _named(statistic: str) -> str:
    return {OOD: "the OOD score of the embedding"}.get(statistic, statistic)


def unknown_labels(names: Sequence[str], labels: Sequence[str], decided: Ints) -> list[dict[str, Any]]:
    """What the photos of labels that the Bundle does not know are answered, an entry a label.

    `names` (n,) are the labels as the photos' source states them, `decided` (n,) the numbers of what is
    decided, -1 for no label.
    """
    stated, found = np.array(names, object), []
    for name in sorted(set(names) - {*labels, ""}):
        answers = decided[stated == name]
        counts = {label: int((answers == number).sum()) for number, label in enumerate(labels)}
        most = max(counts, key=counts.__getitem__)
        is_renamed = counts[most] >= RENAMED * len(answers)
        text = f"The bundle does not know {name!r}: {len(answers):,} photos, of which " + (
            f"{counts[most]:,} are answered {most}"
            + (" (the same thing under another name?)." if is_renamed else ".")
        )
        none = int((answers == NO_DECISION).sum())
        found.append(
            {"label": name, "photos": len(answers), "no_decision": none, "answers": counts, "text": text}
        )
    return found


def _check(name: str, here: Metric, promised: Metric, p: float, text: str) -> dict[str, Any]:
    kept = {key: promised[key] for key in ("value", "low", "high")}
    return {"name": name, **here, "promised": kept, "p": p, "text": text}


def _rate(hits: Flags, among: Flags, groups: Ints) -> Metric:
    return share(int((hits & among).sum()), int(among.sum()), _effective(among, groups), NONE)


def _effective(among: Flags, groups: Ints) -> float:
    owners = np.unique(groups, return_inverse=True)[1].astype(np.int64)[among]
    return float(effective_photos(np.zeros(len(owners), np.int64), owners, 1)[0])


def _range(rate: Metric) -> str:
    return "{value:.4f} ({low:.4f} to {high:.4f})".format(**rate)
