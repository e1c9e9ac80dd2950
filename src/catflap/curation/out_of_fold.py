"""Which labels look wrong and which photos are outliers, by out-of-fold predictions of an audit's photos.

Every photo is predicted by a head that was fitted to neither it nor its near-duplicates. The one file that
uses cleanlab.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues

from catflap.artifacts.dataset import ROLES, Dataset, Photos, Positions
from catflap.progress import Progress
from catflap.training.features import Extractor, Features, features
from catflap.training.head import Head, Labels, fit_head, log_loss

Probabilities: TypeAlias = npt.NDArray[np.float32]

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1)  # inverse L2 strengths C: a weaker one would fit the wrong labels, too
FITTED = 100_000  # photos that the heads are fitted to; all are predicted
CHUNK = 1 << 16  # photos whose features are held at once
COMPONENTS = 128
PHOTOS_A_COMPONENT = 10
LIMIT = 5.0  # robust standard deviations above the median distance

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AllPhotos:
    """The photos of all roles, sorted by id, and the role of each."""

    photos: Photos
    roles: npt.NDArray[np.str_]


@dataclass(frozen=True)
class FoldHeads:
    """Heads by fold, and the sample that they were fitted to: positions and their features.

    `folds` is the fold of every photo, (n,); head f saw no photo of fold f.
    """

    heads: tuple[Head, ...]
    folds: Positions
    sample: Positions
    features: Features


@dataclass(frozen=True)
class Predictions:
    """Predictions for every photo: `probabilities` (n, labels) by heads that were not fitted to it.

    `outlying` (n,) is how unlike the others of its label it is, 0 to 1; see outlier_scores.
    """

    probabilities: Probabilities
    outlying: npt.NDArray[np.float32]
    heads: FoldHeads


def all_photos(dataset: Dataset) -> AllPhotos:
    """All photos of a Dataset, whatever their role."""
    parts = [dataset.photos(role) for role in ROLES]
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "labels", "groups", "shards", "offsets", "lengths", "crcs")
    ]
    order = np.argsort(columns[0], kind="stable")
    roles = np.repeat(ROLES, [len(part) for part in parts])
    ordered = (column[order] for column in columns)
    return AllPhotos(Photos(dataset.path, dataset.sha256, dataset.made_from, *ordered), roles[order])


def predict_out_of_fold(
    extractor: Extractor, photos: Photos, classes: int, seed: int, progress: Progress
) -> Predictions:
    """Fit heads to a sample of photos and predict all of them, in chunks; `photos` are sorted by id."""
    heads = fit_heads(extractor, photos, classes, seed, progress)
    labels, total = photos.labels, len(photos)
    space = fit_space(heads.features, labels[heads.sample], classes)
    prior = _prior_ratio(heads, labels, classes)
    probabilities = np.empty((total, classes), np.float32)
    far = np.empty(total, np.float32)
    for positions in _chunks(photos.ids):
        progress("predict", int(positions[0]), total)
        known = features(
            extractor, photos.take(positions), progress=_chunk_progress(positions, total, progress)
        )
        probabilities[positions] = out_of_fold(heads, known, positions, prior)
        far[positions] = distances(space, known, labels[positions])
    return Predictions(probabilities, outlier_scores(far), heads)


def fit_heads(extractor: Extractor, photos: Photos, classes: int, seed: int, progress: Progress) -> FoldHeads:
    """Fit a linear head for each fold to the photos of the other folds."""
    folds = assign_folds(photos.labels, photos.groups, classes, seed)
    sample = _sample(photos.labels, classes)
    known = features(extractor, photos.take(sample), step="features", progress=progress)
    labels, fold = photos.labels[sample], folds[sample]
    count = int(folds.max()) + 1
    fitted_heads: list[Head] = []
    strength = STRENGTHS[0]
    for number in range(count):
        progress("fit", number, count)
        rest = fold != number
        if number == 0:
            strength = _best_strength(known, labels, rest, classes)
        fitted_heads.append(fit_head([(known[rest], labels[rest])], classes, strength, False))
    progress("fit", count, count)
    return FoldHeads(tuple(fitted_heads), folds, sample, known)


def assign_folds(labels: Labels, groups: npt.NDArray[np.int64], classes: int, seed: int) -> Positions:
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


def out_of_fold(
    heads: FoldHeads, known: Features, positions: Positions, prior: Probabilities
) -> Probabilities:
    """Out-of-fold probabilities of photos with these features, float32 (n, labels).

    `prior` corrects for a sample that has other shares of the labels than all photos have.
    """
    logits = np.empty((len(positions), len(prior)), np.float32)
    for number, head in enumerate(heads.heads):
        mine = heads.folds[positions] == number
        logits[mine] = head.logits(known[mine])
    logits += np.log(prior)
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    found: Probabilities = odds / odds.sum(axis=1, keepdims=True)
    return found


def _prior_ratio(heads: FoldHeads, labels: Labels, classes: int) -> Probabilities:
    """How much more frequent each label is among all photos than in the sample, float32 (labels,)."""
    everywhere = np.bincount(labels, minlength=classes) / len(labels)
    sampled = np.bincount(labels[heads.sample], minlength=classes) / len(heads.sample)
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


def _chunk_progress(positions: Positions, total: int, progress: Progress) -> Progress:
    """The progress of a chunk as progress over all photos."""
    return lambda step, done, count: progress("predict", int(positions[0]) + done, total)


def _sample(labels: Labels, classes: int) -> Positions:
    """Positions to fit to: all, or of each label the first by id, which is a random sample."""
    if len(labels) <= FITTED:
        return np.arange(len(labels))
    order, counts = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=classes)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # among those of its label
    return np.sort(order[place < FITTED // classes])


def _best_strength(known: Features, labels: Labels, rest: npt.NDArray[np.bool_], classes: int) -> float:
    """The C with the least log loss on the first fold."""
    fitted = known[rest], labels[rest]
    losses = [
        log_loss(fit_head([fitted], classes, strength, False).logits(known[~rest]), labels[~rest])
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(losses))]


@dataclass(frozen=True)
class Space:
    """The leading principal components of features, whitened: `centre` (width,), `axes` (width, components).

    `medians` are those of the labels, (labels, components).
    """

    centre: Floats
    axes: Floats
    medians: Floats


def fit_space(features: Features, labels: Labels, classes: int) -> Space:
    """Fit the components to the features of a sample of photos."""
    centre = features.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov((features - centre).T))
    count = max(1, min(COMPONENTS, len(features) // PHOTOS_A_COMPONENT, features.shape[1]))
    whitened = (axes[:, -count:] / np.sqrt(np.maximum(spread[-count:], 1e-12))).astype(np.float32)
    projected = (features - centre) @ whitened
    zeros = np.zeros(count, np.float32)
    medians = [
        np.median(projected[labels == label], axis=0) if np.any(labels == label) else zeros
        for label in range(classes)
    ]
    return Space(centre, whitened, np.stack(medians).astype(np.float32))


def distances(space: Space, features: Features, labels: Labels) -> Floats:
    """Mahalanobis distances of photos from the median of their label, float32 (n,).

    After Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks", 2018, with medians for means and the leading principal components of all features.
    """
    projected = (features - space.centre) @ space.axes - space.medians[labels]
    found: Floats = np.linalg.norm(projected, axis=1)
    return found


def outlier_scores(distance: Floats) -> Floats:
    """Distances as scores: 0 up to the median, 0.5 at LIMIT robust standard deviations, towards 1 beyond."""
    median = np.median(distance)
    spread = max(1.4826 * float(np.median(np.abs(distance - median))), 1e-12)
    beyond = np.maximum((distance - median) / spread, 0)
    score: Floats = (beyond / (beyond + LIMIT)).astype(np.float32)
    return score


def wrong_labels(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.bool_]:
    """Which photos probably have a wrong label, (n,); `probabilities` are out of fold.

    Confident learning (Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", 2021) with pruning by noise rate, measured beside other rules by benchmarks/audit.py.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: npt.NDArray[np.bool_] = find_label_issues(
            labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1
        )
    return found


def confusions(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.int64]:
    """How many photos of label i are estimated to show label j, (labels, labels): the confident joint."""
    joint: npt.NDArray[np.int64] = compute_confident_joint(labels, probabilities, calibrate=True)
    return joint
