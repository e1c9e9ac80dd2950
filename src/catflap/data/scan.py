"""scan: photos to a Manifest."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from catflap.artifacts.folder import atomic_folder, refuse_foreign
from catflap.artifacts.manifest import (
    DIGESTED,
    MARKER,
    TABLE,
    UNREADABLE,
    Manifest,
    load_manifest,
    manifest_digest,
    save_manifest,
)
from catflap.artifacts.schema import digest
from catflap.artifacts.tables import PHOTO_ROW, iter_table, write_tables
from catflap.data.profile import profile_manifest
from catflap.data.scanning import local, on_ray
from catflap.data.scanning.batch import FRAME
from catflap.data.scanning.checks import count_photos, findings
from catflap.data.scanning.copies import Copies, find_copies, with_copies
from catflap.data.scanning.mapping import Labels, mapped
from catflap.data.scanning.parts import Parts, plan_parts, working_folder, write_listing
from catflap.data.sources.listing import Reference, check_labels
from catflap.data.sources.lists import Columns
from catflap.data.sources.opening import DEFAULT_COLUMNS, open_source
from catflap.data.sources.reading import read_photo
from catflap.errors import BadPhoto, need
from catflap.progress import Progress, silent
from catflap.version import VERSION

REVISION = 3  # raised when a photo gets another row than before


def scan(
    source: str | Path,
    out: Path,
    *,
    labels: Labels | None = None,
    columns: Columns = DEFAULT_COLUMNS,
    on: str | None = None,
    workers: int | None = None,
    profile: bool = True,
    progress: Progress = silent,
) -> Manifest:
    """Read, check and hash every photo of a source, find duplicates, and write the Manifest folder `out`.

    `labels` renames, merges or (None) leaves out labels; `columns` names the columns of a list;
    `on` is None for `workers` processes here (one a core), or "ray" or "ray://host:port" for a
    cluster; `profile` also writes profile.html. A scan that was killed goes on where it stopped.
    """
    out = Path(out)
    refuse_foreign(out, MARKER)
    if on is not None:
        need("ray")
    listed = _Listed(source, labels, columns)
    with working_folder(out, "scan") as folder:
        parts = plan_parts(folder, listed, listed.rules())
        check_labels(listed.labels)
        _examine(parts, on, workers, progress)
        progress("duplicates", 0, 0)
        copies = find_copies(parts)
        with atomic_folder(out, MARKER) as whole:
            write_tables(whole / TABLE, PHOTO_ROW, with_copies(parts, copies))
            save_manifest(whole, _fields(source, whole / TABLE, parts, listed, copies))
            if profile:
                progress("profile", 0, 0)
                profile_manifest(whole, load_manifest(whole))
    return load_manifest(out)


def scan_fingerprint(
    source: str | Path, *, labels: Labels | None = None, columns: Columns = DEFAULT_COLUMNS
) -> str:
    """What a scan would be made from: the names, sizes and times of the photos, and the rules."""
    listed = _Listed(source, labels, columns)
    return write_listing(None, listed, listed.rules())[0]


def some_readable(manifest: Manifest) -> bool:
    """Whether a photo that could not be read when it was scanned can be by now."""
    for rows in iter_table(manifest.path / TABLE, ["uri", "offset", "bytes", "reason"]):
        for row in rows.filter(pc.equal(rows["reason"], UNREADABLE)).to_pylist():
            try:
                read_photo(row["uri"], row["offset"], row["bytes"], FRAME.max_bytes)
            except BadPhoto as error:
                if error.reason == UNREADABLE:
                    continue
            return True
    return False


class _Listed:
    """The references of a source under their new labels, noting on the way which labels there are."""

    def __init__(self, source: str | Path, mapping: Labels | None, columns: Columns) -> None:
        self._listing = open_source(source, columns)
        self._mapping = mapping or {}
        self._settings = [str(source), dict(self._mapping), [columns.path, columns.label]]
        self.labels: set[str] = set()
        self.left_out: dict[str, int] = {}

    def __iter__(self) -> Iterator[Reference]:
        for found in mapped(self._listing.references, self._mapping, self.left_out):
            if found["label"]:
                self.labels.add(found["label"])
            yield found

    def rules(self) -> str:
        return digest([REVISION, self._settings, scan_versions()])

    def merged(self) -> dict[str, list[str]]:
        """The labels of class folders in which two folders or more hold photos, with some of their names."""
        found = {label: sorted(inner)[:10] for label, inner in self._listing.nested.items()}
        return {label: names for label, names in found.items() if names[1:] and label not in self.left_out}

    def empty(self) -> list[str]:
        known = {self._mapping.get(label, label) for label in self._listing.labels}
        return sorted(label for label in known if label and label not in self.labels)


def scan_versions() -> dict[str, str]:
    """The versions that decide what a scan or prepare writes."""
    names = ("numpy", "pillow", "pyarrow", "simplejpeg")
    return {"catflap": VERSION, **{name: version(name) for name in names}}


def _examine(parts: Parts, on: str | None, workers: int | None, progress: Progress) -> None:
    done = parts.total - parts.absent()
    progress("scan", done, parts.total)
    if done == parts.total:
        return
    missing = parts.missing()
    for number, rows in local.run(missing, workers) if on is None else on_ray.run(missing, on):
        parts.commit(number, rows)
        done += rows.num_rows
        progress("scan", done, parts.total)


def _fields(source: str | Path, table: Path, parts: Parts, listed: _Listed, copies: Copies) -> dict[str, Any]:
    counts = count_photos(table)
    return {
        "source": str(source),
        "photos": parts.total,
        "ok": counts.status["ok"],
        "quarantined": counts.status["quarantined"],
        "dropped": counts.status["dropped"],
        "near_duplicate_groups": copies.near_duplicate_groups,
        "near_duplicates": copies.near_duplicates,
        "labels": dict(sorted(counts.labels.items())),
        "reasons": dict(sorted(counts.reasons.items())),
        "remarks": dict(sorted(counts.remarks.items())),
        "left_out": dict(sorted(listed.left_out.items())),
        "checks": findings(counts, listed.empty(), copies.two_labels, copies.cut_chains, listed.merged()),
        "sha256": manifest_digest(iter_table(table, DIGESTED)),
        "made_from": parts.made_from,
        "versions": scan_versions(),
    }
