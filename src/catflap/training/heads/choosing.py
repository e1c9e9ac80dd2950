"""Which head: its penalty and scaling, and how sure it is, by photos that it has not learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature
from catflap.evaluation.intervals import group_weights, significantly_positive
from catflap.progress import Progress, silent
from catflap.training.heads.head import Head, fit_head, losses_of
from catflap.training.heads.logistic import Floats, LabelledFeatures, Labels, fit_scales, moments

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MOST_COMPARED = 10_000  # photos from which settings are compared; the one that is chosen learns from all
MOST_ANSWERS = 10_000_000  # validation photos, times labels: of more so many are drawn to judge heads
FEW = 15_000  # train and validation photos, times labels: up to so many each photo judges heads, by turns
FOLDS = 5
_Setting: TypeAlias = tuple[bool, float]  # standardise, strength


@dataclass(frozen=True)
class Choice:
    """The head that was chosen, learnt from train alone; `refitted` has seen validation too.

    Both are as sure as the photos which judged allow. `validation_logits`, float32 (n, labels), are those
    of `head`; `tried` lists every setting, and `chosen` is the entry of this one.
    """

    head: Head
    refitted: Head
    validation_logits: npt.NDArray[np.float32]
    tried: list[dict[str, Any]]
    chosen: dict[str, Any]


@dataclass(frozen=True)
class _Round:
    """Photos to learn from, with the moments of their features, and others to judge by, with their groups."""

    learnt: LabelledFeatures
    measured: tuple[Floats, Floats]
    judged: LabelledFeatures
    groups: Labels


@dataclass(frozen=True)
class _Judged:
    """What the photos that judge say of a setting: each one's loss with these scales, and the accuracy."""

    losses: Floats
    evidence: float
    prior: float
    accuracy: float


def choose_head(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    groups: tuple[Labels, Labels],
    classes: int,
    progress: Progress = silent,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Choice:
    """Choose a head's L2 penalty by the log loss on validation, or by cross-validation where photos are few.

    Of penalties that are as good as any the middle one is taken. Labels weigh alike, however many photos they
    have. Evidence and prior of each setting are scaled first
    so that its probabilities match the photos that judge, for how sure a head is says nothing of how good
    it is. As good is what has no higher log loss than the best by more than chance, and features are scaled
    one by one only where that is better by more than chance. Cross-validation is over train and
    validation photos. `groups` (n,) are those of the near-duplicates in both: a group is learnt from or
    judges, and counts once. Settings learn from at most 10,000 photos, and of validation as many judge as
    give 10 million logits, drawn alike every time; `tried` says how many did.
    """
    settings = list(product((False, True), strengths))
    rounds = _rounds(train, validation, groups, classes)
    judged: list[_Judged] = []
    for number, setting in enumerate(settings):
        progress("heads", number, len(settings))
        judged.append(_judge(setting, rounds, classes))
    progress("heads", len(settings), len(settings))
    best = _best(judged, len(strengths), np.concatenate([each.groups for each in rounds]))
    tried = [_entry(*each, number == best) for number, each in enumerate(zip(settings, judged, strict=True))]
    scales = judged[best].evidence, judged[best].prior
    head, refitted = (
        _fitted(settings[best], parts, classes).scaled(*scales) for parts in ([train], [train, validation])
    )
    return Choice(head, refitted, head.logits(validation[0]), tried, tried[best])


def _best(judged: list[_Judged], strengths: int, groups: Labels) -> int:
    """The middle strength of those that are not worse than the best by more than chance, scaled together.

    The others are scaled one by one: the best of them where it is better than that by more than chance.
    """
    losses = np.stack([one.losses for one in judged])
    means = losses.mean(1)
    together, one_by_one = int(means[:strengths].argmin()), strengths + int(means[strengths:].argmin())
    as_good = [
        n for n in range(strengths) if not significantly_positive(losses[n] - losses[together], groups)
    ]
    middle = as_good[(len(as_good) - 1) // 2]
    return one_by_one if significantly_positive(losses[middle] - losses[one_by_one], groups) else middle


def _judge(setting: _Setting, rounds: list[_Round], classes: int) -> _Judged:
    heads = [_fitted(setting, [one.learnt], classes, one.measured) for one in rounds]
    pairs = list(zip(heads, rounds, strict=True))
    evidence = np.concatenate([head.scaled(1, 0).logits(one.judged[0]) for head, one in pairs])
    priors = np.concatenate([np.broadcast_to(head.prior, (len(one.groups), classes)) for head, one in pairs])
    labels = np.concatenate([one.judged[1] for one in rounds])
    groups = np.concatenate([one.groups for one in rounds])
    scale, share = fit_scales(
        evidence, priors, labels, (1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE), group_weights(groups)
    )
    logits = scale * evidence + share * np.where(np.isfinite(priors), priors, 0)
    temperature = fit_temperature(logits, labels, groups)
    accuracy = float((logits.argmax(1) == labels).mean())
    return _Judged(
        losses_of(logits / temperature, labels), scale / temperature, share / temperature, accuracy
    )


def _fitted(
    setting: _Setting,
    parts: list[LabelledFeatures],
    classes: int,
    measured: tuple[Floats, Floats] | None = None,
) -> Head:
    standardise, strength = setting
    return fit_head(parts, classes, strength, standardise, True, measured)


def _entry(setting: _Setting, judged: _Judged, chosen: bool) -> dict[str, Any]:
    standardise, strength = setting
    return {
        "step": "head",
        "strength": strength,
        "standardise": standardise,
        "judged_by": len(judged.losses),
        "evidence_scale": judged.evidence,
        "prior_scale": judged.prior,
        "validation_log_loss": float(judged.losses.mean()),
        "validation_accuracy": judged.accuracy,
        "chosen": chosen,
    }


def _rounds(
    train: LabelledFeatures, validation: LabelledFeatures, groups: tuple[Labels, Labels], classes: int
) -> list[_Round]:
    """One round, judged by validation; where photos are few a round for each fifth of all of them."""
    if (len(train[1]) + len(validation[1])) * classes <= FEW:
        everything = (np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]]))
        rounds = list(_by_turns(everything, np.concatenate(groups)))
        if rounds:
            return rounds
    some = _taken(train, _part(train[1], MOST_COMPARED))
    judges = _part(validation[1], MOST_ANSWERS // classes)
    return [_Round(some, moments([some]), _taken(validation, judges), groups[1][judges])]


def _by_turns(photos: LabelledFeatures, groups: Labels) -> Iterator[_Round]:
    """Whole groups judge by turns, dealt label by label; a label that the others lack cannot be judged."""
    features, labels = photos
    _, firsts, owners = np.unique(groups, return_index=True, return_inverse=True)
    drawn = np.random.default_rng(0).permutation(len(firsts))
    turn = np.empty(len(firsts), np.int64)
    turn[np.lexsort((drawn, labels[firsts]))] = np.arange(len(firsts)) % FOLDS
    for number in range(FOLDS):
        learnt = turn[owners] != number
        judged = ~learnt & np.isin(labels, labels[learnt])
        if judged.any() and len(np.unique(labels[learnt])) > 1:
            others = (features[learnt], labels[learnt])
            yield _Round(others, moments([others]), (features[judged], labels[judged]), groups[judged])


def _part(labels: Labels, most: int) -> Labels:
    """Positions of photos, of as many as are enough, drawn alike; a label of few keeps one at least."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    firsts = np.unique(labels[order], return_index=True)[1]
    rest = np.setdiff1d(np.arange(most), firsts)[: max(0, most - len(firsts))]
    return np.sort(order[np.concatenate([firsts, rest])])


def _taken(photos: LabelledFeatures, positions: Labels) -> LabelledFeatures:
    features, labels = photos
    return photos if len(positions) == len(labels) else (features[positions], labels[positions])
