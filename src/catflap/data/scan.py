"""scan: photos to a Manifest."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catflap.artifacts.folder import digest, whole_folder
from catflap.artifacts.manifest import MARKER, TABLE, Manifest, load_manifest, manifest_digest, save_manifest
from catflap.artifacts.tables import PHOTO_ROW, write_table
from catflap.data import local
from catflap.data.folders import list_folders
from catflap.data.groups import Pairs, bounded_groups, confirmed_pairs
from catflap.data.listing import REFERENCE, check_labels
from catflap.errors import CatflapError
from catflap.progress import Progress, silent
from catflap.version import VERSION

BATCH = 256


def scan(
    source: str | Path, out: Path, *, workers: int | None = None, progress: Progress = silent
) -> Manifest:
    """Read, check and hash every photo of a source and write the Manifest folder `out`."""
    references, labels = _list(source)
    made_from = _fingerprint(references)
    with whole_folder(Path(out), MARKER) as folder:
        rows = _examine(references, workers, progress)
        rows, found = judge(rows)
        write_table(folder / TABLE, rows)
        save_manifest(folder, {
            "source": str(source), "made_from": made_from, "sha256": manifest_digest(rows),
            "versions": _versions(), **found,
        })  # fmt: skip
    return load_manifest(out)


def scan_fingerprint(source: str | Path) -> str:
    """What a scan of this source would be made from: names, sizes and times of the photos, and the rules."""
    return _fingerprint(_list(source)[0])


def _list(source: str | Path) -> tuple[pa.Table, list[str]]:
    path = Path(source)
    if not path.is_dir():
        raise CatflapError(f"{source} is not a folder.", "Name a folder with one folder of photos a label.")
    found, labels = list_folders(path)
    table = pa.Table.from_pylist(list(found), schema=REFERENCE)
    check_labels(table["label"].unique().to_pylist())
    return table, labels


def _fingerprint(references: pa.Table) -> str:
    total = hashlib.sha256(VERSION.encode())
    for row in references.to_pylist():
        total.update(digest(row).encode())
    return total.hexdigest()


def _examine(references: pa.Table, workers: int | None, progress: Progress) -> pa.Table:
    total = references.num_rows
    batches = (
        (number, references.slice(start, BATCH)) for number, start in enumerate(range(0, total, BATCH))
    )
    done, parts = 0, {}
    progress("scan", 0, total)
    for number, rows in local.run(batches, workers):
        parts[number] = rows
        done += rows.num_rows
        progress("scan", done, total)
    return pa.concat_tables([parts[number] for number in sorted(parts)])


def judge(rows: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
    """Mark exact duplicates and give every photo that can be learnt from its near-duplicate group."""
    status, reason = rows["status"].to_pylist(), rows["reason"].to_pylist()
    _mark_exact(rows, status, reason)
    ok = np.array([value == "ok" for value in status], dtype=bool)
    group = np.where(ok, np.arange(len(ok)), -1)
    found, _ = bounded_groups(len(ok), _pairs(rows, ok))
    group[ok] = found[ok]
    _, counts = np.unique(group[ok], return_counts=True)
    columns = {"status": status, "reason": reason, "group": group}
    table = pa.table({field.name: columns.get(field.name, rows[field.name]) for field in PHOTO_ROW})
    labels = pc.value_counts(rows["label"].filter(pa.array(ok))).to_pylist()
    return table.cast(PHOTO_ROW), {
        "photos": len(ok),
        "ok": int(ok.sum()),
        "quarantined": status.count("quarantined"),
        "dropped": status.count("dropped"),
        "near_duplicate_groups": int((counts > 1).sum()),
        "near_duplicates": int((counts - 1).sum()),
        "labels": {entry["values"]: entry["counts"] for entry in sorted(labels, key=lambda e: e["values"])},
    }


def _mark_exact(rows: pa.Table, status: list[str], reason: list[str]) -> None:
    seen: dict[str, int] = {}
    columns = [rows[name].to_pylist() for name in ("id", "label", "uri")]
    for row, (id, label, uri) in enumerate(zip(*columns, strict=True)):
        if status[row] != "ok":
            continue
        first = seen.setdefault(id, row)
        if first == row:
            continue
        if columns[1][first] == label:
            status[row], reason[row] = "dropped", f"exact_duplicate: the same bytes as {columns[2][first]}"
        else:
            for this, other in ((first, row), (row, first)):
                status[this] = "quarantined"
                reason[this] = (
                    f"two_labels: the same bytes as {columns[2][other]} under {columns[1][other]!r}"
                )


def _pairs(rows: pa.Table, ok: np.ndarray[Any, Any]) -> Pairs:
    usable = np.flatnonzero(ok & np.asarray(pc.is_valid(rows["phash"])))
    hashes = rows["phash"].fill_null(0).to_numpy()[usable]

    def thumbs(positions: Any) -> Any:
        taken = rows["thumb"].take(usable[positions]).to_pylist()
        return np.frombuffer(b"".join(taken), np.uint8).reshape(-1, 256)

    found = confirmed_pairs(hashes, thumbs)
    return Pairs(usable[found.first], usable[found.second], found.alike)


def _versions() -> dict[str, str]:
    names = ("numpy", "pillow", "pyarrow", "simplejpeg")
    return {"catflap": VERSION, **{name: version(name) for name in names}}
