"""What a model that never saw a photo, nor its near-duplicates, says of it: out-of-fold probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import ROLES, Dataset, Photos, Positions
from catflap.curation.outliers import distances, fit_space, outlier_scores
from catflap.progress import Progress
from catflap.training.heads.features import Extractor, Features, features
from catflap.training.heads.head import Head, fit_head, log_loss
from catflap.training.heads.logistic import Labels

Probabilities: TypeAlias = npt.NDArray[np.float32]

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1)  # stiff heads: a flexible one learns the wrong labels too
LEARN = 100_000  # photos that are learnt from; all are judged
CHUNK = 1 << 16  # photos whose features are held at once


@dataclass(frozen=True)
class Everyone:
    """The photos of all roles, sorted by id, and the role of each."""

    photos: Photos
    roles: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Learnt:
    """Heads by fold, and the sample that they were learnt from: positions and their features.

    `folds` is the fold of every photo, (n,); head f saw no photo of fold f.
    """

    heads: tuple[Head, ...]
    folds: Positions
    sample: Positions
    features: Features


@dataclass(frozen=True)
class Opinion:
    """What the features tell of every photo: `probabilities` (n, labels) by heads that did not see it.

    `outlying` (n,) is how unlike the others of its label it is, 0 to 1; see outliers.outlier_scores.
    """

    probabilities: Probabilities
    outlying: npt.NDArray[np.float32]
    learnt: Learnt


def everyone(dataset: Dataset) -> Everyone:
    """All photos of a Dataset, whatever their role."""
    parts = [dataset.photos(role) for role in ROLES]
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "labels", "groups", "shards", "offsets", "lengths", "crcs")
    ]
    order = np.argsort(columns[0], kind="stable")
    roles = np.repeat(ROLES, [len(part) for part in parts])
    ordered = (column[order] for column in columns)
    return Everyone(Photos(dataset.path, dataset.sha256, dataset.made_from, *ordered), roles[order])


def predict_out_of_fold(
    extractor: Extractor, photos: Photos, classes: int, seed: int, progress: Progress
) -> Opinion:
    """Learn from a sample of photos and judge all of them, some at a time; `photos` are sorted by id."""
    learnt = learn(extractor, photos, classes, seed, progress)
    labels, total = photos.labels, len(photos)
    space = fit_space(learnt.features, labels[learnt.sample], classes)
    prior = _shift(learnt, labels, classes)
    probabilities = np.empty((total, classes), np.float32)
    far = np.empty(total, np.float32)
    for positions in _chunks(photos.ids):
        progress("judge", int(positions[0]), total)
        known = features(extractor, photos.take(positions), progress=_further(positions, total, progress))
        probabilities[positions] = out_of_fold(learnt, known, positions, prior)
        far[positions] = distances(space, known, labels[positions])
    return Opinion(probabilities, outlier_scores(far), learnt)


def learn(extractor: Extractor, photos: Photos, classes: int, seed: int, progress: Progress) -> Learnt:
    """Learn a linear head for each fold from the photos of the other folds."""
    folds = deal(photos.labels, photos.groups, classes, seed)
    sample = _sample(photos.labels, classes)
    known = features(extractor, photos.take(sample), step="features", progress=progress)
    labels, fold = photos.labels[sample], folds[sample]
    count = int(folds.max()) + 1
    heads: list[Head] = []
    strength = STRENGTHS[0]
    for number in range(count):
        progress("learn", number, count)
        rest = fold != number
        if number == 0:
            strength = _strength(known, labels, rest, classes)
        heads.append(fit_head([(known[rest], labels[rest])], classes, strength, False))
    progress("learn", count, count)
    return Learnt(tuple(heads), folds, sample, known)


def deal(labels: Labels, groups: npt.NDArray[np.int64], classes: int, seed: int) -> Positions:
    """The fold of each photo, (n,): whole groups, every label spread evenly.

    As many folds as the rarest label has groups, but 2 to 5.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    stratum = labels[first]
    rarest = int(np.bincount(stratum, minlength=classes).min())
    count = min(FOLDS, max(2, rarest))
    shuffled = np.random.default_rng(seed).permutation(len(stratum))
    by_label = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    fold = np.empty(len(stratum), np.int64)
    fold[by_label] = np.arange(len(stratum)) % count
    return fold[group]


def out_of_fold(learnt: Learnt, known: Features, positions: Positions, prior: Probabilities) -> Probabilities:
    """Out-of-fold probabilities of photos with these features, float32 (n, labels).

    `prior` corrects for a sample that has other shares of the labels than all photos have.
    """
    logits = np.empty((len(positions), len(prior)), np.float32)
    for number, head in enumerate(learnt.heads):
        mine = learnt.folds[positions] == number
        logits[mine] = head.logits(known[mine])
    logits += np.log(prior)
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    found: Probabilities = odds / odds.sum(axis=1, keepdims=True)
    return found


def _shift(learnt: Learnt, labels: Labels, classes: int) -> Probabilities:
    """How much commoner each label is among all photos than in the sample, float32 (labels,)."""
    everywhere = np.bincount(labels, minlength=classes) / len(labels)
    sampled = np.bincount(labels[learnt.sample], minlength=classes) / len(learnt.sample)
    return (everywhere / sampled).astype(np.float32)


def _chunks(ids: npt.NDArray[np.str_]) -> Iterator[Positions]:
    """Positions of sorted ids in runs that do not cut a bucket of the feature cache in two, if they can."""
    heads = ids.astype("<U2")
    starts = np.flatnonzero(np.concatenate([[True], heads[1:] != heads[:-1]]))
    begin = 0
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        if end - begin > CHUNK and start > begin:
            yield np.arange(begin, start)
            begin = int(start)
    yield np.arange(begin, len(ids))


def _further(positions: Positions, total: int, progress: Progress) -> Progress:
    """Progress within a chunk as progress among all photos."""
    return lambda step, done, count: progress("judge", int(positions[0]) + done, total)


def _sample(labels: Labels, classes: int) -> Positions:
    """Positions to learn from: all, or of each label the first by id, which are as good as drawn."""
    if len(labels) <= LEARN:
        return np.arange(len(labels))
    order, counts = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=classes)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # among those of its label
    return np.sort(order[place < LEARN // classes])


def _strength(known: Features, labels: Labels, rest: npt.NDArray[np.bool_], classes: int) -> float:
    """The strength that gives the first fold the least log loss."""
    learnt = known[rest], labels[rest]
    losses = [
        log_loss(fit_head([learnt], classes, strength, False).logits(known[~rest]), labels[~rest])
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(losses))]
