"""Two models on the same photos (diff, canary): may B replace A, by which margin; paired intervals, McNemar.

`catflap diff`, the fidelity of a variant in `export` and `bundle add`, and the shadow of `serve` use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError
from catflap.evaluation.intervals import (
    Flags,
    Floats,
    Ints,
    Metric,
    Z,
    clustered_variance,
    effective_photos,
    holm,
    metric,
    missing,
    share,
)

MARGIN = 0.01  # of the error rate: how much worse B may be and still replace A
LEVEL = 0.05  # of the family of all labels and slices, for "B is worse here"
PHOTOS_OF_A_SLICE = 10  # of fewer the interval is of no use


def paired_difference(gained: npt.ArrayLike, groups: npt.ArrayLike) -> Metric:
    """The mean of B minus A with its 95 % interval, from -1, 0 or 1 for each photo (n,), by groups (n,).

    The adjusted interval of Bonett and Price (2012), a pseudo-observation in each discordant cell, at the
    sample size that matches the cluster-robust variance; Kish's size (1965) where no photo differs.
    """
    values, owners = _arrays(gained, groups)
    if not len(values):
        return missing("there are no such photos")
    mean, up, down = float(values.mean()), float((values > 0).mean()), float((values < 0).mean())
    size = float(effective_photos(np.zeros_like(owners), owners, 1)[0])
    variance, _ = clustered_variance((values - mean) / len(values), owners)
    simple = up + down - mean**2
    if variance > 0 and simple > 0:
        size = min(max(simple / variance, size), float(len(values)))
    up, down = (up * size + 1) / (size + 2), (down * size + 1) / (size + 2)
    half = Z * math.sqrt((up + down - (up - down) ** 2) / (size + 2))
    return metric(mean, max(-1.0, min(mean, up - down - half)), min(1.0, max(mean, up - down + half)))


def mcnemar(gained: npt.ArrayLike, groups: npt.ArrayLike) -> float:
    """The exact two-sided p-value of McNemar's test (1947) on -1, 0 or 1 for each photo (n,).

    Each of the groups (n,) counts once, by the sign of its sum.
    """
    values, owners = _arrays(gained, groups)
    nets = np.sign(np.bincount(owners, values))
    better, worse = int((nets > 0).sum()), int((nets < 0).sum())
    total = better + worse
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(min(better, worse) + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))


def changed_share(changed: int, photos: int) -> Metric:
    """The share of independent photos about which two models decide differently."""
    return share(changed, photos, photos, "no photo was judged by both")


def compare_decisions(
    before: Sequence[str],
    after: Sequence[str],
    truth: Sequence[str],
    groups: npt.ArrayLike,
    class_names: Sequence[str],
    slices: Mapping[str, Flags],
    margin: float = MARGIN,
) -> dict[str, Any]:
    """May B replace A? From the decisions of A and B and the true labels of the same photos, each (n,).

    A decision that is none of the class names, such as "unsure", is none. `verdict` is "yes" where the 95 %
    intervals of both B's rise of wrong decisions and its loss of right ones lie below `margin`, by `groups`
    (n,), and no label or slice (name to flags (n,)) is worse by more than the margin and significantly so
    (McNemar by group, Holm over all). "no" where a rise is above the margin for certain or a label or
    slice is worse; else "not shown", with the photos that are `needed` if the
    rates stay as they are.
    """
    if not (len(before) == len(after) == len(truth)) or not len(truth):
        raise CatflapError("The two models did not judge the same photos.", "Name at least one photo.")
    if not 0 < margin < 1:
        raise CatflapError(f"The margin is {margin}.", "Use one between 0 and 1, such as 0.01.")
    names = np.array(truth, object)
    both = [np.array(decisions, object) for decisions in (before, after)]
    right = [one == names for one in both]
    decided = [np.isin(one.astype(str), class_names) for one in both]
    wrong = [is_decided & ~hits for is_decided, hits in zip(decided, right, strict=True)]
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)

    def of(inside: Flags) -> dict[str, Any]:
        return {
            "photos": int(inside.sum()),
            "groups": len(np.unique(owners[inside])),
            "wrong": _rate(wrong, inside, owners),
            "right": _rate(right, inside, owners),
        }

    everywhere = np.ones(len(names), np.bool_)
    parts = {f"label {label}": names == label for label in sorted(set(truth))}
    parts |= {name: np.asarray(inside, np.bool_) for name, inside in slices.items()}
    parts = {name: inside for name, inside in parts.items() if inside.sum() >= PHOTOS_OF_A_SLICE}
    rows = [{"name": name, **of(inside)} for name, inside in parts.items()]
    adjusted = holm([row[kind]["p"] for row in rows for kind in ("wrong", "right")])
    for number, row in enumerate(rows):
        row["p"] = round(float(min(adjusted[2 * number : 2 * number + 2])), 6)
        row["worse"] = any(
            _loss(row[kind]["difference"], kind)[0] > margin and adjusted[2 * number + place] < LEVEL
            for place, kind in enumerate(("wrong", "right"))
        )
    whole = of(everywhere)
    changed = both[0] != both[1]
    return {
        **whole,
        "margin": margin,
        **_verdict(whole, [row["name"] for row in rows if row["worse"]], margin),
        "changed": int(changed.sum()),
        "slices": rows,
    }


def change_kinds(
    before: Sequence[str], after: Sequence[str], truth: Sequence[str], class_names: Sequence[str]
) -> list[str]:
    """For each photo "same", "worse", "better" or "other": from A's decision to B's.

    A right decision is better than none, and none is better than a wrong one. "other" is between two wrong
    labels, or between two words that are no label.
    """

    def rank(decision: str, label: str) -> int:
        return 2 if decision == label else 0 if decision in class_names else 1

    kinds = []
    for a, b, label in zip(before, after, truth, strict=True):
        gain = rank(b, label) - rank(a, label)
        kinds.append("same" if a == b else "other" if not gain else "better" if gain > 0 else "worse")
    return kinds


def _rate(hits: Sequence[Flags], inside: Flags, owners: Ints) -> dict[str, Any]:
    count = int(inside.sum())
    effective = float(effective_photos(np.zeros(count, np.int64), owners[inside], 1)[0])
    gained = hits[1][inside].astype(np.int64) - hits[0][inside]
    none = "there are no such photos"
    return {
        "a": share(int(hits[0][inside].sum()), count, effective, none),
        "b": share(int(hits[1][inside].sum()), count, effective, none),
        "difference": paired_difference(gained, owners[inside]),
        "p": mcnemar(gained, owners[inside]),
    }


def _loss(difference: Metric, kind: str) -> tuple[float, float, float]:
    """How much worse B is: value, low and high; a rise of wrong decisions, or a fall of right ones."""
    value, low, high = difference["value"], difference["low"], difference["high"]
    return (value, low, high) if kind == "wrong" else (-value, -high, -low)


def _verdict(whole: Mapping[str, Any], worse: list[str], margin: float) -> dict[str, Any]:
    losses = {kind: _loss(whole[kind]["difference"], kind) for kind in ("wrong", "right")}
    above = [kind for kind, (_, low, _) in losses.items() if low > margin]
    unproven = [kind for kind, (_, _, high) in losses.items() if high > margin]
    words = {"wrong": "more wrong decisions", "right": "fewer right decisions"}
    limit = f"{100 * margin:g} percentage point{'' if margin == 0.01 else 's'}"
    if above:
        why = f"It has {' and '.join(words[kind] for kind in above)}, by more than {limit}."
        return {"verdict": "no", "why": why, "worse": worse, "needed": None}
    if worse:
        why = f"It is significantly worse, by more than {limit}, on: {', '.join(worse)}."
        return {"verdict": "no", "why": why, "worse": worse, "needed": None}
    if not unproven:
        why = f"The 95 % intervals exclude {' and '.join(words.values())} by more than {limit}."
        return {"verdict": "yes", "why": why, "worse": worse, "needed": None}
    needed = [_needed(whole[kind]["difference"], losses[kind], margin, whole["groups"]) for kind in unproven]
    highest = max(losses[kind][2] for kind in unproven)
    why = (
        f"These photos do not exclude {' and '.join(words[kind] for kind in unproven)} by up to "
        f"{100 * highest:.2g} percentage points, where {100 * margin:g} is allowed."
    )
    most = None if None in needed else max(number or 0 for number in needed)
    if most is not None:
        why += f" About {most:,} independent photos would, at the same rates."
    return {"verdict": "not shown", "why": why, "worse": worse, "needed": most}


def _needed(difference: Metric, loss: tuple[float, float, float], margin: float, groups: int) -> int | None:
    """The independent photos at which the interval would end at the margin; None where it never would."""
    half = (difference["high"] - difference["low"]) / 2
    if loss[0] >= margin:
        return None
    # The half width falls between n⁻¹ (no photo differs) and n⁻¹ᐟ²; the slower one is the safe guess.
    power = 1.0 if not difference["value"] and half * (groups + 2) < 3 else 2.0
    return math.ceil((groups + 2) * float((half / (margin - loss[0])) ** power))


def _arrays(gained: npt.ArrayLike, groups: npt.ArrayLike) -> tuple[Floats, Ints]:
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    return np.asarray(gained, np.float64), owners
