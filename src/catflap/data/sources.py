"""Open a source of photos: class folders, lists (CSV, JSON Lines, Parquet), archives, object stores."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from catflap.artifacts.build_folder import build_folder
from catflap.artifacts.folder import is_ours
from catflap.artifacts.manifest import load_manifest
from catflap.data.listing import (
    NO_LABEL,
    PHOTO_SUFFIXES,
    ROLE_NAMES,
    Listing,
    Reference,
    count_skipped,
    hidden,
    printable,
    reference,
)
from catflap.data.reading import is_url, list_store, list_tars, list_zip
from catflap.errors import CatflapError, first_line, system_reason

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # Hugging Face's names
SAMPLED = 20  # files of a folder that are checked for embedded photos
USUAL_NAMES = {
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
    """The names of a list's columns; "" looks for the usual names, and group and role may be absent."""

    path: str = ""
    label: str = ""
    group: str = ""
    role: str = ""


DEFAULT_COLUMNS = Columns()
Entry: TypeAlias = os.DirEntry[str]
Identity: TypeAlias = tuple[int, int]  # device and inode


def open_source(source: str | Path, columns: Columns = DEFAULT_COLUMNS, any_labels: bool = False) -> Listing:
    """List the photos of a source: a folder, a list, an archive or an address.

    With `any_labels` a folder may hold its photos itself.

    Raises CatflapError for an unknown kind of source, and where columns are named but it is not a list.
    """
    check_exists(source)
    name, path = str(source), Path(source)
    suffix = path.suffix.lower()
    if not is_url(name):
        listed = list_metadata(path, columns) if path.is_dir() else None
        if not path.is_dir() and suffix in LIST_SUFFIXES:
            listed = list_table(path, columns)
        if listed:
            return listed
    if columns != DEFAULT_COLUMNS:
        named = ", ".join(f"--{field}-column" for field in USUAL_NAMES if getattr(columns, field))
        raise CatflapError(f"{source} is not a list, so it has no columns to name.", f"Leave out {named}.")
    if is_url(name) and suffix not in (".zip", ".tar"):
        return list_store(name)
    if path.is_dir():
        return _open_folder(path, any_labels)
    address = name if is_url(name) else str(path.absolute())
    if suffix == ".zip":
        return list_zip(address)
    if ".tar" in (suffix, *path.suffixes[-2:-1]) or suffix == ".tgz":
        return list_tars([address])
    raise CatflapError(
        f"{name} is not a supported source of photos.",
        f"Name a folder, a .zip or .tar archive, or a list: {', '.join(LIST_SUFFIXES)}.",
    )


def source_of(source: str) -> str:
    """The photos that a build was made from, where `source` names NAME.build or NAME.catflap; else itself."""
    folder = None if is_url(source) else build_folder(source)
    return source if folder is None else load_manifest(folder / "manifest").source


def check_exists(source: str | Path) -> None:
    """Raise CatflapError for a path that does not exist; addresses are not looked up."""
    if not str(source):  # an unset variable of a shell, which must not mean the current folder
        raise CatflapError("The name of the source is empty.", 'Name it, or "." for the current folder.')
    if not is_url(str(source)) and not Path(source).exists():
        raise CatflapError(f"{source} does not exist.", "Name a folder, list, archive or address of photos.")


def _open_folder(path: Path, any_labels: bool) -> Listing:
    """Class folders, or WebDataset shards where there are no folders."""
    folders = child_folders(str(path))
    _refuse_embedded([str(path), *(folder.path for folder in folders)])
    shards = sorted(path.glob("*.tar"))
    if shards and not folders:
        listing = list_tars([str(shard.absolute()) for shard in shards])
        for name in _names(str(path)):
            if not name.endswith(".tar"):
                count_skipped(listing.skipped, name)
        return listing
    if not folders and not any_labels:
        raise CatflapError(
            f"{path} holds no folders of photos.",
            "Put the photos into one folder a label, such as cat/ and not_cat/.",
        )
    return list_folders(path)


def list_folders(root: Path) -> Listing:
    """All files under class folders, in the order of their paths; folders that Catflap wrote are left out.

    The folder under the source is the label, however deep a file lies. A single folder around all others is
    looked into. Folders that are all named train, test, validation … state roles; their children are labels.
    """
    folder = str(root.absolute())
    tops, outside = child_folders(folder), [folder]
    while len(tops) == 1 and len(inner := child_folders(tops[0].path)) > 1:
        folder, tops = tops[0].path, inner
        outside.append(folder)
    classes = [("", top) for top in tops]
    if tops and all(top.name.lower() in ROLE_NAMES for top in tops):
        classes = [(ROLE_NAMES[top.name.lower()], label) for top in tops for label in child_folders(top.path)]
        outside += [top.path for top in tops]
    labels = sorted({printable(label.name) for _, label in classes})
    nested: dict[str, set[str]] = {label: set() for label in labels}
    skipped: Counter[str] = Counter()
    return Listing(_photos(folder, outside, classes, nested, skipped), labels, nested, skipped)


def child_folders(folder: str) -> list[Entry]:
    """The folders in a folder, in the order of their bytes, without hidden ones and our own artefacts."""
    try:
        found = [entry for entry in os.scandir(folder) if not hidden(entry.name) and _is_dir(entry)]
        found = [entry for entry in found if not is_ours(entry.path)]
    except OSError as error:
        raise CatflapError(
            f"{printable(folder)} cannot be listed: {system_reason(error)}.", "Name a folder of photos."
        ) from error
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _photos(
    root: str,
    outside: Sequence[str],
    classes: Sequence[tuple[str, Entry]],
    nested: Mapping[str, set[str]],
    skipped: Counter[str],
) -> Iterator[Reference]:
    """Photos beside the class folders, which have no label, and then the files in each of these."""
    for folder in outside:
        with suppress(OSError):
            for name in _names(folder):
                path = Path(folder, name)
                if not path.is_file():
                    continue
                if path.suffix.lower() in PHOTO_SUFFIXES and not hidden(name):
                    yield reference(printable(str(path)), "", fault=NO_LABEL)
                else:
                    count_skipped(skipped, name)
    above = tuple(_identity(folder) for folder in (Path(root).resolve(), *Path(root).resolve().parents))
    for role, entry in classes:
        label, start = printable(entry.name), len(printable(entry.path)) + 1
        for found in _walk(entry.path, label, above, skipped):
            inner, is_nested, inner_path = found["uri"][start:].partition("/")
            if is_nested and os.path.splitext(inner_path)[1].lower() in PHOTO_SUFFIXES:  # noqa: PTH122
                nested[label].add(inner)
            yield {**found, "role": role}


def _walk(folder: str, label: str, above: tuple[Identity, ...], skipped: Counter[str]) -> Iterator[Reference]:
    """The files of a folder and of those in it; a link that leads back to a folder around it is a fault."""
    try:
        here = _identity(folder)
        if here in above:
            yield reference(printable(folder), label, fault="symlink_loop")
            return
        names = _names(folder)
    except OSError:
        yield reference(printable(folder), label, fault="unreadable_folder")
        return
    for name in names:
        if hidden(name):
            count_skipped(skipped, name)
            continue
        path = f"{folder}/{name}"
        uri = printable(path)
        try:
            status = os.stat(path)  # noqa: PTH116  half the time of Path.stat
        except OSError:
            yield reference(uri, label, fault="unreadable")
            continue
        if stat.S_ISDIR(status.st_mode):
            if not is_ours(path):
                yield from _walk(path, label, (*above, here), skipped)
        elif uri != path:
            yield reference(uri, label, fault="name_not_utf8")
        else:
            yield reference(uri, label, bytes=status.st_size, modified=status.st_mtime_ns)


def _identity(folder: str | Path) -> Identity:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _names(folder: str) -> list[str]:
    """The names in a folder in the order of their bytes; only names, because folders can be huge."""
    return sorted((entry.name for entry in os.scandir(folder)), key=os.fsencode)


def _is_dir(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def list_table(path: Path, columns: Columns) -> Listing:
    """The photos that a list names, in the order of their paths, which are relative to the list's folder."""
    return Listing(_list_rows(path, columns, ""))


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
        for row in _list_rows(file, columns, ROLE_NAMES[split.name.lower()])
    )


def _refuse_embedded(folders: Sequence[str]) -> None:
    """Raise CatflapError where Parquet files in one of these folders hold the photos themselves.

    Only some files of each are checked, because there may be millions.
    """
    for folder in folders:
        with suppress(OSError, pa.ArrowException):
            some = sorted(entry.path for entry in islice(os.scandir(folder), SAMPLED))
            for path in (path for path in some if path.lower().endswith(".parquet")):
                kinds = pq.read_schema(path).types
                if any(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 for kind in kinds):
                    raise CatflapError(
                        f"The Parquet file {path} holds the photos themselves.",
                        "Save each photo as a file, in a folder named like its label.",
                    )


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _list_rows(path: Path, columns: Columns, role: str) -> Iterator[Reference]:
    table = _read(path)
    names = {field: _column(table, path, field, getattr(columns, field)) for field in USUAL_NAMES}
    chosen = {field: _text(table, path, field, name) for field, name in names.items() if name}
    ordered = pa.table(chosen).sort_by([("path", "ascending"), ("label", "ascending")])
    root = path.parent.absolute()
    for batch in ordered.to_batches(max_chunksize=1 << 14):
        for row in batch.to_pylist():
            yield _list_reference(root, row, role)


def _list_reference(root: Path, row: dict[str, str], role: str) -> Reference:
    stated = row.get("role", "").strip().lower()
    known: dict[str, Any] = {"user_group": row.get("group", ""), "role": ROLE_NAMES.get(stated, role)}
    label, path = row["label"].strip(), row["path"]
    if not label:
        known["fault"] = NO_LABEL
    elif stated and stated not in ROLE_NAMES:
        known["fault"] = "unknown_role"
    if is_url(path):
        return reference(path, label, **known)
    full = root / path
    if "\\" in path and not full.exists():  # a list that was written on Windows
        full = root / path.replace("\\", "/")
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
            _ = table.column_names  # decodes them, which fails if they are not UTF-8
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
    """The delimiter of a CSV: spreadsheets write semicolons where numbers have decimal commas."""
    with open(path, "rb") as file:
        head = file.readline(1 << 16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16, not UTF-8")
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in (",", ";", "\t") if mark.encode() in head), ",")


def _column(table: pa.Table, path: Path, field: str, wanted: str) -> str:
    there = [name.strip().lower() for name in table.column_names]
    for usual in [wanted.strip().lower()] if wanted else USUAL_NAMES[field]:
        if there.count(usual) > 1:
            raise CatflapError(
                f"{path} has {there.count(usual)} columns named {usual}.", "Rename or remove all but one."
            )
        if usual in there:
            name: str = table.column_names[there.index(usual)]
            return name
    if not wanted and field in ("group", "role"):
        return ""
    expected = wanted or " or ".join(USUAL_NAMES[field])
    raise CatflapError(
        f"{path} has no column {expected}; it has {', '.join(table.column_names)}.",
        f"Name the column that holds the {field}: --{field}-column NAME.",
    )


def _text(table: pa.Table, path: Path, field: str, name: str) -> pa.ChunkedArray:
    """A column as text: whole numbers without a decimal point, missing values empty."""
    column = table[name]
    try:
        if pa.types.is_floating(column.type):
            column = column.cast(pa.float64())
            if pc.all(pc.equal(column, pc.floor(column))).as_py():
                column = column.cast(pa.int64())
        text = pc.fill_null(column.cast(pa.large_string()), "")  # sorting concatenates it, perhaps over 2 GiB
        text.validate(full=True)  # a Parquet file may hold text that is not UTF-8
    except pa.ArrowException as error:
        raise CatflapError(
            f"The column {name} of {path} cannot be read as text: {first_line(error)}.",
            f"Save the photos as files, and write the {field} of each as text or a whole number.",
        ) from error
    return text
