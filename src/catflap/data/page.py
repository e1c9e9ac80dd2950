"""Pieces of a profile page; every string is escaped, nothing is loaded from elsewhere, nothing runs."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, TypeAlias

from catflap.errors import BadPhoto
from catflap.html_text import text
from catflap.image import thumbnail

Read: TypeAlias = Callable[[], bytes]  # the bytes of one photo; BadPhoto when they are gone

SIDE = 160
MOST_BARS = 60


def page(kicker: str, title: str, tiles: Mapping[str, int], sections: Iterable[str], footer: str) -> str:
    """The whole page."""
    here = Path(__file__)
    cells = (
        f'<div class="tile"><span>{text(name)}</span><b>{count:,}</b></div>' for name, count in tiles.items()
    )
    return Template(here.with_name("profile.html").read_text("utf-8")).substitute(
        kicker=text(kicker),
        title=text(title),
        style=here.with_name("profile.css").read_text("utf-8"),
        tiles="".join(cells),
        sections="\n".join(filter(None, sections)),
        footer=f"<p>{text(footer)}</p>",
    )


def section(title: str, body: str, note: str = "") -> str:
    """A heading with what stands under it; nothing when there is nothing."""
    lead = f'<p class="note">{text(note)}</p>' if note else ""
    return f"<section><h2>{text(title)}</h2>{lead}{body}</section>" if body else ""


def findings(checks: Sequence[Mapping[str, Any]]) -> str:
    """The findings about a collection."""
    items = "".join(f"<li>{text(check['what'])}</li>" for check in checks)
    return f'<ul class="findings">{items}</ul>' if items else ""


def bars(name: str, counts: Mapping[str, int]) -> str:
    """Counts as a table with bars, in their order; beyond 60 rows it says how many are missing."""
    largest = max(counts.values(), default=0)
    rows = "".join(
        f'<tr><td>{text(label)}</td><td class="n">{count:,}</td>'
        f'<td class="bar"><i style="width:{100 * count / largest if largest else 0:.1f}%"></i></td></tr>'
        for label, count in list(counts.items())[:MOST_BARS]
    )
    more = f'<p class="note">… and {len(counts) - MOST_BARS:,} more</p>' if len(counts) > MOST_BARS else ""
    head = f'<tr><th>{text(name)}</th><th class="n">photos</th><th></th></tr>'
    return f'<div class="box"><table>{head}{rows}</table>{more}</div>' if rows else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as a table; numbers stand to the right."""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    names = "".join(f"<th>{text(name)}</th>" for name in head)
    return f'<div class="box"><table><tr>{names}</tr>{body}</table></div>' if body else ""


def sheet(photos: Iterable[tuple[str, Read]]) -> str:
    """A contact sheet; takes names and how to read each photo."""
    return f'<div class="sheet">{"".join(picture(name, read) for name, read in photos)}</div>'


def figure(name: str, caption: str, read: Read, alarm: bool = False) -> str:
    """A photo with what is said about it."""
    words = f'<span class="alarm">{text(caption)}</span>' if alarm else text(caption)
    return f"<figure>{picture(name, read)}<figcaption>{words}<br>{text(name)}</figcaption></figure>"


def picture(name: str, read: Read) -> str:
    """A small picture inside the page; its name where the photo cannot be read any more."""
    try:
        data = base64.b64encode(thumbnail(read(), SIDE)).decode()
    except BadPhoto:
        return f"<span>{text(name)}</span>"
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text(name)}" title="{text(name)}">'


def sizes(pixels: Counter[tuple[int, int]]) -> str:
    """Histograms of the long side in px, by factors of 1.4, and of width over height."""
    sides: Counter[int] = Counter()
    aspects: Counter[int] = Counter()
    for (width, height), count in pixels.items():
        sides[math.floor(2 * math.log2(max(width, height)))] += count
        aspects[max(-8, min(8, round(4 * math.log2(width / height))))] += count
    long = {f"{2 ** (n / 2):.0f} to {2 ** ((n + 1) / 2):.0f} px": sides[n] for n in _span(sides)}
    ratio = {_aspect(n): aspects[n] for n in _span(aspects)}
    return f'<div class="cards">{bars("long side", long)}{bars("width : height", ratio)}</div>'


def _cell(value: Any) -> str:
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f"<td>{text(value)}</td>"


def _span(counts: Counter[int]) -> range:
    return range(min(counts), max(counts) + 1) if counts else range(0)


def _aspect(quarters: int) -> str:
    ratio = 2 ** (abs(quarters) / 4)
    at_most = "≥ " if abs(quarters) == 8 else ""
    return f"{at_most}{ratio:.2g} : 1" if quarters >= 0 else f"{at_most}1 : {ratio:.2g}"
