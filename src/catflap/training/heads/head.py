"""The linear head on frozen features: a regularised logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError
from catflap.evaluation.calibration import row_slices
from catflap.training.heads.features import Features
from catflap.training.heads.logistic import Floats, LabelledFeatures, Labels, Scaling, fit_weights, moments

NEVER = 20.0  # nats by which a label that does not occur stays behind all others


@dataclass(frozen=True)
class Head:
    """logits = features @ weights.T + bias; weights float32 (labels, width), bias float32 (labels,).

    `prior`, float32 (labels,), is the part of the bias that tells nothing of a photo: the logarithm of the
    labels' shares where labels were weighed alike, else zero; minus infinity for labels that do not occur.
    """

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    prior: npt.NDArray[np.float32]

    def logits(self, features: Features) -> npt.NDArray[np.float32]:
        """Logits, float32 (n, labels)."""
        return features @ self.weights.T + self.bias

    def scaled(self, evidence: float, prior: float) -> Head:
        """The head whose prior is multiplied by one number, and the rest of its logits by another."""
        there = np.isfinite(self.prior)
        known = np.where(there, self.prior, 0)
        weighed = np.where(there, known * prior, -np.inf)
        return _head(self.weights * evidence, (self.bias - known) * evidence, weighed)


def fit_head(
    parts: Sequence[LabelledFeatures],
    classes: int,
    strength: float,
    standardise: bool,
    balanced: bool = False,
    measured: tuple[Floats, Floats] | None = None,
) -> Head:
    """A head that minimises log loss with an L2 penalty; `strength` is scikit-learn's C.

    `parts` are features and labels of train photos. With `standardise` each feature is scaled to unit
    variance first, else all by one number; the scaling is folded into the weights. With `balanced` every
    label weighs the same however few its photos are, and the biases are moved back to the labels' shares
    afterwards (Menon et al. 2021, logit adjustment), so that the prior of the answers is that of the photos
    either way. Labels that do not occur get a bias that never wins. `measured` are the moments of the parts,
    where they are known.
    """
    counts = np.sum([np.bincount(labels, minlength=classes) for _, labels in parts], axis=0)
    there = np.flatnonzero(counts)
    if len(there) < 2:
        raise CatflapError("The train photos have one label only.", "Add photos of another label.")
    centre, variance = measured or moments(parts)
    spread = np.sqrt(variance)
    overall = np.full_like(spread, np.sqrt(variance.mean() + centre.var()))
    scale = np.maximum(spread + 1e-3 * spread.max() if standardise else overall, 1e-12)
    shares = counts[there] / counts.sum()
    importance = 1 / (len(there) * shares) if balanced else np.ones(len(there))
    numbered = [(features, np.searchsorted(there, labels)) for features, labels in parts]
    scaled = Scaling(centre, scale)
    found, offset = fit_weights(numbered, scaled, importance, strength)
    weights, evidence = np.zeros((classes, len(centre))), np.zeros(classes)
    weights[there], evidence[there] = scaled.taken_in(found, offset)
    known = np.log(shares) - np.log(shares).mean() if balanced else np.zeros(len(there))
    prior = np.full(classes, -np.inf)
    prior[there] = known
    return _head(weights, evidence, prior)


def _head(weights: npt.NDArray[Any], evidence: npt.NDArray[Any], prior: npt.NDArray[Any]) -> Head:
    """A head of these parts of its bias; labels without a prior are behind all others."""
    there = np.isfinite(prior)
    bias = evidence + np.where(there, prior, 0)
    bias[~there] = bias[there].min() - NEVER
    return Head(*(part.astype(np.float32) for part in (weights, bias, prior)))


def log_loss(logits: npt.NDArray[np.float32], labels: Labels) -> float:
    """The mean negative log-likelihood of the labels, in nats."""
    return float(losses_of(logits, labels).mean())


def losses_of(logits: npt.NDArray[np.floating[Any]], labels: Labels) -> npt.NDArray[np.float64]:
    """The negative log-likelihood of each photo's label, in nats, float64 (n,)."""
    lost = np.empty(len(labels))
    for rows in row_slices(logits):
        shifted = logits[rows].astype(np.float64) - logits[rows].max(1, keepdims=True)
        chosen = shifted[np.arange(len(shifted)), labels[rows]]
        lost[rows] = np.log(np.exp(shifted).sum(1)) - chosen
    return lost
