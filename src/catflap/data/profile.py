"""The profile pages of a Manifest and a Dataset: what a person should see before learning from photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catflap.artifacts.dataset import ROLES, Dataset
from catflap.artifacts.folder import write_atomically
from catflap.artifacts.manifest import TABLE, Manifest
from catflap.artifacts.tables import iter_table, leading_bits
from catflap.data.page import bars, figure, findings, page, section, sheet, sizes, table
from catflap.data.sources.reading import read_photo
from catflap.html_text import text
from catflap.image import Frame

Row: TypeAlias = dict[str, Any]

PAGE = "profile.html"
LABELS = 24  # labels with a contact sheet
PHOTOS = 12  # photos a contact sheet
GROUPS = 24  # groups of near-duplicates
TOGETHER = 5  # photos a group
LISTED = 10_000  # rows of files that are not ok
COLUMNS = ("id", "uri", "label", "status", "reason", "width", "height", "bytes", "offset", "group")


def profile_manifest(folder: Path, manifest: Manifest) -> None:
    """Write profile.html into a Manifest folder: counts, sizes, samples, duplicates, and what is wrong."""
    path = folder / TABLE
    pixels, samples, groups, bad = _gather(path)
    counts = {"photos": manifest.photos, "ok": manifest.ok, "quarantined": manifest.quarantined}
    more = {"dropped copies": manifest.dropped, "near-duplicates": manifest.near_duplicates}
    others = manifest.quarantined + manifest.dropped
    shown = f"The first {LISTED:,} of {others:,}; all are in {TABLE}." if others > LISTED else ""
    sections = [
        section("Findings", findings(manifest.checks)),
        section("Labels", bars("label", manifest.labels)),
        section("Sizes", sizes(pixels)),
        section("Remarks", bars("photos that are ok", manifest.remarks)),
        section("Samples", _samples(samples)),
        section("Near-duplicates", _groups(path, groups), _how_many(manifest.near_duplicate_groups)),
        section("Not used", bars("reason", manifest.reasons) + _bad(bad), shown),
    ]
    footer = f"Manifest {manifest.sha256[:16]}, made by Catflap {manifest.versions['catflap']}."
    write_atomically(
        folder / PAGE, page("Catflap scan", manifest.source, {**counts, **more}, sections, footer).encode()
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
        + sheet((str(chosen.ids[i])[:16], partial(chosen.__getitem__, i)) for i in _some(chosen))
        for role, chosen in photos.items()
    )
    groups = [set(chosen.groups.tolist()) for chosen in photos.values()]
    apart = sum(map(len, groups)) == len(set().union(*groups))
    sections = [
        section("Roles", table(("label", *ROLES), rows), "No group lies in two roles." if apart else ""),
        section("Sizes", sizes(pixels)),
        section("Samples", sheets),
    ]
    tiles = {**{role: dataset.roles[role] for role in ROLES}, "left out": dataset.left_out}
    footer = (
        f"Dataset {dataset.sha256[:16]} of Manifest {dataset.ancestors['manifest'][:16]}, "
        f"seed {dataset.seed}, made by Catflap {dataset.versions['catflap']}."
    )
    title = f"{sum(dataset.roles.values()):,} photos of {len(dataset.labels):,} labels"
    write_atomically(folder / PAGE, page("Catflap dataset", title, tiles, sections, footer).encode())


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
    """The photos with the smallest ids, which are as good as drawn by chance, but always the same.

    `last`: of a label that has enough, only ids before this one are asked for.
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
        f"<h3>{text(label)}</h3>{sheet((row['uri'], _reader(row)) for row in rows)}"
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
    figures = [figure(row["uri"], row["label"], _reader(row), mixed) for row in members[:TOGETHER]]
    more = len(members) - TOGETHER
    rest = f'<p class="note">… and {more:,} more</p>' if more > 0 else ""
    return f'<div class="group">{"".join(figures)}{rest}</div>'


def _bad(rows: list[Row]) -> str:
    listed = [(row["uri"], row["label"], row["status"], row["reason"]) for row in rows]
    return table(("photo", "label", "status", "reason"), listed)


def _how_many(groups: int) -> str:
    return f"{min(groups, GROUPS)} of {groups:,} groups, those under two labels first." if groups else ""


def _reader(row: Row) -> Any:
    return partial(read_photo, row["uri"], row["offset"], row["bytes"], Frame.max_bytes)


def _some(photos: Any) -> list[int]:
    return [int(place) for place in np.linspace(0, len(photos) - 1, min(len(photos), 2 * PHOTOS))]
