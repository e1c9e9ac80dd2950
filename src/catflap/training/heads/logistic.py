"""Logistic regression by L-BFGS on features that need not fit into memory; owns SciPy and threadpoolctl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from catflap.evaluation.calibration import row_slices
from catflap.machine import describe_machine

Labels: TypeAlias = npt.NDArray[np.int64]
LabelledFeatures: TypeAlias = tuple[npt.NDArray[np.float32], Labels]  # (n, width) and (n,)
Floats: TypeAlias = npt.NDArray[np.float64]

ROWS = 256  # at once, so that they stay in the processor's cache
SHARES = 16  # of the photos, at most; as many cores can work at a time
STEPS = 500
HALVES = np.array([[-0.5, 0.5]])  # from the difference of two logits to both
IMPOSSIBLE = -1e3  # the evidence for a label that cannot be
GRADIENT = 1e-4  # its largest entry at the end, as scikit-learn's


@dataclass(frozen=True)
class Scaling:
    """(features - centre) / scale, float64 (width,) both; weights take it in, and no feature is changed."""

    centre: Floats
    scale: Floats

    def taken_in(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Weights (scores, width) and bias for features as they are, from those for scaled ones."""
        plain = weights / self.scale
        return plain, bias - plain @ self.centre


def moments(parts: Sequence[LabelledFeatures]) -> tuple[Floats, Floats]:
    """Mean and variance of each feature, float64 (width,)."""
    total = _total(parts)
    mean = sum(features.sum(0, dtype=np.float64) for features, _ in _chunks(parts)) / total
    return mean, sum(np.square(features - mean).sum(0) for features, _ in _chunks(parts)) / total


def fit_weights(
    parts: Sequence[LabelledFeatures], scaled: Scaling, importance: Floats, strength: float
) -> tuple[Floats, Floats]:
    """Weights, float64 (labels, width), and biases, float64 (labels,), for scaled features.

    They minimise the mean log loss, in which a photo of a label counts as its `importance` (labels,) tells,
    and an L2 penalty on the weights; `strength` is scikit-learn's C, and the end is where its
    LogisticRegression ends. Each step reads all features once; each core has photos of its own, 256 at a
    time, and how many cores there are changes no bit.
    """
    problem = _Problem(parts, scaled, importance, 1 / (strength * _total(parts)))
    begin = np.zeros((1 if len(importance) == 2 else len(importance), len(scaled.scale) + 1))
    options: Any = {"maxiter": STEPS, "gtol": GRADIENT, "ftol": 64 * np.finfo(float).eps, "maxls": 50}
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(describe_machine().cores) as pool:

        def loss(point: Floats) -> tuple[float, Floats]:
            lost, slope = _loss(problem, pool, point.reshape(begin.shape))
            return lost, slope.ravel()

        found = minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    weights = found.x.reshape(begin.shape)
    if len(weights) == 1:
        weights = HALVES.T @ weights
    return weights[:, :-1], weights[:, -1]


def fit_scales(
    evidence: Floats,
    prior: Floats,
    labels: Labels,
    bounds: tuple[float, float],
    weights: Floats | None = None,
) -> tuple[float, float]:
    """What evidence and prior (n, labels) are multiplied by so that their sum is good logits of labels (n,).

    Platt's scaling (1999), with the logarithm of the labels' shares as a second feature. The log loss is
    that of targets which leave 1 / (n + 2) to the other labels, so that photos without a mistake do not ask
    for certainty. With `weights` (n,) a photo counts as so many, and n is their sum. The first number keeps
    the bounds; the second one is 0 or more, and drawn to 1, as a normal prior of variance 1 does. A prior of
    minus infinity is that of a label that cannot be answered.
    """
    counts = np.ones(len(labels)) if weights is None else weights
    left = 1 / (counts.sum() + 2)

    def of_some(point: Floats, at: slice) -> tuple[float, Floats]:
        known, each = np.isfinite(prior[at]), counts[at, None]
        features = np.stack([np.where(known, evidence[at], IMPOSSIBLE), np.where(known, prior[at], 0)])
        targets = known * (left / np.maximum(known.sum(1, keepdims=True) - 1, 1))
        targets[np.arange(len(known)), labels[at]] = 1 - left
        answers = np.tensordot(point, features, 1)
        answers -= answers.max(1, keepdims=True)
        logarithms = answers - np.log(np.exp(answers).sum(1, keepdims=True))
        slope = (features * (each * (np.exp(logarithms) - targets))).sum((1, 2))
        return -float((each * targets * logarithms).sum()), slope

    def loss(point: Floats) -> tuple[float, Floats]:
        lost, slopes = zip(*(of_some(point, at) for at in row_slices(evidence)), strict=True)
        pull = point[1] - 1
        return float(pull**2 / 2 + sum(lost)), sum(slopes) + np.array([0, pull])

    found = minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=[bounds, (0, None)])
    return float(found.x[0]), float(found.x[1])


@dataclass(frozen=True)
class _Problem:
    """What is fitted: a score for each label, but one for two labels, which HALVES makes their logits."""

    parts: Sequence[LabelledFeatures]
    scaled: Scaling
    importance: Floats
    penalty: float


def _loss(problem: _Problem, pool: ThreadPoolExecutor, point: Floats) -> tuple[float, Floats]:
    """What is minimised at a point, weights and bias of each score (scores, width + 1), and its slope."""
    weights, scaled = point[:, :-1], problem.scaled
    plain = np.column_stack(scaled.taken_in(weights, point[:, -1]))
    shares = min(SHARES, -(-_total(problem.parts) // ROWS))
    each_share = pool.map(lambda share: _share(problem, plain, share, shares), range(shares))
    lost, slope = (sum(each) / _total(problem.parts) for each in zip(*each_share, strict=True))
    slope[:, :-1] = (slope[:, :-1] - np.outer(slope[:, -1], scaled.centre)) / scaled.scale
    slope[:, :-1] += problem.penalty * weights
    return lost + problem.penalty / 2 * float(np.square(weights).sum()), slope


def _share(problem: _Problem, plain: Floats, share: int, shares: int) -> tuple[float, Floats]:
    """The summed loss of a share of the photos, and its slope by weights and bias for plain features."""
    lost, slope = 0.0, np.zeros_like(plain)
    buffer = np.empty((ROWS, plain.shape[1] - 1))
    for features, labels in _chunks(problem.parts, share, shares):
        rows = buffer[: len(labels)]
        rows[:] = features
        scores = rows @ plain[:, :-1].T + plain[:, -1]
        answers = scores @ HALVES if len(plain) == 1 else scores
        each, by_answers = _cross_entropy(answers, labels, problem.importance)
        by_scores = by_answers @ HALVES.T if len(plain) == 1 else by_answers
        lost += each
        slope[:, :-1] += by_scores.T @ rows
        slope[:, -1] += by_scores.sum(0)
    return lost, slope


def _cross_entropy(answers: Floats, labels: Labels, importance: Floats) -> tuple[float, Floats]:
    """The summed loss of logits (n, labels), and its slope by them."""
    rows, counts = np.arange(len(labels)), importance[labels]
    answers = answers - answers.max(1, keepdims=True)
    powers = np.exp(answers)
    sums = powers.sum(1)
    lost = float(counts @ (np.log(sums) - answers[rows, labels]))
    slope = powers / sums[:, None]
    slope[rows, labels] -= 1
    return lost, slope * counts[:, None]


def _chunks(parts: Sequence[LabelledFeatures], share: int = 0, shares: int = 1) -> Iterator[LabelledFeatures]:
    """The photos of a share of each part, some at a time, in their order."""
    for features, labels in parts:
        plain = np.asarray(features)  # a memory map's own slices take longer
        start, end = (len(labels) * one // shares for one in (share, share + 1))
        for begin in range(start, end, ROWS):
            rows = slice(begin, min(end, begin + ROWS))
            yield plain[rows], labels[rows]


def _total(parts: Sequence[LabelledFeatures]) -> int:
    return sum(len(labels) for _, labels in parts)
