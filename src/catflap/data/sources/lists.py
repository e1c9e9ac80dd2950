"""Lists: a CSV, TSV, JSON Lines or Parquet file, a photo a row; Hugging Face's metadata files too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from catflap.data.sources.folders import child_folders
from catflap.data.sources.listing import ROLE_NAMES, Listing, Reference, printable, reference
from catflap.data.sources.stores import is_url
from catflap.errors import CatflapError, first_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SOME = 20  # files of a folder
USUAL = {
    "path": (
        "path", "file_name", "filename", "file", "filepath", "image", "uri", "url",
        "image_path", "filenames", "img",
    ),
    "label": ("label", "class", "category", "target", "labels"),
    "group": ("group", "group_id"),
    "role": ("role", "split"),
}  # fmt: skip


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


def refuse_embedded(folders: Sequence[str]) -> None:
    """Raise CatflapError where Parquet files in one of these folders hold the photos themselves.

    Some files of each are looked at, for there may be millions.
    """
    for folder in folders:
        with suppress(OSError, pa.ArrowException):
            some = sorted(entry.path for entry in islice(os.scandir(folder), SOME))
            for path in (path for path in some if path.lower().endswith(".parquet")):
                kinds = pq.read_schema(path).types
                if any(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 for kind in kinds):
                    raise CatflapError(
                        f"The Parquet file {path} holds the photos themselves.",
                        "Save each photo as a file, in a folder named like its label.",
                    )


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _references(path: Path, columns: Columns, role: str) -> Iterator[Reference]:
    table = _read(path)
    names = {field: _column(table, path, field, getattr(columns, field)) for field in USUAL}
    chosen = {field: _text(table, path, field, name) for field, name in names.items() if name}
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
        suffix = path.suffix.lower()
        if suffix in (".parquet", ".jsonl"):
            is_json = suffix == ".jsonl"
            table = pyarrow.json.read_json(path) if is_json else pq.read_table(path, partitioning=None)
            _ = table.column_names  # not decoded before, and perhaps no UTF-8
            return table
        options = pyarrow.csv.ParseOptions(delimiter=_delimiter(path))
        with pyarrow.csv.open_csv(path, parse_options=options) as reader:
            text = {name: pa.string() for name in reader.schema.names}
        convert = pyarrow.csv.ConvertOptions(column_types=text, strings_can_be_null=False)
        return pyarrow.csv.read_csv(path, parse_options=options, convert_options=convert)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CatflapError(
            f"The list {path} cannot be read: {first_line(error)}.",
            "Save it as UTF-8 CSV with a header, or as Parquet.",
        ) from error


def _delimiter(path: Path) -> str:
    """What stands between the cells: a spreadsheet whose numbers have commas writes semicolons."""
    with open(path, "rb") as file:
        head = file.readline(1 << 16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16, not UTF-8")
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in (",", ";", "\t") if mark.encode() in head), ",")


def _column(table: pa.Table, path: Path, field: str, wanted: str) -> str:
    there = [name.strip().lower() for name in table.column_names]
    for usual in [wanted.strip().lower()] if wanted else USUAL[field]:
        if there.count(usual) > 1:
            raise CatflapError(
                f"{path} has {there.count(usual)} columns named {usual}.", "Rename or remove all but one."
            )
        if usual in there:
            name: str = table.column_names[there.index(usual)]
            return name
    if not wanted and field in ("group", "role"):
        return ""
    looked_for = wanted or " or ".join(USUAL[field])
    raise CatflapError(
        f"{path} has no column {looked_for}; it has {', '.join(table.column_names)}.",
        f"Name the column that holds the {field}: --{field}-column NAME.",
    )


def _text(table: pa.Table, path: Path, field: str, name: str) -> pa.ChunkedArray:
    """A column as text, whole numbers without a point, missing values empty."""
    column = table[name]
    try:
        if pa.types.is_floating(column.type):
            column = column.cast(pa.float64())
            if pc.all(pc.equal(column, pc.floor(column))).as_py():
                column = column.cast(pa.int64())
        text = pc.fill_null(column.cast(pa.large_string()), "")  # sorting joins it: over 2 GiB of paths
        text.validate(full=True)  # a Parquet file may hold bytes as text that are none
    except pa.ArrowException as error:
        raise CatflapError(
            f"The column {name} of {path} cannot be read as text: {first_line(error)}.",
            f"Save the photos as files, and write the {field} of each as text or a whole number.",
        ) from error
    return text
