"""Whether what a server is asked still looks like what its bundles were tested on."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np

from catflap.artifacts.results import Prediction
from catflap.evaluation.drift_baseline import WINDOW, measure_drift
from catflap.runtime.image_statistics import NO_STATISTICS, ImageStatistics
from catflap.serving.metrics import Metrics
from catflap.serving.registry import Served


class DriftMeter:
    """Gathers answers by version and measures each 200 of them against the bundle's baseline.

    What was gathered goes with the version: when the same one is served again, it begins anew.
    """

    def __init__(self, metrics: Metrics, note: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._note = note
        self._lock = Lock()
        self._answers: WeakKeyDictionary[Served, list[tuple[list[float], ImageStatistics, float]]] = (
            WeakKeyDictionary()
        )

    def add(self, served: Served, prediction: Prediction) -> None:
        """Count an answer; the last one of a window measures it. Nothing happens without a baseline."""
        classifier = served.classifier
        baseline = classifier.variant.baseline
        if baseline is None:
            return
        with self._lock:
            window = self._answers.setdefault(served, [])
            strange = math.nan if prediction.ood_score is None else prediction.ood_score
            window.append(
                (
                    list(prediction.probabilities.values()),
                    prediction.image_statistics or NO_STATISTICS,
                    strange,
                )
            )
            if len(window) < WINDOW:
                return
            del self._answers[served]
        given, looks, stranges = (np.array(part) for part in zip(*window, strict=True))
        drift = measure_drift(classifier.as_trained(given), classifier.labels, baseline, looks, stranges)
        if self._metrics.drift(served.name, served.version, drift.score) and drift.alarm:
            self._note(
                f"{served.name} {served.version}: the last {WINDOW} photos are unlike those that it was "
                f"tested on ({drift.most} scores {drift.score:.2f}, alarm above 1)."
            )
