"""The verb `scan`: list a source, examine its photos in batches, find duplicates, write the Manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from catflap.artifacts.folder import atomic_folder, refuse_foreign, working_folder
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
from catflap.data import ray_cluster
from catflap.data import workers as local_workers
from catflap.data.collection import Copies, count_photos, find_copies, findings, with_copies
from catflap.data.examine import FRAME
from catflap.data.listing import NO_LABEL, Labels, Reference, check_labels, map_labels
from catflap.data.parts import Parts, plan_parts, write_listing
from catflap.data.profile import profile_manifest
from catflap.data.reading import read_photo
from catflap.data.sources import DEFAULT_COLUMNS, Columns, open_source
from catflap.data.workers import DEADLINE
from catflap.errors import BadPhoto, need
from catflap.progress import Progress, silent
from catflap.version import VERSION

REVISION = 5  # raised when a photo gets another row than before


def scan(
    source: str | Path,
    out: Path,
    *,
    labels: Labels | None = None,
    columns: Columns = DEFAULT_COLUMNS,
    on: str | None = None,
    workers: int | None = None,
    deadline: float = DEADLINE,
    profile: bool = True,
    any_labels: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Read, check and hash every photo of a source, find duplicates, and write the Manifest folder `out`.

    `labels` renames, merges or (None) leaves out labels; `columns` names the columns of a list;
    `on` is None for `workers` processes here (one a core), or "ray" or "ray://host:port" for a
    cluster. A photo that takes longer than `deadline` seconds is quarantined; `profile` also writes
    profile.html. With `any_labels` one label is enough, and a photo may have none (""). A scan that was
    killed goes on where it stopped.
    """
    out = Path(out)
    refuse_foreign(out, MARKER)
    if on is not None:
        need("ray")
    listed = _Listed(source, labels, columns, any_labels)
    with working_folder(out, "scan") as folder:
        parts = plan_parts(folder, listed, listed.rules())
        check_labels(listed.labels, least=0 if any_labels else 2)
        _examine(parts, on, workers, deadline, progress)
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
    """A hash of what a scan would be made from: the photos' names, sizes and times, and the rules."""
    listed = _Listed(source, labels, columns)
    return write_listing(None, listed, listed.rules())[0]


def some_readable(manifest: Manifest) -> bool:
    """Whether a photo that could not be read when it was scanned can be read now."""
    for rows in iter_table(manifest.path / TABLE, ["uri", "offset", "bytes", "reason"]):
        for row in rows.filter(pc.starts_with(rows["reason"], UNREADABLE)).to_pylist():
            try:
                read_photo(row["uri"], row["offset"], row["bytes"], FRAME.max_bytes)
            except BadPhoto as error:
                if error.reason == UNREADABLE:
                    continue
            return True
    return False


class _Listed:
    """The references of a source with their new labels; notes which labels occur while it is read."""

    def __init__(
        self, source: str | Path, mapping: Labels | None, columns: Columns, any_labels: bool = False
    ) -> None:
        self._listing = open_source(source, columns, any_labels)
        self._any_labels = any_labels
        self._mapping = mapping or {}
        self._settings = [str(source), dict(self._mapping), [columns.path, columns.label]]
        self.labels: set[str] = set()
        self.left_out: dict[str, int] = {}

    def __iter__(self) -> Iterator[Reference]:
        """Read the source once; `labels`, `left_out` and the other counts are whole after that."""
        for found in map_labels(self._listing.references, self._mapping, self.left_out):
            if found["label"]:
                self.labels.add(found["label"])
            yield {**found, "fault": ""} if self._any_labels and found["fault"] == NO_LABEL else found

    def rules(self) -> str:
        return digest([REVISION, self._settings, scan_versions()])

    def merged(self) -> dict[str, list[str]]:
        """The labels of class folders in which two folders or more hold photos, with some of their names."""
        found = {label: sorted(inner)[:10] for label, inner in self._listing.nested.items()}
        return {label: names for label, names in found.items() if names[1:] and label not in self.left_out}

    def skipped(self) -> Counter[str]:
        return self._listing.skipped

    def empty(self) -> list[str]:
        known = {self._mapping.get(label, label) for label in self._listing.labels}
        return sorted(label for label in known if label and label not in self.labels)


def scan_versions() -> dict[str, str]:
    """The versions that decide what scan or prepare writes; "" for pi-heif where it is not installed."""
    names = ("numpy", "pillow", "pyarrow", "simplejpeg")
    try:
        heif = version("pi-heif")
    except PackageNotFoundError:
        heif = ""
    return {"catflap": VERSION, **{name: version(name) for name in names}, "pi-heif": heif}


def _examine(parts: Parts, on: str | None, workers: int | None, deadline: float, progress: Progress) -> None:
    done = parts.total - parts.count_missing()
    progress("scan", done, parts.total)
    if done == parts.total:
        return
    missing = parts.missing()
    if on is None:
        answers = local_workers.run(missing, workers, deadline=deadline)
    else:
        answers = ray_cluster.run(missing, on, deadline=deadline)
    for number, rows in answers:
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
        "skipped": dict(sorted(listed.skipped().items())),
        "checks": findings(
            counts,
            empty_labels=listed.empty(),
            two_labels=copies.two_labels,
            cut_chains=copies.cut_chains,
            merged=listed.merged(),
            skipped=listed.skipped(),
        ),
        "sha256": manifest_digest(iter_table(table, DIGESTED)),
        "made_from": parts.made_from,
        "versions": scan_versions(),
    }
