"""Tar shards that any WebDataset reader can stream, with the place of every photo in an index.

WebDataset's convention: ID.cls, the number of the label as text, then ID.jpg (or its real suffix).
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.artifacts.folder import sync

SHARD_BYTES = 256 << 20
BLOCK = tarfile.BLOCKSIZE
LABEL_BYTES = 2 * BLOCK  # header and content of ID.cls


@dataclass(frozen=True)
class ShardPlan:
    """Which photos go into which shard, before any is written.

    `names` are the shards' file names, `starts` their first photos, with the number of photos at the end.
    """

    names: tuple[str, ...]
    starts: Positions

    def __len__(self) -> int:
        return len(self.names)

    def part(self, number: int) -> slice:
        """Which photos a shard holds, by their positions."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))


@dataclass(frozen=True)
class Member:
    """One photo of a shard: its id, file suffix, number of its label, and bytes."""

    id: str
    suffix: str
    label: int
    data: bytes


def plan_shards(lengths: Positions, roles: npt.NDArray[np.str_]) -> ShardPlan:
    """Deal photos, sorted by role, out to shards of about 256 MiB; a shard holds one role only."""
    if not len(lengths):
        return ShardPlan((), np.zeros(1, np.int64))
    entries = _entries(lengths)
    before = np.cumsum(entries) - entries
    new_role = np.concatenate([[True], roles[1:] != roles[:-1]])
    role_starts = np.flatnonzero(new_role)
    in_role = before - np.repeat(before[role_starts], np.diff(np.append(role_starts, len(lengths))))
    number = in_role // SHARD_BYTES
    starts = np.flatnonzero(new_role | (np.diff(number, prepend=0) > 0))
    numbered = zip(roles[starts].tolist(), number[starts].tolist(), strict=True)
    return ShardPlan(tuple(f"{role}-{n:06d}.tar" for role, n in numbered), np.append(starts, len(lengths)))


def offsets(lengths: Positions) -> Positions:
    """The first byte of each photo of one shard, from their lengths."""
    entries = _entries(lengths)
    return np.cumsum(entries) - entries + LABEL_BYTES + BLOCK


def _entries(lengths: Positions) -> Positions:
    """The bytes that photos take in a shard, with their labels and headers."""
    return LABEL_BYTES + BLOCK + -(-lengths // BLOCK) * BLOCK


def write_shard(path: Path, members: Iterable[Member], note: Path) -> Positions:
    """Write one shard and return length and CRC-32 of each photo, (n, 2), noted for a run that goes on.

    The shard gets its name when both files are whole, and on disk, where a power cut finds them.
    """
    partial, photos = path.with_suffix(".partial"), []
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member in members:
            _add(archive, f"{member.id}.cls", str(member.label).encode())
            _add(archive, f"{member.id}{member.suffix}", member.data)
            photos.append((len(member.data), zlib.crc32(member.data)))
    written = np.array(photos, np.int64)
    np.save(note, written)
    for file in (partial, note):
        sync(file)
    partial.replace(path)
    return written


def read_note(note: Path) -> Positions | None:
    """What was noted of a shard's photos, as write_shard returns it; None when it is absent or damaged."""
    try:
        noted: Positions = np.load(note, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return noted


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
