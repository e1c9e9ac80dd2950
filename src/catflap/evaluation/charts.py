"""Charts as inline SVG, and the Jinja2 templates that hold them: no script, nothing loaded from elsewhere.

Vega-Lite or Observable Plot would add 250 to 830 kB of JavaScript to every page and need a script to run
where the page now forbids scripts; these charts are a few kB each and readable without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from catflap.artifacts.folder import write_atomically
from catflap.errors import CatflapError, need, system_reason
from catflap.html_text import shared_style, text

WIDTH, HEIGHT = 440, 330
LEFT, RIGHT, TOP, BOTTOM = 78, 26, 12, 58
TONES = 5  # colours; further lines are grey


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


def render(template: str, **fields: Any) -> str:
    """A page from a template in templates/; every value is escaped, and control characters are shown."""
    return str(_environment().get_template(template).render(**fields, percent=percent, count="{:,}".format))


def write_page(out: Path, page: str, kicker: str) -> None:
    """Write a page atomically; CatflapError where there is a file that is not such a page.

    `kicker` is the line above the title by which a page of the same kind is known.
    """
    try:
        if out.exists():
            if not out.is_file():
                raise CatflapError(f"{out} exists and is not such a page.", "Choose another name.")
            with open(out, "rb") as file:
                if kicker not in file.read(20_000).decode("utf-8", "replace"):
                    raise CatflapError(f"{out} exists and is not such a page.", "Choose another name.")
        write_atomically(out, page.encode("utf-8"))
    except OSError as error:
        why = system_reason(error)
        raise CatflapError(f"{out} cannot be written: {why}.", "Choose another place.") from error


@cache
def _environment() -> Any:
    need("jinja2")
    import jinja2

    def visible(value: Any) -> Any:
        """Text with control characters as codes, such as \\u202e, which would reorder the page."""
        if not isinstance(value, str) or hasattr(value, "__html__"):
            return value
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in value)

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("catflap.evaluation"),
        autoescape=True,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["shared_style"] = shared_style()
    environment.filters["basename"] = lambda name: PurePath(str(name)).name or str(name)
    environment.filters["dictlist"] = lambda entries, most: list(entries.items())[:most]
    return environment


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; 100 % and 0 % only where they are exact."""
    if value is None:
        return "–"
    for places in range(digits, 5):
        shown = f"{100 * value:.{places}f}"
        if value in (0.0, 1.0) or float(shown) not in (0.0, 100.0):
            return f"{shown} %"
    return "> 99.99 %" if value > 0.5 else "< 0.01 %"


def reliability(points: Sequence[dict[str, Any]]) -> str:
    """A reliability diagram with 95 % whiskers."""
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
        tooltip = (
            f"{point['photos']} photos at {percent(point['stated'])}: {percent(point['value'])} right "
            f"({percent(point['low'])} to {percent(point['high'])})"
        )
        marks += [
            f'<line class="whisker" x1="{x}" x2="{x}" y1="{up.y(point["low"])}" y2="{up.y(point["high"])}"/>',
            f'<circle class="dot" cx="{x}" cy="{y}" r="{radius}"><title>{tooltip}</title></circle>',
        ]
    return chart("Reliability: each dot is one bin of photos; on the diagonal is ideal.", across, up, marks)


def roc(lines: Sequence[dict[str, Any]]) -> str:
    """ROC curves with a logarithmic axis of false positives that starts at zero."""
    if not lines:
        return nothing("The photos have one label only, so there is no ROC curve.")
    decades = max(1, min(5, math.ceil(-math.log10(min(line["finest"] for line in lines)) - 1e-9)))
    floor = 10.0**-decades

    def place(rate: float) -> float:
        """Zero at 0, then a gap of a tenth, then the decades."""
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
    """Two histograms back to back, on a logarithmic axis so that small counts are visible."""
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
    """The points of a line and the index of the chosen one; points without a number are left out."""

    name: str
    across: Sequence[float | None]
    up: Sequence[float | None]
    chosen: int | None = None


def lines(description: str, words: tuple[str, str], given: Sequence[Line], powers: bool = False) -> str:
    """A line chart of at most five lines; with `powers` the x axis is logarithmic."""
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
            tooltip = f"{line.name}: {y:.5g} at {x:g}"
            radius = 5.5 if place == line.chosen else 2.6
            marks.append(
                f'<circle class="dot tone{number}" cx="{across.x(x)}" cy="{up.y(y)}" r="{radius}">'
                f"<title>{text(tooltip)}</title></circle>"
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
    """What stands in place of a chart without data."""
    return f'<p class="none">{text(why)}</p>'


def shares(words: str, start: float = 0.0) -> Scale:
    """An axis from `start` to 100 %."""
    step = 0.2 if start < 0.5 else 0.1 if start < 0.8 else 0.05 if start < 0.9 else 0.02
    count = round((1 - start) / step)
    ticks = tuple((1 - k * step, f"{100 * (1 - k * step):.0f} %") for k in range(count, -1, -1))
    return Scale(lambda value: (value - start) / (1 - start), ticks, words)


def _points(line: Line, powers: bool) -> dict[int, tuple[float, float]]:
    """The points that can be drawn, by their index in the line."""
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
    """The legend of a chart, in the order of its colours."""
    keys = (
        f'<span><span class="key {tone(number)}"></span><bdi>{text(name)}</bdi></span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{" ".join(keys)}</p>'


def tone(number: int) -> str:
    """The CSS class of the colour of line or bar `number`."""
    return f"tone{number}" if number < TONES else "plain"


def chart(description: str, across: Scale, up: Scale, marks: Sequence[str]) -> str:
    """A chart with grid, ticks and axis titles around the marks."""
    floor, parts = HEIGHT - BOTTOM, []
    for value, words in up.ticks:
        y = up.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{words}</text>')
    for value, words in across.ticks:
        x = across.x(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{floor + 20}" text-anchor="middle">{words}</text>')
    middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + floor) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{text(across.words)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(15 {height}) rotate(-90)" text-anchor="middle">'
        f"{text(up.words)}</text>"
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{text(description)}</title>'
        + "".join([*parts, *marks])
        + "</svg>"
    )


def columns(names: Sequence[str], counts: Sequence[Mapping[str, int]], times: Sequence[str]) -> str:
    """A stacked column chart of the shares of decisions in each period."""
    if not counts:
        return nothing("There is no whole window of photos yet.")
    across, up = _times(times), shares("share of the decisions")
    width = (WIDTH - LEFT - RIGHT) / len(counts)
    marks = []
    for place, period in enumerate(counts):
        whole, below = sum(period.values()), 0
        for number, name in enumerate(names):
            count = period.get(name, 0)
            if count:
                top, floor = up.y((below + count) / whole), up.y(below / whole)
                tooltip = f"{times[place]}: {count:,} of {whole:,} {name}"
                marks.append(
                    f'<rect class="bar {tone(number)}" x="{LEFT + place * width + 0.5:.1f}" y="{top}" '
                    f'width="{max(0.5, width - 1):.1f}" height="{floor - top:.1f}">'
                    f"<title>{text(tooltip)}</title></rect>"
                )
                below += count
    described = "Decisions over time: the share of each label, and of unsure."
    return chart(described, across, up, marks) + legend(names)


def band(quartiles: Sequence[Sequence[float]], times: Sequence[str]) -> str:
    """The median of shares over time and the band between the quartiles, from quartiles (n, 3)."""
    if not quartiles:
        return nothing("There is no whole window of photos yet.")
    start = max(0.0, math.floor(min(low for low, _, _ in quartiles) * 10 - 1e-9) / 10)
    across, up = _times(times), shares("probability of the answer", min(start, 0.9))
    x = [across.x(place) for place in _middles(len(quartiles))]
    lows, middles, highs = ([up.y(value) for value in column] for column in zip(*quartiles, strict=True))
    around = [*zip(x, highs, strict=True), *zip(reversed(x), reversed(lows), strict=True)]
    marks = [path("band", around), path("line tone0", list(zip(x, middles, strict=True)))]
    for place, (left, top, (low, middle, high)) in enumerate(zip(x, middles, quartiles, strict=True)):
        tooltip = f"{times[place]}: {percent(middle)}, half of them {percent(low)} to {percent(high)}"
        marks.append(
            f'<circle class="dot" cx="{left}" cy="{top}" r="2.5"><title>{text(tooltip)}</title></circle>'
        )
    return chart("Confidence over time: the median, and the half around it.", across, up, marks)


def against_limit(names: Sequence[str], scores: Sequence[Mapping[str, float]], times: Sequence[str]) -> str:
    """Drift scores over time, with a dashed line at 1, the alarm."""
    if not scores:
        return nothing("There is no whole window of photos yet.")
    most = max([1.25, *(score for period in scores for score in period.values())])
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
            (left, up.y(period[name])) for left, period in zip(x, scores, strict=True) if name in period
        ]
        marks.append(path(f"line {tone(number)}", points))
        marks += [
            f'<circle class="bar {tone(number)}" cx="{left}" cy="{up.y(period[name])}" r="3">'
            f"<title>{text(f'{time}: {name} {period[name]:.2f}')}</title></circle>"
            for left, period, time in zip(x, scores, times, strict=True)
            if period.get(name, 0) > 1 or (name in period and len(scores) == 1)
        ]
    described = "Drift scores over time; above the dashed line at 1 they alarm."
    return chart(described, across, up, marks) + legend(names)


def _times(times: Sequence[str]) -> Scale:
    """An axis of periods of equal width; three are labelled."""
    count = len(times)
    shown = sorted({count // 8, count // 2, count - 1 - count // 8})
    middles, short = _middles(count), _short_times(times)
    return Scale(lambda value: value, tuple((middles[place], text(short[place])) for place in shown), "")


def _short_times(times: Sequence[str]) -> list[str]:
    """Times, "2026-12-01 13:05", as short as tells them apart: without the day or year that all share."""
    for shared in (len("2026-12-01 "), len("2026-")):
        if len({time[:shared] for time in times}) <= 1:
            return [time[shared:] for time in times]
    return [time[: len("2026-12-01")] for time in times]


def _middles(count: int) -> list[float]:
    return [(place + 0.5) / count for place in range(count)]
