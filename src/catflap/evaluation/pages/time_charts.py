"""Pictures of what changes over time, a column or a point for each stretch of a field log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from catflap.evaluation.pages.charts import (
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    chart,
    legend,
    nothing,
    path,
    percent,
    shares,
    tone,
)
from catflap.html_text import text


def columns(names: Sequence[str], counts: Sequence[Mapping[str, int]], times: Sequence[str]) -> str:
    """Shares of each stretch, one above the other: which decisions were taken when."""
    if not counts:
        return nothing("There is no whole stretch of photos yet.")
    across, up = _times(times), shares("share of the decisions")
    width = (WIDTH - LEFT - RIGHT) / len(counts)
    marks = []
    for place, stretch in enumerate(counts):
        whole, below = sum(stretch.values()), 0
        for number, name in enumerate(names):
            count = stretch.get(name, 0)
            if count:
                top, floor = up.y((below + count) / whole), up.y(below / whole)
                said = f"{times[place]}: {count:,} of {whole:,} {name}"
                marks.append(
                    f'<rect class="bar {tone(number)}" x="{LEFT + place * width + 0.5:.1f}" y="{top}" '
                    f'width="{max(0.5, width - 1):.1f}" height="{floor - top:.1f}">'
                    f"<title>{text(said)}</title></rect>"
                )
                below += count
    described = "Decisions over time: the share of each label, and of unsure."
    return chart(described, across, up, marks) + legend(names)


def band(quartiles: Sequence[Sequence[float]], times: Sequence[str]) -> str:
    """The middle of some shares (n, 3) over time, and the band in which half of them lie."""
    if not quartiles:
        return nothing("There is no whole stretch of photos yet.")
    start = max(0.0, math.floor(min(low for low, _, _ in quartiles) * 10 - 1e-9) / 10)
    across, up = _times(times), shares("probability of the answer", min(start, 0.9))
    x = [across.x(place) for place in _middles(len(quartiles))]
    lows, middles, highs = ([up.y(value) for value in column] for column in zip(*quartiles, strict=True))
    around = [*zip(x, highs, strict=True), *zip(reversed(x), reversed(lows), strict=True)]
    marks = [path("band", around), path("line tone0", list(zip(x, middles, strict=True)))]
    for place, (left, top, (low, middle, high)) in enumerate(zip(x, middles, quartiles, strict=True)):
        said = f"{times[place]}: {percent(middle)}, half of them {percent(low)} to {percent(high)}"
        marks.append(
            f'<circle class="dot" cx="{left}" cy="{top}" r="2.5"><title>{text(said)}</title></circle>'
        )
    return chart("How sure the answers are: the middle, and the half around it.", across, up, marks)


def against_limit(names: Sequence[str], scores: Sequence[Mapping[str, float]], times: Sequence[str]) -> str:
    """Scores over time, a line each, against the dashed line at 1, where the alarm begins."""
    if not scores:
        return nothing("There is no whole stretch of photos yet.")
    most = max([1.25, *(score for stretch in scores for score in stretch.values())])
    step = next(
        size for size in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if most / size <= 6 or size == 1000
    )
    top = step * math.ceil(most / step)
    ticks = tuple((step * k, f"{step * k:g}") for k in range(round(top / step) + 1))
    across, up = _times(times), Scale(lambda value: value / top, ticks, "drift score")
    x = [across.x(place) for place in _middles(len(scores))]
    marks = [path("limit", [(LEFT, up.y(1)), (WIDTH - RIGHT, up.y(1))])]
    for number, name in enumerate(names):
        points = [
            (left, up.y(stretch[name])) for left, stretch in zip(x, scores, strict=True) if name in stretch
        ]
        marks.append(path(f"line {tone(number)}", points))
        marks += [
            f'<circle class="bar {tone(number)}" cx="{left}" cy="{up.y(stretch[name])}" r="3">'
            f"<title>{text(f'{time}: {name} {stretch[name]:.2f}')}</title></circle>"
            for left, stretch, time in zip(x, scores, times, strict=True)
            if stretch.get(name, 0) > 1 or (name in stretch and len(scores) == 1)
        ]
    described = "Drift scores over time; above the dashed line at 1 they alarm."
    return chart(described, across, up, marks) + legend(names)


def _times(times: Sequence[str]) -> Scale:
    """Stretches side by side, as wide as one another; three are named, none too near to the edge."""
    count = len(times)
    shown = sorted({count // 8, count // 2, count - 1 - count // 8})
    middles = _middles(count)
    return Scale(lambda value: value, tuple((middles[place], text(times[place])) for place in shown), "")


def _middles(count: int) -> list[float]:
    return [(place + 0.5) / count for place in range(count)]
