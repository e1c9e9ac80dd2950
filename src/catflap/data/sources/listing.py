"""What a source holds before any photo is read: one reference a photo, in the order of the URIs."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
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
        pa.field("modified", pa.int64()),  # only to tell whether the source changed
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
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf"),
}
PHOTO_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
SKIPPED = ("thumbs.db", "desktop.ini")
INT64 = 1 << 63
LONGEST_LABEL = 500  # characters; bundle.schema.json allows no more
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Reference: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """References in the order of their URIs, and the label names that may have no photos.

    `nested` names the folders in the folder of each label, as far as the references were read.
    """

    references: Iterable[Reference]
    labels: Sequence[str] = ()
    nested: Mapping[str, Collection[str]] = field(default_factory=dict)


def reference(uri: str, label: str, **known: Any) -> Reference:
    """One row of a listing; what is not known is empty."""
    empty = {"role": "", "user_group": "", "offset": -1, "bytes": 0, "modified": 0, "fault": ""}
    row = {"uri": uri, "label": label, **empty, **known}
    for name in ("offset", "bytes", "modified"):  # a date after 2262, a size that an archive makes up
        row[name] = max(-INT64, min(row[name], INT64 - 1))
    return row


def printable(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 are shown as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def hidden(name: str) -> bool:
    """Whether a file or folder name is one that systems put there, not people."""
    return name.startswith((".", "__MACOSX")) or name.lower() in SKIPPED


def within_hidden(path: str) -> bool:
    """Whether a path below a source has such a name, or leads through a folder that has."""
    return any(hidden(part) for part in PurePosixPath(path).parts if part not in (".", ".."))


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


def check_labels(labels: Iterable[str]) -> None:
    """Refuse label names with control characters, too long or too alike, "unsure", and fewer than two."""
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
                f"The labels {seen[key]!r} and {label!r} differ only by case or blanks.",
                "Rename one of them, or merge them with a label mapping file.",
            )
        if key == UNSURE:
            raise CatflapError(
                f"The label {label!r} is the word for a decision that is none.",
                "Rename it, or drop it with a label mapping file.",
            )
        seen[key] = label
    if len(seen) < 2:
        found = f"only the label {next(iter(seen.values()))!r}" if seen else "no photos under any label"
        raise CatflapError(
            f"The source has {found}; a classifier needs two.",
            "Put the photos into one folder a label, such as cat/ and not_cat/.",
        )
