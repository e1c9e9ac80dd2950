"""Parquet tables; the one file of this room that owns pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catflap.errors import BadArtifact

PHOTO_ROW = pa.schema(
    [
        pa.field("id", pa.string()),  # sha256 of the bytes, hexadecimal; "" when they were not read
        pa.field("uri", pa.string()),
        pa.field("label", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("width", pa.int32()),  # as stored, before orientation; 0 when unknown
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("orientation", pa.int8()),
        pa.field("phash", pa.uint64()),  # null when there is none: unread or flat
        pa.field("group", pa.int64()),  # near-duplicate and user group; -1 when quarantined
        pa.field("status", pa.string()),  # ok, quarantined or dropped
        pa.field("reason", pa.string()),  # why it is not ok, or remarks on one that is
        pa.field("role", pa.string()),  # only where the source states one
        pa.field("user_group", pa.string()),  # burst, video or animal, where the source states one
        pa.field("offset", pa.int64()),  # first byte inside an archive, -1 for a file of its own
    ]
)

INDEX_ROW = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("label", pa.int32()),
        pa.field("role", pa.string()),
        pa.field("group", pa.int64()),
    ]
)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one Parquet file, zstd, row groups of 128 Ki rows."""
    pq.write_table(table, path, compression="zstd", row_group_size=1 << 17)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file or some of its columns; BadArtifact when it is absent or damaged."""
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", "Make it again.") from error
