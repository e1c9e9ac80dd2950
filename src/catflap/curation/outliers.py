"""Photos unlike all others of their label: distances in the space of the features.

The distance is Mahalanobis' to the middle of the photo's label, over the leading principal components
of all features (Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", 2018, with medians as middles).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catflap.training.heads.features import Features
from catflap.training.heads.logistic import Labels

COMPONENTS = 128
PHOTOS_A_COMPONENT = 10
LIMIT = 5.0  # robust standard deviations above the usual distance

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Space:
    """Features seen along whitened principal components: `centre` (width,), `axes` (width, components).

    `middles` are the labels' medians there, (labels, components).
    """

    centre: Floats
    axes: Floats
    middles: Floats


def fit_space(features: Features, labels: Labels, classes: int) -> Space:
    """Find the space from a sample of photos."""
    centre = features.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov((features - centre).T))
    count = max(1, min(COMPONENTS, len(features) // PHOTOS_A_COMPONENT, features.shape[1]))
    whitened = (axes[:, -count:] / np.sqrt(np.maximum(spread[-count:], 1e-12))).astype(np.float32)
    seen = (features - centre) @ whitened
    nowhere = np.zeros(count, np.float32)
    middles = [
        np.median(seen[labels == label], axis=0) if np.any(labels == label) else nowhere
        for label in range(classes)
    ]
    return Space(centre, whitened, np.stack(middles).astype(np.float32))


def distances(space: Space, features: Features, labels: Labels) -> Floats:
    """How far photos lie from the middle of their label, float32 (n,)."""
    seen = (features - space.centre) @ space.axes - space.middles[labels]
    found: Floats = np.linalg.norm(seen, axis=1)
    return found


def outlier_scores(distance: Floats) -> Floats:
    """Distances as scores: 0 for a usual one, 0.5 at the limit of what is usual, towards 1 beyond."""
    usual = np.median(distance)
    spread = max(1.4826 * float(np.median(np.abs(distance - usual))), 1e-12)
    beyond = np.maximum((distance - usual) / spread, 0)
    score: Floats = (beyond / (beyond + LIMIT)).astype(np.float32)
    return score
