"""The Manifest: one row a photo: identity, label, group, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catflap.artifacts.schema import read_json, write_json
from catflap.errors import BadArtifact

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = "manifest.json"
TABLE = "photos.parquet"
UNREADABLE = "unreadable"  # a reason that may be temporary: no permission, a store that did not answer
DIGESTED = ["id", "label", "group", "status", "role"]


@dataclass(frozen=True)
class Manifest:
    """A folder with `photos.parquet`, one row a photo, and `manifest.json`.

    `sha256` names the content: every row's id, label, group, status and role. `made_from` is the
    fingerprint of the source and the settings, which decides whether a scan can be skipped.
    `labels` counts the photos that are ok; `reasons` counts why photos are not, `remarks` what is
    unusual about photos that are; `left_out` counts photos that a label mapping removed, by label;
    `skipped` counts files that were not listed, by extension; `checks` are findings about the
    collection, {"check", "what", ...} each; `ancestors` maps "manifest", "dataset" or "decisions" to
    their hashes where this one is the result of an audit or a review.
    """

    path: Path
    source: str
    photos: int
    ok: int
    quarantined: int
    near_duplicate_groups: int
    near_duplicates: int
    labels: dict[str, int]
    sha256: str
    made_from: str
    versions: dict[str, str]
    dropped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    ancestors: dict[str, str] = field(default_factory=dict)

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The table of photos, in the order of their URIs; all columns or those named."""
        from catflap.artifacts.tables import read_table

        return read_table(self.path / TABLE, columns)

    def finding(self, check: str) -> str | None:
        """What the first of the `checks` of this name found; None where it found nothing."""
        return next((each["what"] for each in self.checks if each["check"] == check), None)

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap scan`."""
        fields = asdict(self)
        del fields["path"]
        return fields


def save_manifest(folder: Path, fields: dict[str, Any]) -> None:
    """Write manifest.json into a folder that already holds the table; fields as in Manifest."""
    write_json(folder / MARKER, {"catflap": "manifest", "version": 1, **fields})


def load_manifest(path: Path | str) -> Manifest:
    """Open a Manifest folder; BadArtifact when it is not one."""
    path = Path(path)
    fields = read_json(path / MARKER, "manifest")
    known = {name: fields[name] for name in Manifest.__dataclass_fields__ if name in fields}
    try:
        return Manifest(path=path, **known)
    except TypeError as error:
        raise BadArtifact(f"{path / MARKER} lacks fields.", "Scan again with this Catflap.") from error


def manifest_digest(tables: pa.Table | Iterable[pa.Table]) -> str:
    """The content hash of photo rows: id, label, group, status and role of each.

    Takes one table or the tables that make it up; how the rows are cut does not matter.
    """
    from catflap.artifacts.tables import joined_lines

    content = hashlib.sha256()
    for table in [tables] if hasattr(tables, "column_names") else tables:
        for lines in joined_lines(table, DIGESTED):
            content.update(lines)
    return content.hexdigest()
