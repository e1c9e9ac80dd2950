"""The Manifest: what was found, photo by photo, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catflap.artifacts.folder import digest, read_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = "manifest.json"
TABLE = "photos.parquet"


@dataclass(frozen=True)
class Manifest:
    """A folder with `photos.parquet`, one row a photo, and `manifest.json`.

    `sha256` names the content: every row's id, label, group and status. `made_from` is the
    fingerprint of the source and the settings, which tells whether a scan can be skipped.
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

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The table of photos, in the order of their URIs; all columns or those named."""
        from catflap.artifacts.tables import read_table

        return read_table(self.path / TABLE, columns)

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap scan`."""
        fields = asdict(self)
        del fields["path"]
        return fields


def save_manifest(folder: Path, fields: dict[str, Any]) -> None:
    """Write manifest.json into a folder that already holds the table; fields as in Manifest."""
    write_json(folder / MARKER, {"catflap": "manifest", "version": 1, **fields})


def load_manifest(path: Path | str) -> Manifest:
    """Open a Manifest folder; BadArtifact when it is none."""
    path = Path(path)
    fields = read_json(path / MARKER, "manifest")
    names = set(Manifest.__dataclass_fields__) - {"path"}
    return Manifest(path=path, **{name: fields[name] for name in names})


def manifest_digest(table: pa.Table) -> str:
    """The content hash of a table of photo rows: id, label, group, status and role of each."""
    columns = [table[name].to_pylist() for name in ("id", "label", "group", "status", "role")]
    return digest([list(row) for row in zip(*columns, strict=True)])
