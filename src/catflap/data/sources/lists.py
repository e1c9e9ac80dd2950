"""Lists: a CSV, TSV or Parquet file with a path and a label a row; Hugging Face's metadata files too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from catflap.data.sources.folders import child_folders
from catflap.data.sources.listing import ROLE_NAMES, Listing, Reference, printable, reference
from catflap.data.sources.stores import is_url
from catflap.errors import CatflapError

SUFFIXES = (".csv", ".tsv", ".parquet")
METADATA = ("metadata.csv", "metadata.parquet")
USUAL = {
    "path": ("path", "file_name", "filename", "file", "filepath", "image", "uri", "url"),
    "label": ("label", "class", "category", "target", "labels"),
    "group": ("group", "group_id"),
    "role": ("role", "split"),
}


@dataclass(frozen=True)
class Columns:
    """The names of a list's columns; "" takes the usual names, and for group and role may find none."""

    path: str = ""
    label: str = ""
    group: str = ""
    role: str = ""


def list_table(path: Path, columns: Columns) -> Listing:
    """The photos that a list names, in the order of their paths, which are relative to the list's folder."""
    return Listing(_references(path, columns, ""))


def list_metadata(root: Path, columns: Columns) -> Listing | None:
    """The photos of a folder in Hugging Face's layout, one metadata file or one a split; or None."""
    found = _metadata(root)
    if found:
        return list_table(found, columns)
    splits = child_folders(str(root))
    files = [(split, _metadata(Path(split.path))) for split in splits]
    if not splits or not all(split.name.lower() in ROLE_NAMES and file for split, file in files):
        return None
    return Listing(
        row
        for split, file in files
        if file
        for row in _references(file, columns, ROLE_NAMES[split.name.lower()])
    )


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _references(path: Path, columns: Columns, role: str) -> Iterator[Reference]:
    table = _read(path)
    names = {field: _column(table, path, field, getattr(columns, field)) for field in USUAL}
    chosen = {field: _text(table[name]) for field, name in names.items() if name}
    ordered = pa.table(chosen).sort_by([("path", "ascending"), ("label", "ascending")])
    root = path.parent.absolute()
    for batch in ordered.to_batches(max_chunksize=1 << 14):
        for row in batch.to_pylist():
            yield _reference(root, row, role)


def _reference(root: Path, row: dict[str, str], role: str) -> Reference:
    stated = row.get("role", "").strip().lower()
    known: dict[str, Any] = {"user_group": row.get("group", ""), "role": ROLE_NAMES.get(stated, role)}
    label, path = row["label"].strip(), row["path"]
    if not label:
        known["fault"] = "no_label"
    elif stated and stated not in ROLE_NAMES:
        known["fault"] = "unknown_role"
    if is_url(path):
        return reference(path, label, **known)
    full = root / path
    try:
        status = full.stat()
    except (OSError, ValueError):
        return reference(printable(str(full)), label, **{"fault": "missing", **known})
    return reference(str(full), label, bytes=status.st_size, modified=status.st_mtime_ns, **known)


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        options = pyarrow.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        with pyarrow.csv.open_csv(path, parse_options=options) as reader:
            text = {name: pa.string() for name in reader.schema.names}
        convert = pyarrow.csv.ConvertOptions(column_types=text, strings_can_be_null=False)
        return pyarrow.csv.read_csv(path, parse_options=options, convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        raise CatflapError(
            f"The list {path} cannot be read: {error}.", "Save it as UTF-8 CSV with a header, or as Parquet."
        ) from error


def _column(table: pa.Table, path: Path, field: str, wanted: str) -> str:
    names: dict[str, str] = {name.strip().lower(): name for name in table.column_names}
    for usual in [wanted.strip().lower()] if wanted else USUAL[field]:
        if usual in names:
            return names[usual]
    if not wanted and field in ("group", "role"):
        return ""
    looked_for, there = wanted or " or ".join(USUAL[field]), ", ".join(table.column_names)
    raise CatflapError(
        f"{path} has no column {looked_for}; it has {there}.",
        f"Name the column that holds the {field}: --{field}-column NAME.",
    )


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as text, whole numbers without a point, missing values empty."""
    if pa.types.is_floating(column.type) and pc.all(pc.equal(column, pc.floor(column))).as_py():
        column = column.cast(pa.int64())
    return pc.fill_null(column.cast(pa.string()), "")
