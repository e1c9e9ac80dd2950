"""The working folder of a scan: the listing, and one committed Parquet part for each finished batch.

It lies beside the Manifest that will be made, as `.NAME.scan`. A scan that was killed finds it and goes on;
when the source or the rules have changed since, it starts again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catflap.artifacts.folder import unwritable
from catflap.artifacts.manifest import UNREADABLE
from catflap.artifacts.schema import read_json, write_json
from catflap.artifacts.tables import joined_lines
from catflap.data.examine import PART_ROW
from catflap.data.listing import REFERENCE, Reference
from catflap.errors import BadArtifact

PLAN = "scan.json"
LISTING = "listing.parquet"
PARTS = "parts"
LARGEST_BATCH = 512  # photos
CHUNK = 1 << 11  # references in memory


@dataclass(frozen=True)
class Parts:
    """The batches of one scan: `total` references, `batch` of them a part."""

    folder: Path
    total: int
    batch: int
    made_from: str

    @property
    def count(self) -> int:
        """How many parts a complete scan has."""
        return -(-self.total // self.batch)

    def missing(self) -> Iterator[tuple[int, pa.Table]]:
        """The numbered batches of references that have no complete part yet."""
        listing = pq.ParquetFile(self.folder / LISTING)
        batches = listing.iter_batches(self.batch) if self.total else iter(())
        for number, batch in enumerate(batches):
            if not self._is_complete(number, batch.num_rows):
                yield number, pa.Table.from_batches([batch])

    def count_missing(self) -> int:
        """How many photos have not been examined yet."""
        sizes = (min(self.batch, self.total - number * self.batch) for number in range(self.count))
        return sum(size for number, size in enumerate(sizes) if not self._is_complete(number, size))

    def commit(self, number: int, rows: pa.Table) -> None:
        """Write a finished batch, which is then never examined again."""
        path = self._path(number)
        partial = path.with_suffix(".partial")
        try:
            pq.write_table(rows, partial, compression="zstd", compression_level=1)
            partial.replace(path)
        except OSError as error:
            raise unwritable(path, error) from error

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows of all parts, in order, a part at a time."""
        for number in range(self.count):
            try:
                yield self._read(number, columns)
            except (OSError, pa.ArrowException) as error:
                raise BadArtifact(f"{self._path(number)} was damaged: {error}.", "Scan again.") from error

    def take(self, column: str, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
        """A column at sorted positions of rows."""
        parts = rows // self.batch
        chunks = []
        for number in np.unique(parts).tolist():
            wanted = rows[parts == number] - number * self.batch
            chunks.append(self._read(number, [column])[column].take(wanted))
        return pa.chunked_array(
            [chunk for array in chunks for chunk in array.chunks], PART_ROW.field(column).type
        )

    def _read(self, number: int, columns: list[str] | None) -> pa.Table:
        """One part; for small files ParquetFile takes a fifth of the time of read_table."""
        with pq.ParquetFile(self._path(number)) as part:
            return part.read(columns, use_threads=False)

    def _is_complete(self, number: int, rows: int) -> bool:
        try:
            return bool(pq.read_metadata(self._path(number)).num_rows == rows)
        except (OSError, pa.ArrowException):
            return False

    def _path(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:07d}.parquet"


def plan_parts(folder: Path, references: Iterable[Reference], rules: str) -> Parts:
    """Write the listing; parts of an earlier scan of the same listing are kept.

    Parts with photos that could not be read are examined again.
    """
    try:
        made_from, total = write_listing(folder / LISTING, references, rules)
        batch = min(LARGEST_BATCH, max(16, 1 << max(0, (total // 16).bit_length() - 1)))
        if _earlier(folder) != {"made_from": made_from, "batch": batch}:
            shutil.rmtree(folder / PARTS, ignore_errors=True)
        for part in (folder / PARTS).glob("*.parquet"):
            if _must_repeat(part):
                part.unlink()
        (folder / PARTS).mkdir(exist_ok=True)
        write_json(folder / PLAN, {"catflap": "scan", "version": 1, "made_from": made_from, "batch": batch})
    except OSError as error:
        raise unwritable(folder, error) from error
    return Parts(folder, total, batch, made_from)


def write_listing(path: Path | None, references: Iterable[Reference], rules: str) -> tuple[str, int]:
    """The fingerprint and number of references under some rules; `path` also gets the listing."""
    fingerprint, total = hashlib.sha256(rules.encode()), 0
    writer = pq.ParquetWriter(path, REFERENCE, compression="zstd") if path else None
    try:
        for table in _chunks(references):
            total += table.num_rows
            for line in joined_lines(table, REFERENCE.names):
                fingerprint.update(line)
            if writer:
                writer.write_table(table)
    finally:
        if writer:
            writer.close()
    return fingerprint.hexdigest(), total


def _chunks(references: Iterable[Reference]) -> Iterator[pa.Table]:
    chunk: list[Reference] = []
    for found in references:
        chunk.append(found)
        if len(chunk) == CHUNK:
            yield pa.Table.from_pylist(chunk, schema=REFERENCE)
            chunk = []
    yield pa.Table.from_pylist(chunk, schema=REFERENCE)


def _must_repeat(part: Path) -> bool:
    """Whether a part is damaged, or holds a photo that could not be read but perhaps can be now."""
    try:
        reasons = pq.read_table(part, columns=["reason"])["reason"]
        return bool(pc.any(pc.starts_with(reasons, UNREADABLE)).as_py())
    except (OSError, pa.ArrowException):
        return True


def _earlier(folder: Path) -> dict[str, Any]:
    try:
        fields = read_json(folder / PLAN, "scan")
    except BadArtifact:
        return {}
    return {name: fields.get(name) for name in ("made_from", "batch")}
