"""The linear head on frozen features: a regularised logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError
from catflap.progress import Progress, silent
from catflap.training.features import Features
from catflap.training.logistic import Floats, Known, Labels, Scaling, fit, moments

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
MOST_COMPARED = 10_000  # photos from which settings are compared; the one that is chosen learns from all
UNEVEN = 3.0  # times as many photos of one label as of another: then balanced weights are tried too


@dataclass(frozen=True)
class Head:
    """logits = features @ weights.T + bias; weights float32 (labels, width), bias float32 (labels,)."""

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def logits(self, features: Features) -> npt.NDArray[np.float32]:
        """Logits, float32 (n, labels)."""
        return features @ self.weights.T + self.bias


def fit_head(
    parts: Sequence[Known],
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
    found, offset = fit(numbered, scaled, importance, strength)
    if balanced:
        offset = offset + np.log(shares)
        offset -= offset.mean()
    weights = np.zeros((classes, len(centre)))
    bias = np.full(classes, float(offset.min()) - 20.0)
    weights[there], bias[there] = scaled.taken_in(found, offset)
    return Head(weights.astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True)
class Choice:
    """The head that validation chose, learnt from train alone; `refitted` has seen validation too.

    `validation_logits`, float32 (n, labels), are those of `head`; `tried` lists every setting.
    """

    head: Head
    refitted: Head
    validation_logits: npt.NDArray[np.float32]
    tried: list[dict[str, Any]]


def choose_head(
    train: Known,
    validation: Known,
    classes: int,
    progress: Progress = silent,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Choice:
    """The head whose strength, scaling and weights of labels give the least validation log loss.

    Settings are compared on heads that learn from at most 10,000 photos, drawn alike every time.
    """
    tried: list[dict[str, Any]] = []
    heads: list[Head] = []
    counts = np.bincount(train[1])
    weights = (False, True) if counts.max() >= UNEVEN * counts[counts > 0].min() else (False,)
    settings = list(product(weights, (False, True), strengths))
    some = _part(train)
    measured = moments([some])
    for number, (balanced, standardise, strength) in enumerate(settings):
        progress("heads", number, len(settings))
        heads.append(fit_head([some], classes, strength, standardise, balanced, measured))
        logits = heads[-1].logits(validation[0])
        tried.append(
            {
                "step": "head",
                "strength": strength,
                "standardise": standardise,
                "balanced": balanced,
                "validation_log_loss": log_loss(logits, validation[1]),
                "validation_accuracy": float((logits.argmax(1) == validation[1]).mean()),
            }
        )
    progress("heads", len(settings), len(settings))
    best = min(range(len(tried)), key=lambda number: tried[number]["validation_log_loss"])
    chosen = (tried[best]["strength"], tried[best]["standardise"], tried[best]["balanced"])
    head = heads[best] if some is train else fit_head([train], classes, *chosen)
    refitted = fit_head([train, validation], classes, *chosen)
    return Choice(head, refitted, head.logits(validation[0]), tried)


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


def log_loss(logits: npt.NDArray[np.float32], labels: Labels) -> float:
    """The mean negative log-likelihood of the labels, in nats."""
    return float(losses_of(logits, labels).mean())


def losses_of(logits: npt.NDArray[np.float32], labels: Labels) -> npt.NDArray[np.float64]:
    """The negative log-likelihood of each photo's label, in nats, float64 (n,)."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return np.asarray(np.log(np.exp(shifted).sum(1)) - chosen)
