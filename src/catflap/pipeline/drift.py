"""The verb `drift`: compare a field log with the baseline of its Bundle, window by window."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.field_log import LogRow, read_field_log
from catflap.evaluation.calibration import estimate_prior, prior_intervals
from catflap.evaluation.charts import write_page
from catflap.evaluation.drift_baseline import WINDOW, Drift, LabelMix, label_mix, make_baseline, measure_drift
from catflap.evaluation.field_page import KICKER, field_page
from catflap.evaluation.intervals import Floats
from catflap.image import NO_STATISTICS, STATISTICS, ImageStatistics
from catflap.runtime.decisions import correct_prior

# Time, probabilities (labels,), image statistics, OOD score, decision.
Row: TypeAlias = tuple[float, Floats, ImageStatistics, float, str]
STAND_IN = 2 * WINDOW  # photos of the log itself, where a Bundle has no baseline


@dataclass(frozen=True)
class Window:
    """A window of the log, `first` to `last` in seconds since 1970, and its drift.

    `decisions` counts them; `confidence` are the quartiles of the highest probability.
    """

    first: float
    last: float
    drift: Drift
    decisions: dict[str, int]
    confidence: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The window as JSON."""
        about = {"first": self.first, "last": self.last, **self.drift.to_json()}
        return {**about, "decisions": self.decisions, "confidence": list(self.confidence)}


@dataclass(frozen=True)
class DriftReport:
    """The result of `drift`.

    `windows` follow one another from the start; `latest` are the newest 200 photos, None when there are
    fewer. `prior` is the label distribution estimated from those, as `--prior` takes it, and
    `prior_intervals` the estimate of each label with its 95 % interval. `baseline` is "bundle", or
    "log" where the first 400 photos of the log replace it.
    """

    bundle: str
    variant: str
    baseline: str
    photos: int
    windows: tuple[Window, ...]
    latest: Window | None
    prior: dict[str, float]
    labels: tuple[str, ...] = ()
    prior_intervals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def alarm(self) -> bool:
        """True when the newest photos have drifted from the baseline."""
        return self.latest is not None and self.latest.drift.alarm

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap drift`."""
        return {
            "bundle": self.bundle,
            "variant": self.variant,
            "baseline": self.baseline,
            "photos": self.photos,
            "alarm": self.alarm,
            "latest": self.latest and self.latest.to_json(),
            "prior": self.prior,
            "prior_intervals": dict(self.prior_intervals),
            "windows": [window.to_json() for window in self.windows],
        }


def drift(bundle: str | os.PathLike[str], log: Path, *, variant: str | None = None) -> DriftReport:
    """Compare the answers of a Bundle in the field with those on its calibration role.

    Only rows of this bundle and variant count, and of those only the ones logged at regular intervals.
    """
    opened = load_bundle(bundle)
    chosen = opened.variant(variant)
    labels, rows = opened.labels, _answers(opened, chosen.name, Path(log))
    baseline, source, photos = chosen.baseline, "bundle", 0
    if baseline is None:
        first = [row for _, row in zip(range(STAND_IN), rows, strict=False)]
        source, photos = "log", len(first)
        if photos < STAND_IN:
            return DriftReport(opened.name, chosen.name, source, photos, (), None, {}, labels)
        answers, statistics, _, _ = _arrays(first)
        baseline = make_baseline(answers, opened.labels, np.arange(photos), statistics)
    windows: list[Window] = []
    newest: deque[Row] = deque(maxlen=WINDOW)
    since, repeats, last = 0, 0, -1
    counts = np.zeros(len(labels), np.int64)
    for row in rows:
        newest.append(row)
        photos, since = photos + 1, since + 1
        label = int(row[1].argmax())
        counts[label] += 1
        repeats, last = repeats + (label == last), label
        if since == WINDOW:
            windows.append(_window(newest, opened, baseline, LabelMix(counts.copy(), repeats)))
            since = 0
    if len(newest) < WINDOW:
        return DriftReport(opened.name, chosen.name, source, photos, (), None, {}, labels)
    latest = _window(newest, opened, baseline, LabelMix(counts, repeats))
    trained = [opened.prior[label] for label in opened.labels]
    recent = _arrays(newest)[0]
    estimated = estimate_prior(recent, trained)
    prior = dict(zip(opened.labels, _stated(estimated, len(newest)), strict=True))
    intervals = dict(zip(opened.labels, prior_intervals(recent, trained, estimated), strict=True))
    return DriftReport(
        opened.name, chosen.name, source, photos, tuple(windows), latest, prior, labels, intervals
    )


def _stated(shares: Floats, photos: int) -> list[float]:
    """Shares for `--prior`, to six digits, with the sum 1; never 0, which no number of photos can prove."""
    floored = np.maximum(shares, max(1e-6, 1 / (photos + 2) / len(shares)))
    rounded = np.round(floored / floored.sum(), 6)
    largest = int(rounded.argmax())
    rounded[largest] = 0
    rounded[largest] = round(1 - float(rounded.sum()), 6)
    return [float(share) for share in rounded]


def _answers(bundle: Bundle, variant: str, log: Path) -> Iterator[Row]:
    """A row per photo; the probabilities are converted to the training prior."""
    trained = [bundle.prior[label] for label in bundle.labels]
    for row in read_field_log(log, version=bundle.sha256, regular=True):
        if row.model.variant == variant and row.model.labels == bundle.labels:
            measured = row.image_statistics
            statistics = measured if measured and len(measured) == len(STATISTICS) else NO_STATISTICS
            ood = math.nan if row.ood_score is None else row.ood_score
            yield row.time, _under_training(row, bundle, trained), statistics, ood, row.decision


def _under_training(row: LogRow, bundle: Bundle, trained: list[float]) -> Floats:
    given: Floats = row.probabilities.astype(np.float64)
    if not row.model.prior:
        return given
    stated = dict(row.model.prior)
    return correct_prior(given, [stated[label] for label in bundle.labels], trained)


def _window(rows: deque[Row], bundle: Bundle, baseline: dict[str, Any], so_far: LabelMix) -> Window:
    """The window of these rows, the last ones of the log so far, whose label mix is given."""
    answers, statistics, ood, decisions = _arrays(rows)
    before = so_far.without(label_mix(answers.argmax(axis=1), len(bundle.labels)))
    drifted = measure_drift(answers, bundle.labels, baseline, statistics, ood, before)
    quartiles = np.quantile(answers.max(axis=1), (0.25, 0.5, 0.75))
    confidence = tuple(round(float(share), 4) for share in quartiles)
    return Window(rows[0][0], rows[-1][0], drifted, dict(sorted(Counter(decisions).items())), confidence)


def _arrays(rows: Iterable[Row]) -> tuple[Floats, Floats, Floats, tuple[str, ...]]:
    """Columns of rows: probabilities (n, labels), image statistics (n, 3), OOD scores (n,), decisions."""
    _, answers, statistics, ood, decisions = zip(*rows, strict=True)
    return np.array(answers), np.array(statistics), np.array(ood), decisions


def write_drift_page(report: DriftReport, out: Path) -> None:
    """Write the result as one HTML page, atomically; a file that is not such a page is refused."""
    write_page(out, field_page(report.to_json(), report.labels, WINDOW), KICKER)
