"""What a field log saw as one HTML page, without any photo: decisions, sureness and drift over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

from catflap.evaluation.pages.charts import TONES, card, percent
from catflap.evaluation.pages.time_charts import against_limit, band, columns
from catflap.html_text import text

KICKER = "Catflap field log"
MOST = 120  # stretches in a picture; of a longer log several windows are one
NOTE = """A score above 1 alarms. Without any drift at most 1 window in 100 does. The page holds counts and
averages of {window:,} photos or more, and no photo."""


def field_page(report: Mapping[str, Any], labels: Sequence[str], window: int) -> str:
    """The whole page of what `catflap drift --json` answers about windows of so many photos."""
    windows = report["windows"]
    stretches = _stretches(windows)
    times = [_time(stretch["first"]) for stretch in stretches]
    names, counts = _ranked(labels, [stretch["decisions"] for stretch in stretches])
    scores = list(dict.fromkeys(name for stretch in stretches for name in stretch["scores"]))
    drawn = [
        ("What was decided", columns(names, counts, times)),
        ("How sure the answers are", band([stretch["sure"] for stretch in stretches], times)),
        ("Is it still like the test?", against_limit(scores, [s["scores"] for s in stretches], times)),
    ]
    cards = "".join(card(title, picture) for title, picture in drawn)
    here = Path(__file__)
    return Template(here.with_name("report.html").read_text("utf-8")).substitute(
        kicker=KICKER,
        title=text(report["bundle"]),
        style=here.with_name("report.css").read_text("utf-8"),
        lead=_lead(report, window),
        tiles=_tiles(report),
        sections=f'<section><h2>Over time</h2><div class="cards">{cards}</div></section>{_table(stretches)}',
        note=NOTE.format(window=window),
        ancestors="",
    )


def _lead(report: Mapping[str, Any], window: int) -> str:
    against = "what it answered when it was calibrated"
    if report["baseline"] == "log":
        against = "the beginning of the log, because the bundle has no baseline"
    lead = (
        f"<bdi>{text(report['variant'])}</bdi> on {report['photos']:,} photos of the field, {window:,} at a "
        f"time, against {against}."
    )
    if report["latest"] is None:
        return f"{lead} There are too few photos to say anything yet."
    return f"{lead} The newest was seen at {text(_time(report['latest']['last']))}."


def _tiles(report: Mapping[str, Any]) -> str:
    latest = report["latest"]
    alarms = sum(bool(window["alarm"]) for window in report["windows"])
    said = "–" if latest is None else "alarm" if latest["alarm"] else "as tested"
    most = "" if latest is None else f"{latest['score']:.2f}, {latest['most']}; 1 alarms"
    common = max(report["prior"].items(), key=lambda pair: pair[1], default=None)
    tiles = [
        ("The newest photos", said, most),
        ("Photos", f"{report['photos']:,}", ""),
        ("Windows with an alarm", f"{alarms:,}", f"of {len(report['windows']):,}"),
        ("Most common now", "–" if common is None else percent(common[1], 0), common and common[0]),
    ]
    return "".join(
        f'<div class="tile"><span class="name">{name}</span><span class="number">{number}</span>'
        f'<span class="interval why"><bdi>{text(under or "")}</bdi></span></div>'
        for name, number, under in tiles
    )


def _stretches(windows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """At most MOST stretches: decisions are added up, quartiles averaged, and of scores the worst is told."""
    size = -(-len(windows) // MOST) or 1
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
                "sure": [sum(column) / len(part) for column in zip(*(w["sure"] for w in part), strict=True)],
                "scores": {name: max(w["scores"].get(name, 0.0) for w in part) for name in names},
                "alarm": any(window["alarm"] for window in part),
            }
        )
    return found


def _ranked(
    labels: Sequence[str], counts: Sequence[Mapping[str, int]]
) -> tuple[list[str], list[dict[str, int]]]:
    """The decisions that are drawn, the most common of many labels, and the counts with the rest as one."""
    total = Counter[str]()
    for stretch in counts:
        total.update(stretch)
    known = [name for name in labels if total[name]] + sorted(set(total) - set(labels))
    shown = known
    if len(known) > TONES:
        common = sorted(known, key=lambda name: -total[name])[:TONES]
        shown = [name for name in known if name in common]
    rest = "others"
    while rest in known:
        rest = f"all {rest}"
    reduced = [{name: stretch.get(name, 0) for name in shown} for stretch in counts]
    if len(shown) < len(known):
        for stretch, row in zip(counts, reduced, strict=True):
            row[rest] = sum(stretch.values()) - sum(row.values())
        shown = [*shown, rest]
    return shown, reduced


def _table(stretches: Sequence[Mapping[str, Any]]) -> str:
    """The stretches that alarm, the newest first."""
    alarmed = [stretch for stretch in stretches if stretch["alarm"]][::-1]
    if not alarmed:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{text(_time(one["first"]))}</th><td>{text(_time(one["last"]))}</td>'
        f"<td>{_most(one['scores'])}</td></tr>"
        for one in alarmed
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("from", "to", "scores above 1"))
    return (
        '<section><h2>Alarms</h2><div class="scroll box"><table><caption>What was unlike the test, and when.'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _most(scores: Mapping[str, float]) -> str:
    above = sorted(((score, name) for name, score in scores.items() if score > 1), reverse=True)
    return ", ".join(f"{text(name)} {score:.2f}" for score, name in above)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
