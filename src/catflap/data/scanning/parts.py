"""The working folder of a scan: the listing, and one committed Parquet part for every finished batch.

It lies beside the Manifest that will come of it, under `.NAME.scan`. A scan that was killed finds it
again; when the source or the rules have changed since, it starts anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from catflap.artifacts.folder import try_lock, unwritable
from catflap.artifacts.manifest import UNREADABLE
from catflap.artifacts.schema import read_json, write_json
from catflap.artifacts.tables import joined_lines
from catflap.data.scanning.batch import PART_ROW
from catflap.data.sources.listing import REFERENCE, Reference
from catflap.errors import BadArtifact, CatflapError

PLAN = "scan.json"
LISTING = "listing.parquet"
PARTS = "parts"
MOST = 512  # photos a batch
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
        """How many parts a whole scan has."""
        return -(-self.total // self.batch)

    def missing(self) -> Iterator[tuple[int, pa.Table]]:
        """The numbered batches of references that have no whole part yet."""
        listing = pq.ParquetFile(self.folder / LISTING)
        batches = listing.iter_batches(self.batch) if self.total else iter(())
        for number, batch in enumerate(batches):
            if not self._whole(number, batch.num_rows):
                yield number, pa.Table.from_batches([batch])

    def absent(self) -> int:
        """How many photos have not been examined yet."""
        sizes = (min(self.batch, self.total - number * self.batch) for number in range(self.count))
        return sum(size for number, size in enumerate(sizes) if not self._whole(number, size))

    def commit(self, number: int, rows: pa.Table) -> None:
        """Write a finished batch; from then on it is never examined again."""
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
        """One part; ParquetFile costs a fifth of what read_table costs for small files."""
        with pq.ParquetFile(self._path(number)) as part:
            return part.read(columns, use_threads=False)

    def _whole(self, number: int, rows: int) -> bool:
        try:
            return bool(pq.read_metadata(self._path(number)).num_rows == rows)
        except (OSError, pa.ArrowException):
            return False

    def _path(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:07d}.parquet"


@contextmanager
def working_folder(out: Path, verb: str) -> Iterator[Path]:
    """The folder beside `out` for what a verb has finished, for one process at a time.

    It outlives an error or a kill, and is gone when the block ends well.
    """
    folder = out.parent / f".{out.name}.{verb}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        if not try_lock(lock):
            raise CatflapError(
                f"Another {verb} is writing {out}.", "Wait for it, or choose another output name."
            )
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def plan_parts(folder: Path, references: Iterable[Reference], rules: str) -> Parts:
    """Write down what is to be examined; parts of an earlier scan of exactly the same are kept.

    All but those with photos that could not be read.
    """
    try:
        made_from, total = write_listing(folder / LISTING, references, rules)
        batch = min(MOST, max(16, 1 << max(0, (total // 16).bit_length() - 1)))
        if _earlier(folder) != {"made_from": made_from, "batch": batch}:
            shutil.rmtree(folder / PARTS, ignore_errors=True)
        for part in (folder / PARTS).glob("*.parquet"):
            if _is_in_doubt(part):
                part.unlink()
        (folder / PARTS).mkdir(exist_ok=True)
        write_json(folder / PLAN, {"catflap": "scan", "version": 1, "made_from": made_from, "batch": batch})
    except OSError as error:
        raise unwritable(folder, error) from error
    return Parts(folder, total, batch, made_from)


def write_listing(path: Path | None, references: Iterable[Reference], rules: str) -> tuple[str, int]:
    """The fingerprint and the number of references under some rules; written to a file when one is named."""
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


def _is_in_doubt(part: Path) -> bool:
    """Whether a part is damaged, or holds a photo that could not be read and perhaps can be by now."""
    try:
        return UNREADABLE in pq.read_table(part, columns=["reason"])["reason"].to_pylist()
    except (OSError, pa.ArrowException):
        return True


def _earlier(folder: Path) -> dict[str, Any]:
    try:
        fields = read_json(folder / PLAN, "scan")
    except BadArtifact:
        return {}
    return {name: fields.get(name) for name in ("made_from", "batch")}
