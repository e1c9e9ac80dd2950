"""What a source holds before any photo is read: which files are photos, the label and role of each."""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa

from catflap.artifacts.results import UNSURE
from catflap.errors import CatflapError

REFERENCE = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("label", pa.string()),
        pa.field("role", pa.string()),  # "" where the source states none
        pa.field("user_group", pa.string()),  # "" where the source states none
        pa.field("offset", pa.int64()),  # first byte inside an archive, -1 for a file of its own
        pa.field("bytes", pa.int64()),
        pa.field("modified", pa.int64()),  # shows whether the source changed
        pa.field("fault", pa.string()),  # why it cannot be read at all, or ""
    ]
)

ROLE_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "calibration": "calibration", "test": "test", "testing": "test",
}  # fmt: skip
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf"),
}
PHOTO_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
SYSTEM_FILES = (".ds_store", "thumbs.db", "desktop.ini")
INT64 = 1 << 63
LONGEST_LABEL = 500  # characters; bundle.schema.json allows no more
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

NO_LABEL = "no_label"  # the fault of a photo without one
OTHER_LABELS = "*"  # of a label mapping

Reference: TypeAlias = dict[str, Any]
Labels: TypeAlias = Mapping[str, str | None]


@dataclass(frozen=True)
class Listing:
    """References in the order of their URIs, and the label names that may have no photos.

    Filled while the references are read: `nested`, the folders in the folder of each label, and `skipped`,
    how many files were not listed, by extension, "no extension" or "hidden" (photos whose name says so).
    """

    references: Iterable[Reference]
    labels: Sequence[str] = ()
    nested: Mapping[str, Collection[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def reference(uri: str, label: str, **known: Any) -> Reference:
    """One row of a listing; unknown fields are empty."""
    empty = {"role": "", "user_group": "", "offset": -1, "bytes": 0, "modified": 0, "fault": ""}
    row = {"uri": uri, "label": label, **empty, **known}
    for name in ("offset", "bytes", "modified"):  # a date after 2262, a false size in an archive
        row[name] = max(-INT64, min(row[name], INT64 - 1))
    return row


def reference_table(references: Sequence[Reference]) -> pa.Table:
    """References as the table that workers examine."""
    return pa.Table.from_pylist(references, schema=REFERENCE)


def printable(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 are shown as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden or written by an operating system."""
    return name.startswith((".", "__MACOSX")) or name.lower() in SYSTEM_FILES


def within_hidden(path: str) -> bool:
    """Whether a path below a source is hidden, or leads through a hidden folder."""
    return any(hidden(part) for part in PurePosixPath(path).parts if part not in (".", ".."))


def count_skipped(skipped: Counter[str], path: str) -> None:
    """Count a file that is not listed, by extension or as hidden; files of operating systems do not count."""
    name = PurePosixPath(path).name.lower()
    suffix = PurePosixPath(name).suffix
    if within_hidden(path):
        if suffix in PHOTO_SUFFIXES and not name.startswith("._") and not path.startswith("__MACOSX"):
            skipped["hidden"] += 1
    else:
        skipped[suffix or "no extension"] += 1


def by_folder(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The role and label of each path by its folders, ("", "") for one outside class folders.

    The same rule as for class folders on disk: a single folder around everything is stripped,
    and folders that are all named train, test, validation … state roles.
    """
    parts = [PurePosixPath(path).parts for path in paths]
    depth = 0
    while len({part[depth] for part in parts if len(part) > depth + 1}) == 1:
        if len({part[depth + 1] for part in parts if len(part) > depth + 2}) < 2:
            break
        depth += 1
    tops = {part[depth] for part in parts if len(part) > depth + 1}
    stated = bool(tops) and all(top.lower() in ROLE_NAMES for top in tops)
    for part in parts:
        here = part[depth:]
        if len(here) < 2 + stated:
            yield "", ""
        elif stated:
            yield ROLE_NAMES[here[0].lower()], here[1]
        else:
            yield "", here[0]


def check_labels(labels: Iterable[str], least: int = 2) -> None:
    """Refuse fewer than `least` labels, "unsure", names with control characters, too long or too similar."""
    seen: dict[str, str] = {}
    for label in sorted(set(labels)):
        if CONTROL.search(label) or len(label) > LONGEST_LABEL:
            shown = ascii(label if len(label) <= 80 else f"{label[:80]}…")
            what = "a control character" if CONTROL.search(label) else f"more than {LONGEST_LABEL} characters"
            raise CatflapError(
                f"The label {shown} has {what}.", "Rename it, or map it to another with --labels."
            )
        key = "".join(unicodedata.normalize("NFKC", label).split()).casefold()
        if key in seen:
            raise CatflapError(
                f"The labels {seen[key]!r} and {label!r} differ only in case or spaces.",
                "Rename one of them, or merge them with a label mapping file.",
            )
        if key == UNSURE:
            raise CatflapError(
                f"The label {label!r} is reserved for undecided photos.",
                "Rename it, or leave it out with a label mapping file.",
            )
        seen[key] = label
    if len(seen) < least:
        found = f"only the label {next(iter(seen.values()))!r}" if seen else "no photos under any label"
        raise CatflapError(
            f"The source has {found}; a classifier needs two.",
            "Put the photos into one folder a label, such as cat/ and not_cat/.",
        )


def read_mapping(path: Path) -> dict[str, str | None]:
    """Read a label mapping: JSON, {"tabby": "cat", "wolf": null}, or a CSV with the columns label and to.

    "*" stands for all labels that are not named; null or an empty cell leaves a label out.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            return _checked(json.loads(text))
        rows = csv.DictReader(text.splitlines())
        if not {"label", "to"} <= set(rows.fieldnames or ()):
            raise ValueError("the columns label and to are missing")
        return _checked({row["label"]: row["to"] or None for row in rows})
    except (OSError, ValueError, RecursionError) as error:
        raise CatflapError(
            f"The label mapping {path} cannot be read: {error}.",
            'Write a JSON object such as {"tabby": "cat", "*": "not_cat", "wolf": null}.',
        ) from error


def map_labels(
    references: Iterable[Reference], mapping: Labels, left_out: dict[str, int]
) -> Iterator[Reference]:
    """References with their new labels; those left out are counted by label in `left_out`."""
    unseen = set(mapping) - {OTHER_LABELS}
    for found in references:
        label = found["label"]
        unseen.discard(label)
        new = mapping.get(label, mapping.get(OTHER_LABELS, label)) if label else label
        if new is None:
            left_out[label] = left_out.get(label, 0) + 1
        else:
            yield {**found, "label": new}
    if unseen:
        names = ", ".join(map(repr, sorted(unseen)))
        raise CatflapError(
            f"The label mapping names {names}, which the source does not contain.",
            "Correct or remove the names.",
        )


def _checked(mapping: object) -> dict[str, str | None]:
    if isinstance(mapping, dict) and all(new is None or isinstance(new, str) for new in mapping.values()):
        "".join(filter(None, (*mapping, *mapping.values()))).encode()  # raises for an unpaired surrogate
        return {str(label): (new.strip() or None) if new else None for label, new in mapping.items()}
    raise ValueError("it is not an object of label names")
