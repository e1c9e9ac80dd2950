"""What a source holds before any photo is read: one reference a photo, in the order of the URIs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from catflap.errors import CatflapError

REFERENCE = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("label", pa.string()),
        pa.field("role", pa.string()),  # "" where the source states none
        pa.field("user_group", pa.string()),  # "" where the source states none
        pa.field("offset", pa.int64()),  # first byte inside an archive, -1 for a file of its own
        pa.field("bytes", pa.int64()),
        pa.field("modified", pa.int64()),  # nanoseconds; only to tell whether the source changed
        pa.field("fault", pa.string()),  # why it cannot be read at all, or ""
    ]
)

ROLE_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "calibration": "calibration", "test": "test", "testing": "test",
}  # fmt: skip


def reference(uri: str, label: str, **known: Any) -> dict[str, Any]:
    """One row of a listing; what is not known is empty."""
    empty = {"role": "", "user_group": "", "offset": -1, "bytes": 0, "modified": 0, "fault": ""}
    return {"uri": uri, "label": label, **empty, **known}


def printable(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 are shown as \\xNN."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_labels(labels: list[str]) -> None:
    """Refuse label names that differ only by case or blanks, and fewer than two labels."""
    seen: dict[str, str] = {}
    for label in sorted(labels):
        key = "".join(label.split()).casefold()
        if key in seen:
            raise CatflapError(
                f"The labels {seen[key]!r} and {label!r} differ only by case or blanks.",
                "Rename one of them, or merge them with a label mapping file.",
            )
        seen[key] = label
    if len(seen) < 2:
        found = f"only the label {labels[0]!r}" if labels else "no photos under any label"
        raise CatflapError(
            f"The source has {found}; a classifier needs two.",
            "Put the photos into one folder a label, such as cat/ and not_cat/.",
        )
