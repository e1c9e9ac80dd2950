"""The pictures of a Report as inline SVG: no script, readable in light and dark, described in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from catflap.html_text import text

WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 12, 46
TONES = 5  # that the page has; what comes later is plain


@dataclass(frozen=True)
class Scale:
    """Values to pixels along one side: `place` maps a value to 0..1; `ticks` are values with their text."""

    place: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]
    words: str

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return round(LEFT + self.place(value) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return round(HEIGHT - BOTTOM - self.place(value) * (HEIGHT - TOP - BOTTOM), 1)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as people read it; 100 % and 0 % only where they are exact."""
    if value is None:
        return "–"
    for places in range(digits, 5):
        shown = f"{100 * value:.{places}f}"
        if value in (0.0, 1.0) or float(shown) not in (0.0, 100.0):
            return f"{shown} %"
    return "> 99.99 %" if value > 0.5 else "< 0.01 %"


def reliability(points: Sequence[dict[str, Any]]) -> str:
    """Stated probability against the share that was right, with 95 % whiskers."""
    if not points:
        return nothing("There are no photos.")
    start = max(0.0, math.floor(min(point["stated"] for point in points) * 10 - 1e-9) / 10)
    across = shares("stated probability", start)
    up = shares("share that was right")
    most = max(point["photos"] for point in points)
    marks = [path("ideal", [(across.x(start), up.y(start)), (across.x(1), up.y(1))])]
    for point in points:
        x, y = across.x(point["stated"]), up.y(point["value"])
        radius = round(3 + 6 * math.sqrt(point["photos"] / most), 1)
        said = (
            f"{point['photos']} photos at {percent(point['stated'])}: {percent(point['value'])} right "
            f"({percent(point['low'])} to {percent(point['high'])})"
        )
        marks += [
            f'<line class="whisker" x1="{x}" x2="{x}" y1="{up.y(point["low"])}" y2="{up.y(point["high"])}"/>',
            f'<circle class="dot" cx="{x}" cy="{y}" r="{radius}"><title>{said}</title></circle>',
        ]
    return chart("Reliability: each dot is one bin of photos; on the diagonal is ideal.", across, up, marks)


def roc(lines: Sequence[dict[str, Any]]) -> str:
    """Recall against false positives, with the false positives on a logarithmic axis that starts at none."""
    if not lines:
        return nothing("The photos have one label only, so there is nothing to trade.")
    decades = max(1, min(5, math.ceil(-math.log10(min(line["finest"] for line in lines)) - 1e-9)))
    floor = 10.0**-decades

    def place(rate: float) -> float:
        """None at 0, then a gap of a tenth, then the decades."""
        return 0.0 if rate < floor * 0.999 else 0.1 + 0.9 * (math.log10(rate) + decades) / decades

    ticks = ((0.0, "0"), *((10.0**-k, f"{10.0 ** (2 - k):g} %") for k in range(decades, -1, -1)))
    across = Scale(place, ticks, "false positives (logarithmic)")
    lowest = min(min(line["recall"]) for line in lines if line["recall"])
    seen = [
        r for line in lines for r, f in zip(line["recall"], line["false_positive_rate"], strict=True) if f > 0
    ]
    start = max(0.0, math.floor(min([*seen, 0.9]) * 10 - 1e-9) / 10) if lowest < 0.9 else 0.9
    up = shares("recall", start)
    marks, names = [], []
    for number, line in enumerate(lines):
        points, before = [], None
        for rate, recall in zip(line["false_positive_rate"], line["recall"], strict=True):
            here = (across.x(rate), up.y(max(recall, start)))
            if before is not None and here[0] != before[0]:
                points.append((here[0], before[1]))
            points.append(here)
            before = here
        marks.append(path(f"line {tone(number)}", points))
        names.append(line["label"])
    return chart("ROC curve: recall against false positives.", across, up, marks) + legend(names)


def histogram(bars: dict[str, Any] | None) -> str:
    """Two counts back to back, on a logarithmic axis so that the few in the middle can be seen."""
    if bars is None:
        return nothing("There are no photos.")
    most = max(10, *bars["up_photos"], *bars["down_photos"])
    reach = math.log10(most + 1)
    middle = (HEIGHT - BOTTOM + TOP) / 2
    half = (HEIGHT - BOTTOM - TOP) / 2
    across = shares(bars["of"])
    width = (WIDTH - LEFT - RIGHT) / len(bars["up_photos"])
    marks = []
    for side, photos, number in ((-1, bars["up_photos"], 0), (1, bars["down_photos"], 1)):
        for place, count in enumerate(photos):
            if count:
                tall = round(half * math.log10(count + 1) / reach, 1)
                y = middle - tall if side < 0 else middle
                marks.append(
                    f'<rect class="bar {tone(number)}" x="{LEFT + place * width + 0.75:.1f}" y="{y:.1f}" '
                    f'width="{width - 1.5:.1f}" height="{tall}" rx="1.5"><title>{count} photos</title></rect>'
                )
    ticks = []
    for power in range(1, int(math.log10(most)) + 1):
        away = math.log10(10**power + 1) / reach / 2
        ticks += [(0.5 + away, f"{10**power:,}"), (0.5 - away, f"{10**power:,}")]
    up = Scale(lambda value: value, ((0.5, "0"), *ticks), "photos (logarithmic)")
    names = (bars["up"], bars["down"])
    return chart(f"How many photos got which {bars['of']}.", across, up, marks) + legend(names)


@dataclass(frozen=True)
class Line:
    """Points of one line, and the one that was chosen; a point without a number is left out."""

    name: str
    across: Sequence[float | None]
    up: Sequence[float | None]
    chosen: int | None = None


def lines(description: str, words: tuple[str, str], given: Sequence[Line], powers: bool = False) -> str:
    """Lines over one axis; with `powers` it is logarithmic. Five lines at most have a colour of their own."""
    drawn = [(line, _points(line, powers)) for line in given]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return nothing("There are no numbers.")
    every = [point for _, points in drawn for point in points.values()]
    spread = _powers if powers else _values
    across = spread(words[0], [x for x, _ in every])
    up = _values(words[1], [y for _, y in every])
    marks, names = [], []
    for number, (line, points) in enumerate(drawn[:TONES]):
        places = [(across.x(x), up.y(y)) for x, y in points.values()]
        marks.append(path(f"line tone{number}", places))
        dots = list(points) if len(points) <= 12 else [place for place in (line.chosen,) if place in points]
        for place in dots:
            x, y = points[place]
            said = f"{line.name}: {y:.5g} at {x:g}"
            radius = 5.5 if place == line.chosen else 2.6
            marks.append(
                f'<circle class="dot tone{number}" cx="{across.x(x)}" cy="{up.y(y)}" r="{radius}">'
                f"<title>{text(said)}</title></circle>"
            )
        names.append(line.name)
    return chart(description, across, up, marks) + legend(names)


def whisker(number: dict[str, Any], start: float) -> str:
    """A value and its interval as a small line, between `start` and 1."""
    if number["value"] is None or number["low"] is None:
        return ""

    def x(value: float) -> float:
        return round(3 + 94 * max(0.0, value - start) / (1 - start), 1)

    return (
        '<svg class="mini" viewBox="0 0 100 12" aria-hidden="true">'
        '<line class="rail" x1="3" x2="97" y1="6" y2="6"/>'
        f'<line class="whisker" x1="{x(number["low"])}" x2="{x(number["high"])}" y1="6" y2="6"/>'
        f'<circle class="dot" cx="{x(number["value"])}" cy="6" r="3.2"/></svg>'
    )


def nothing(why: str) -> str:
    """What stands where a picture cannot be drawn."""
    return f'<p class="none">{text(why)}</p>'


def shares(words: str, start: float = 0.0) -> Scale:
    """An axis from `start` to 100 %."""
    step = 0.2 if start < 0.5 else 0.1 if start < 0.8 else 0.05 if start < 0.9 else 0.02
    count = round((1 - start) / step)
    ticks = tuple((1 - k * step, f"{100 * (1 - k * step):.0f} %") for k in range(count, -1, -1))
    return Scale(lambda value: (value - start) / (1 - start), ticks, words)


def _points(line: Line, powers: bool) -> dict[int, tuple[float, float]]:
    """The points that have both numbers and a place on the axis, by their place in the line."""
    pairs = enumerate(zip(line.across, line.up, strict=True))
    whole = {place: (x, y) for place, (x, y) in pairs if x is not None and y is not None}
    return {place: point for place, point in whole.items() if point[0] > 0 or not powers}


def _values(words: str, values: Sequence[float]) -> Scale:
    """An axis around values, with three to seven round ticks."""
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    low, high = (low - room, high + room) if low else (0.0, high + room)
    rough = (high - low) / 5
    ten = 10.0 ** math.floor(math.log10(rough))
    step = min((ten * part for part in (1, 2, 5, 10)), key=lambda size: abs(size - rough))
    count = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((k * step, f"{k * step:,.{places}f}") for k in count)
    return Scale(lambda value: (value - low) / (high - low), ticks, words)


def _powers(words: str, values: Sequence[float]) -> Scale:
    """A logarithmic axis over values above 0, with a tick for each power of ten."""
    low, high = math.log10(min(values)), math.log10(max(values))
    low, high = (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    ticks = tuple((10.0**k, f"{10.0**k:g}") for k in powers)
    return Scale(lambda value: (math.log10(value) - low) / (high - low), ticks, words + " (logarithmic)")


def path(style: str, points: Sequence[tuple[float, float]]) -> str:
    """A line through points in pixels."""
    return f'<path class="{style}" d="M' + "L".join(f"{x:g} {y:g}" for x, y in points) + '"/>'


def legend(names: Sequence[str]) -> str:
    """What stands under a chart: the names of its lines or bars, in the order of their tones."""
    keys = (
        f'<span><span class="key {tone(number)}"></span><bdi>{text(name)}</bdi></span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{" ".join(keys)}</p>'


def tone(number: int) -> str:
    """The colour of a line or bar by its place, as a class of the page's style."""
    return f"tone{number}" if number < TONES else "plain"


def card(heading: str, picture: str) -> str:
    """A picture on the page, under what it shows; both are HTML."""
    return f'<div class="card"><h3>{heading}</h3>{picture}</div>'


def chart(description: str, across: Scale, up: Scale, marks: Sequence[str]) -> str:
    """Grid, ticks and words around the marks."""
    floor, parts = HEIGHT - BOTTOM, []
    for value, words in up.ticks:
        y = up.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{words}</text>')
    for value, words in across.ticks:
        x = across.x(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{floor + 17}" text-anchor="middle">{words}</text>')
    middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + floor) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{text(across.words)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(12 {height}) rotate(-90)" text-anchor="middle">'
        f"{text(up.words)}</text>"
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{text(description)}</title>'
        + "".join([*parts, *marks])
        + "</svg>"
    )
