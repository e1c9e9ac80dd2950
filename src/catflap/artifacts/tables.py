"""Parquet tables of photos: schemas, reading, writing; the one file of this room that imports pyarrow.

Arrow's Parquet and compute modules are imported where they are used: the worker processes of a scan, which
start once a core, need neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
        pa.field("phash", pa.uint64()),  # null for a photo that was not read or is flat
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
        pa.field("crc32", pa.uint32()),  # of the photo's bytes in the shard
        pa.field("label", pa.int32()),
        pa.field("role", pa.string()),
        pa.field("group", pa.int64()),
    ]
)

OK, QUARANTINED, DROPPED = 0, 1, 2
STATUS = ("ok", "quarantined", "dropped")

REMAKE = "Run the catflap command that wrote this folder again."
ROW_GROUP = 1 << 13  # rows
STREAMED = 1 << 11  # rows in memory at once when a table is streamed


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one Parquet file, zstd, row groups of 8 Ki rows, with a checksum of each page."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)


def write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write many small tables as one Parquet file, as write_table does, without holding them all."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        held: list[pa.Table] = []
        for table in tables:
            held.append(table)
            if sum(part.num_rows for part in held) >= ROW_GROUP:
                whole = pa.concat_tables(held)
                writer.write_table(whole.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
                held = [whole.slice(ROW_GROUP)]
        writer.write_table(pa.concat_tables([schema.empty_table(), *held]), row_group_size=ROW_GROUP)


def iter_table(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a Parquet file, a few thousand rows at a time."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            for batch in file.iter_batches(STREAMED, columns=list(columns), use_threads=False):
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", REMAKE) from error


def with_columns(table: pa.Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """A table with other values in some columns, which keep their types; a sequence of n values each."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table


def joined_lines(table: pa.Table, columns: Sequence[str]) -> Iterator[bytes]:
    """The rows of a table as text, a line each, for hashing; equal rows are equal bytes."""
    import pyarrow.compute as pc

    texts = [pc.fill_null(table[name].cast(pa.string()), "\x00") for name in columns]
    for chunk in pc.binary_join_element_wise(*texts, "\n", "\x1f").chunks:
        yield "".join(chunk.to_pylist()).encode("utf-8", "surrogatepass")


def read_table(path: Path, columns: Sequence[str] | None = None, role: str | None = None) -> pa.Table:
    """Read a Parquet file, some of its columns, or one role's rows; BadArtifact when absent or damaged."""
    import pyarrow.parquet as pq

    try:
        chosen = None if role is None else [("role", "=", role)]
        names = None if columns is None else list(columns)
        return pq.read_table(path, columns=names, filters=chosen, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", REMAKE) from error


def leading_bits(ids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """The first 128 bits of hexadecimal ids, uint64 (n, 2); zeros for an empty id."""
    import pyarrow.compute as pc

    padded = pc.utf8_slice_codeunits(pc.utf8_rpad(ids, 32, "0"), 0, 32)
    text = np.frombuffer("".join(padded.to_pylist()).encode(), np.uint8).reshape(-1, 32)
    nibbles = np.where(text > 57, text - 87, text - 48)
    return (nibbles[:, 0::2] << 4 | nibbles[:, 1::2]).view(">u8").astype(np.uint64)


def numbered(column: pa.ChunkedArray, known: dict[str, int]) -> npt.NDArray[np.int64]:
    """A column of names as their numbers in `known`; new names are added with the next number."""
    numbers = np.empty(len(column), np.int64)
    start = 0
    for chunk in column.dictionary_encode().chunks:
        here = [known.setdefault(name, len(known)) for name in chunk.dictionary.to_pylist()]
        codes = chunk.indices.to_numpy(zero_copy_only=False)
        numbers[start : start + len(chunk)] = np.array(here, np.int64)[codes]
        start += len(chunk)
    return numbers
