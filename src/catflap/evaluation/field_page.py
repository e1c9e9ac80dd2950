"""The HTML page of a field log: decisions, confidence and drift over time, without any photo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from catflap.evaluation.charts import TONES, against_limit, band, columns, percent, render

KICKER = "Catflap field log"
MAX_PERIODS = 120  # points in a chart; in a longer log several windows are one period


def field_page(report: Mapping[str, Any], labels: Sequence[str], window: int) -> str:
    """The page of the JSON answer of `catflap drift`, whose windows have so many photos."""
    periods = _periods(report["windows"])
    times = [_time(period["first"]) for period in periods]
    names, counts = _ranked(labels, [period["decisions"] for period in periods])
    common = max(report["prior"].items(), key=lambda pair: pair[1], default=None)
    scores = list(dict.fromkeys(name for period in periods for name in period["scores"]))
    return render(
        "field.html",
        kicker=KICKER,
        title=report["bundle"],
        report=report,
        window=window,
        common=common,
        common_words=_with_interval(common[0], report.get("prior_intervals", {})) if common else "",
        charts=[
            ("Decisions", columns(names, counts, times)),
            ("Confidence", band([period["confidence"] for period in periods], times)),
            ("Drift", against_limit(scores, [period["scores"] for period in periods], times)),
        ],
        alarms=[{**period, "above": _above(period["scores"])} for period in periods[::-1] if period["alarm"]],
        time=_time,
        zone=datetime.now().astimezone().strftime("UTC%z"),
    )


def _periods(windows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """At most MAX_PERIODS periods: decisions are summed, quartiles averaged, the worst score kept."""
    size = -(-len(windows) // MAX_PERIODS) or 1
    found = []
    for start in range(0, len(windows), size):
        part = windows[start : start + size]
        decisions: Counter[str] = Counter()
        for window in part:
            decisions.update(window["decisions"])
        names = dict.fromkeys(name for window in part for name in window["scores"])
        found.append(
            {
                "first": part[0]["first"],
                "last": part[-1]["last"],
                "decisions": dict(decisions),
                "confidence": [
                    sum(column) / len(part) for column in zip(*(w["confidence"] for w in part), strict=True)
                ],
                "scores": {name: max(w["scores"].get(name, 0.0) for w in part) for name in names},
                "alarm": any(window["alarm"] for window in part),
            }
        )
    return found


def _ranked(
    labels: Sequence[str], counts: Sequence[Mapping[str, int]]
) -> tuple[list[str], list[dict[str, int]]]:
    """The names of decisions to draw, the most common ones, and the counts, with the rest as one."""
    total = Counter[str]()
    for period in counts:
        total.update(period)
    known = [name for name in labels if total[name]] + sorted(set(total) - set(labels))
    shown = known
    if len(known) > TONES:
        common = sorted(known, key=lambda name: -total[name])[:TONES]
        shown = [name for name in known if name in common]
    rest = "others"
    while rest in known:
        rest = f"all {rest}"
    reduced = [{name: period.get(name, 0) for name in shown} for period in counts]
    if len(shown) < len(known):
        for period, row in zip(counts, reduced, strict=True):
            row[rest] = sum(period.values()) - sum(row.values())
        shown = [*shown, rest]
    return shown, reduced


def _above(scores: Mapping[str, float]) -> str:
    """The statistics that alarm with their scores, the highest first."""
    above = sorted(((score, name) for name, score in scores.items() if score > 1), reverse=True)
    return ", ".join(f"{name} {score:.2f}" for score, name in above)


def _with_interval(label: str, intervals: Mapping[str, Mapping[str, Any]]) -> str:
    """A label with the interval of its estimated share."""
    found = intervals.get(label)
    if not found or found["low"] is None:
        return label
    return f"{label}, {percent(found['low'])} to {percent(found['high'])}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
