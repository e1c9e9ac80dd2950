"""Which head: its penalty, scaling and weights of labels, chosen by photos that it has not learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.evaluation.calibration import fit_temperature
from catflap.evaluation.intervals import beyond_chance
from catflap.progress import Progress, silent
from catflap.training.head import Head, fit_head, losses_of
from catflap.training.logistic import Floats, Known, Labels, moments

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
USUAL = (True, False, 3e-3)  # the setting that is left only for one that is better by more than chance
MOST_COMPARED = 10_000  # photos from which settings are compared; the one that is chosen learns from all
FEW = 1_500  # train and validation photos: up to so many each of them judges heads, by turns
FOLDS = 5
UNEVEN = 3.0  # times as many photos of one label as of another: then nothing is usual
_Setting: TypeAlias = tuple[bool, bool, float]  # balanced, standardise, strength


@dataclass(frozen=True)
class Choice:
    """The head that was chosen, learnt from train alone; `refitted` has seen validation too.

    Both are at the temperature that suits the photos which judged. `validation_logits`, float32 (n, labels),
    are those of `head`; `tried` lists every setting, and `chosen` is the entry of this one.
    """

    head: Head
    refitted: Head
    validation_logits: npt.NDArray[np.float32]
    tried: list[dict[str, Any]]
    chosen: dict[str, Any]


@dataclass(frozen=True)
class _Round:
    """Photos to learn from, with the moments of their features, and others to judge by, with their groups."""

    learnt: Known
    measured: tuple[Floats, Floats]
    judged: Known
    groups: Labels


@dataclass(frozen=True)
class _Judged:
    """What the photos that judge say of a setting: each one's loss at this temperature, and the accuracy."""

    losses: Floats
    temperature: float
    accuracy: float


def choose_head(
    train: Known,
    validation: Known,
    groups: tuple[Labels, Labels],
    classes: int,
    progress: Progress = silent,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Choice:
    """The head with the usual strength and scaling, or with others that are better by more than chance.

    Settings are compared by the log loss of validation photos, and where there are few photos by
    cross-validation of train and validation photos; each at its own best temperature, for how sure a head
    is says nothing of how good it is. Labels weigh alike, however many photos they have; where one has
    three times as many as another, heads in which photos weigh alike are tried, too, and the best is taken.
    `groups` (n,) are those of the near-duplicates in train and validation: a group is learnt from or
    judges, and counts once. Settings learn from at most 10,000 photos, drawn alike every time.
    """
    counts = np.bincount(train[1])
    uneven = counts.max() >= UNEVEN * counts[counts > 0].min()
    settings = list(product((True, False) if uneven else (True,), (False, True), strengths))
    rounds = _rounds(train, validation, groups)
    judging = np.concatenate([each.groups for each in rounds])
    judged: list[_Judged] = []
    for number, setting in enumerate(settings):
        progress("heads", number, len(settings))
        judged.append(_judge(setting, rounds, classes))
    progress("heads", len(settings), len(settings))
    best = min(range(len(settings)), key=lambda number: judged[number].losses.mean())
    usual = settings.index(USUAL)
    if not uneven and not beyond_chance(judged[usual].losses - judged[best].losses, judging):
        best = usual
    tried = [_entry(*each, number == best) for number, each in enumerate(zip(settings, judged, strict=True))]
    head, refitted = (
        _fitted(settings[best], parts, classes).at(judged[best].temperature)
        for parts in ([train], [train, validation])
    )
    return Choice(head, refitted, head.logits(validation[0]), tried, tried[best])


def _judge(setting: _Setting, rounds: list[_Round], classes: int) -> _Judged:
    heads = [_fitted(setting, [one.learnt], classes, one.measured) for one in rounds]
    pairs = list(zip(heads, rounds, strict=True))
    logits = np.concatenate([head.logits(one.judged[0]) for head, one in pairs])
    priors = np.concatenate([np.tile(head.prior, (len(one.groups), 1)) for head, one in pairs])
    labels = np.concatenate([one.judged[1] for one in rounds])
    temperature = fit_temperature(logits - priors, labels, priors)
    logits = (logits - priors) / np.float32(temperature) + priors
    return _Judged(losses_of(logits, labels), temperature, float((logits.argmax(1) == labels).mean()))


def _fitted(
    setting: _Setting, parts: list[Known], classes: int, measured: tuple[Floats, Floats] | None = None
) -> Head:
    balanced, standardise, strength = setting
    return fit_head(parts, classes, strength, standardise, balanced, measured)


def _entry(setting: _Setting, judged: _Judged, chosen: bool) -> dict[str, Any]:
    balanced, standardise, strength = setting
    return {
        "step": "head",
        "strength": strength,
        "standardise": standardise,
        "balanced": balanced,
        "temperature": judged.temperature,
        "validation_log_loss": float(judged.losses.mean()),
        "validation_accuracy": judged.accuracy,
        "chosen": chosen,
    }


def _rounds(train: Known, validation: Known, groups: tuple[Labels, Labels]) -> list[_Round]:
    """One round, judged by validation; where photos are few a round for each fifth of all of them."""
    if len(train[1]) + len(validation[1]) <= FEW:
        everything = (np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]]))
        rounds = list(_by_turns(everything, np.concatenate(groups)))
        if rounds:
            return rounds
    some = _part(train)
    return [_Round(some, moments([some]), validation, groups[1])]


def _by_turns(photos: Known, groups: Labels) -> Iterator[_Round]:
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


def _part(train: Known) -> Known:
    """The train photos, or as many as are enough to compare settings; a label of few keeps one at least."""
    features, labels = train
    if len(labels) <= MOST_COMPARED:
        return train
    order = np.random.default_rng(0).permutation(len(labels))
    firsts = np.unique(labels[order], return_index=True)[1]
    rest = np.setdiff1d(np.arange(MOST_COMPARED), firsts)[: MOST_COMPARED - len(firsts)]
    chosen = np.sort(order[np.concatenate([firsts, rest])])
    return features[chosen], labels[chosen]
