"""The profile pages of a Manifest and a Dataset: one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from string import Template
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catflap.artifacts.dataset import ROLES, Dataset
from catflap.artifacts.folder import write_atomically
from catflap.artifacts.manifest import TABLE, Manifest
from catflap.artifacts.tables import iter_table, leading_bits
from catflap.data.reading import read_photo
from catflap.errors import BadPhoto
from catflap.html_text import shared_style, text
from catflap.image import Frame, thumbnail

Row: TypeAlias = dict[str, Any]

PAGE = "profile.html"
LABELS = 24  # labels with a contact sheet
PHOTOS = 12  # photos a contact sheet
GROUPS = 24  # groups of near-duplicates
TOGETHER = 5  # photos a group
LISTED = 10_000  # rows of files that are not ok
COLUMNS = ("id", "uri", "label", "status", "reason", "width", "height", "bytes", "offset", "group")
Read: TypeAlias = Callable[[], bytes]  # the bytes of one photo; BadPhoto when they are gone

SIDE = 160
MOST_BARS = 60


def profile_manifest(folder: Path, manifest: Manifest) -> None:
    """Write profile.html into a Manifest folder: counts, sizes, samples, duplicates, and what is wrong."""
    path = folder / TABLE
    pixels, samples, groups, bad = _gather(path)
    counts = {"photos": manifest.photos, "ok": manifest.ok, "quarantined": manifest.quarantined}
    more = {"dropped copies": manifest.dropped, "near-duplicates": manifest.near_duplicates}
    others = manifest.quarantined + manifest.dropped
    shown = f"The first {LISTED:,} of {others:,}; all are in {TABLE}." if others > LISTED else ""
    sections = [
        _section("Findings", _findings(manifest.checks)),
        _section("Labels", _bars("label", manifest.labels)),
        _section("Sizes", _sizes(pixels)),
        _section("Remarks", _bars("photos that are ok", manifest.remarks)),
        _section("Samples", _samples(samples)),
        _section("Near-duplicates", _groups(path, groups), _how_many(manifest.near_duplicate_groups)),
        _section("Not used", _bars("reason", manifest.reasons) + _bad(bad), shown),
    ]
    footer = f"Manifest {manifest.sha256[:16]}, made by Catflap {manifest.versions['catflap']}."
    write_atomically(
        folder / PAGE, _page("Catflap scan", manifest.source, {**counts, **more}, sections, footer).encode()
    )


def profile_dataset(folder: Path, dataset: Dataset, pixels: Counter[tuple[int, int]]) -> None:
    """Write profile.html into a Dataset folder: photos by label and role, sizes, and samples of each role."""
    photos = {role: dataset.photos(role) for role in ROLES}
    by_role = {role: np.bincount(photos[role].labels, minlength=len(dataset.labels)) for role in ROLES}
    rows = [
        (name, *(int(by_role[role][number]) for role in ROLES)) for number, name in enumerate(dataset.labels)
    ]
    sheets = "".join(
        f"<h3>{role}</h3>"
        + _sheet((str(chosen.ids[i])[:16], partial(chosen.__getitem__, i)) for i in _some(chosen))
        for role, chosen in photos.items()
    )
    groups = [set(chosen.groups.tolist()) for chosen in photos.values()]
    apart = sum(map(len, groups)) == len(set().union(*groups))
    sections = [
        _section("Roles", _table(("label", *ROLES), rows), "No group lies in two roles." if apart else ""),
        _section("Sizes", _sizes(pixels)),
        _section("Samples", sheets),
    ]
    tiles = {**{role: dataset.roles[role] for role in ROLES}, "left out": dataset.left_out}
    footer = (
        f"Dataset {dataset.sha256[:16]} of Manifest {dataset.ancestors['manifest'][:16]}, "
        f"seed {dataset.seed}, made by Catflap {dataset.versions['catflap']}."
    )
    title = f"{sum(dataset.roles.values()):,} photos of {len(dataset.labels):,} labels"
    write_atomically(folder / PAGE, _page("Catflap dataset", title, tiles, sections, footer).encode())


def _gather(path: Path) -> tuple[Counter[tuple[int, int]], dict[str, list[Row]], list[int], list[Row]]:
    """One pass: sizes in px, some photos a label, some groups of near-duplicates, and photos not ok.

    Only what is shown is held, however many photos there are.
    """
    pixels: Counter[tuple[int, int]] = Counter()
    samples: dict[str, list[Row]] = {}
    last: dict[str, str] = {}  # of each label that has enough samples
    groups: dict[str, list[int]] = {"near_duplicate_two_labels:": [], "near_duplicate:": []}
    bad: list[Row] = []
    for rows in iter_table(path, COLUMNS):
        fine = rows.filter(pc.equal(rows["status"], "ok"))
        pixels.update(zip(fine["width"].to_pylist(), fine["height"].to_pylist(), strict=True))
        for label, found in groupby(_first_of_each_label(fine, last), key=itemgetter("label")):
            samples[label] = sorted([*samples.get(label, []), *found], key=itemgetter("id"))[:PHOTOS]
            if len(samples[label]) == PHOTOS:
                last[label] = samples[label][-1]["id"]
        for remark, chosen in groups.items():
            copies = fine.filter(pc.match_substring(fine["reason"], remark)).slice(0, GROUPS)
            chosen[:] = _first([*chosen, *copies["group"].to_pylist()])
        if len(bad) < LISTED:
            bad += rows.filter(pc.not_equal(rows["status"], "ok")).slice(0, LISTED - len(bad)).to_pylist()
    return pixels, dict(sorted(samples.items())), _first(chain(*groups.values())), bad


def _first(groups: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(groups))[:GROUPS]


def _first_of_each_label(rows: pa.Table, last: dict[str, str]) -> Iterator[Row]:
    """The photos with the smallest ids of each label: a random but reproducible sample.

    `last`: for a label that has enough photos, only ids before this one are returned.
    """
    named = zip(rows["label"].to_pylist(), rows["id"].to_pylist(), strict=True)
    rows = rows.filter(pa.array([label not in last or id < last[label] for label, id in named], pa.bool_()))
    labels = np.asarray(rows["label"].to_pylist(), dtype=np.str_)
    order = np.lexsort((leading_bits(rows["id"])[:, 0], labels))
    if not len(order):
        return
    edges = np.flatnonzero(np.concatenate([[True], labels[order][1:] != labels[order][:-1]]))
    for start, stop in zip(edges, np.append(edges[1:], len(order)), strict=True):
        yield from rows.take(order[start : min(stop, start + PHOTOS)]).to_pylist()


def _samples(samples: dict[str, list[Row]]) -> str:
    sheets = [
        f"<h3>{text(label)}</h3>{_sheet((row['uri'], _reader(row)) for row in rows)}"
        for label, rows in list(samples.items())[:LABELS]
    ]
    more = len(samples) - LABELS
    return "".join(sheets) + (f'<p class="note">… and {more:,} more labels</p>' if more > 0 else "")


def _groups(path: Path, wanted: list[int]) -> str:
    """Groups side by side, those under two labels first."""
    members: dict[int, list[Row]] = {group: [] for group in wanted}
    if not wanted:
        return ""
    for rows in iter_table(path, COLUMNS):
        for row in rows.filter(pc.is_in(rows["group"], pa.array(wanted, pa.int64()))).to_pylist():
            members[row["group"]].append(row)
    return f'<div class="groups">{"".join(map(_group, members.values()))}</div>'


def _group(members: list[Row]) -> str:
    mixed = len({row["label"] for row in members}) > 1
    figures = [_figure(row["uri"], row["label"], _reader(row), mixed) for row in members[:TOGETHER]]
    more = len(members) - TOGETHER
    rest = f'<p class="note">… and {more:,} more</p>' if more > 0 else ""
    return f'<div class="group">{"".join(figures)}{rest}</div>'


def _bad(rows: list[Row]) -> str:
    listed = [(row["uri"], row["label"], row["status"], row["reason"]) for row in rows]
    return _table(("photo", "label", "status", "reason"), listed)


def _how_many(groups: int) -> str:
    return f"{min(groups, GROUPS)} of {groups:,} groups, those under two labels first." if groups else ""


def _reader(row: Row) -> Any:
    return partial(read_photo, row["uri"], row["offset"], row["bytes"], Frame.max_bytes)


def _some(photos: Any) -> list[int]:
    return [int(place) for place in np.linspace(0, len(photos) - 1, min(len(photos), 2 * PHOTOS))]


def _page(kicker: str, title: str, tiles: Mapping[str, int], sections: Iterable[str], footer: str) -> str:
    """The whole page."""
    here = Path(__file__)
    cells = (
        f'<div class="tile"><span>{text(name)}</span><b>{count:,}</b></div>' for name, count in tiles.items()
    )
    return Template(here.with_name("profile.html").read_text("utf-8")).substitute(
        kicker=text(kicker),
        title=text(title),
        style=shared_style() + here.with_name("profile.css").read_text("utf-8"),
        tiles="".join(cells),
        sections="\n".join(filter(None, sections)),
        footer=f"<p>{text(footer)}</p>",
    )


def _section(title: str, body: str, note: str = "") -> str:
    """A heading with a note and a body; "" for an empty body."""
    lead = f'<p class="note">{text(note)}</p>' if note else ""
    return f"<section><h2>{text(title)}</h2>{lead}{body}</section>" if body else ""


def _findings(checks: Sequence[Mapping[str, Any]]) -> str:
    """The findings about a collection."""
    items = "".join(f"<li>{text(check['what'])}</li>" for check in checks)
    return f'<ul class="findings">{items}</ul>' if items else ""


def _bars(name: str, counts: Mapping[str, int]) -> str:
    """Counts as a table with bars, in their order; beyond 60 rows it says how many are missing."""
    largest = max(counts.values(), default=0)
    rows = "".join(
        f'<tr><td>{text(label)}</td><td class="n">{count:,}</td>'
        f'<td class="bar"><i style="width:{100 * count / largest if largest else 0:.1f}%"></i></td></tr>'
        for label, count in list(counts.items())[:MOST_BARS]
    )
    more = f'<p class="note">… and {len(counts) - MOST_BARS:,} more</p>' if len(counts) > MOST_BARS else ""
    head = f'<tr><th>{text(name)}</th><th class="n">photos</th><td></td></tr>'
    return f'<div class="box" tabindex="0"><table>{head}{rows}</table>{more}</div>' if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as a table; numbers are right-aligned."""
    rows = list(rows)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    numeric = [all(isinstance(cell, int) for cell in column) for column in zip(*rows, strict=True)]
    kinds = (' class="n"' if number else "" for number in numeric)
    names = "".join(f"<th{kind}>{text(name)}</th>" for name, kind in zip(head, kinds, strict=False))
    return f'<div class="box" tabindex="0"><table><tr>{names}</tr>{body}</table></div>' if body else ""


def _sheet(photos: Iterable[tuple[str, Read]]) -> str:
    """A contact sheet; takes names and how to read each photo."""
    return f'<div class="sheet">{"".join(_picture(name, read) for name, read in photos)}</div>'


def _figure(name: str, caption: str, read: Read, alarm: bool = False) -> str:
    """A photo with a caption."""
    words = f'<span class="alarm">{text(caption)}</span>' if alarm else text(caption)
    return f"<figure>{_picture(name, read)}<figcaption>{words}<br>{text(name)}</figcaption></figure>"


def _picture(name: str, read: Read) -> str:
    """A small picture inside the page; its name where the photo can no longer be read."""
    try:
        data = base64.b64encode(thumbnail(read(), SIDE)).decode()
    except BadPhoto:
        return f"<span>{text(name)}</span>"
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text(name)}" title="{text(name)}">'


def _sizes(pixels: Counter[tuple[int, int]]) -> str:
    """Histograms of the long side in px, by factors of 1.4, and of width over height."""
    sides: Counter[int] = Counter()
    aspects: Counter[int] = Counter()
    for (width, height), count in pixels.items():
        sides[math.floor(2 * math.log2(max(width, height)))] += count
        aspects[max(-8, min(8, round(4 * math.log2(width / height))))] += count
    long = {f"{2 ** (n / 2):.0f} to {2 ** ((n + 1) / 2):.0f} px": sides[n] for n in _span(sides)}
    ratio = {_aspect(n): aspects[n] for n in _span(aspects)}
    return f'<div class="cards">{_bars("long side", long)}{_bars("width : height", ratio)}</div>'


def _cell(value: Any) -> str:
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f"<td>{text(value)}</td>"


def _span(counts: Counter[int]) -> range:
    return range(min(counts), max(counts) + 1) if counts else range(0)


def _aspect(quarters: int) -> str:
    ratio = 2 ** (abs(quarters) / 4)
    at_most = "≥ " if abs(quarters) == 8 else ""
    return f"{at_most}{ratio:.2g} : 1" if quarters >= 0 else f"{at_most}1 : {ratio:.2g}"
