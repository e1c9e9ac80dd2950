"""Tar shards that any WebDataset reader can stream, with the place of every photo known beforehand.

WebDataset's convention: ID.cls, the number of the label as text, then ID.jpg (or its real suffix).
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catflap.data.duplicates import Positions
from catflap.errors import CatflapError

SHARD_BYTES = 256 << 20
BLOCK = tarfile.BLOCKSIZE
LABEL_BYTES = 2 * BLOCK  # header and content of ID.cls


@dataclass(frozen=True)
class Plan:
    """Where each photo goes: the number of its shard and the first byte of the photo in it, (n,).

    `names` are the shards' file names, `starts` their first photos, with the number of photos at the end.
    """

    shards: Positions
    offsets: Positions
    names: tuple[str, ...]
    starts: Positions

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Member:
    """One photo of a shard: sha256, file suffix, number of its label, bytes, and where it came from."""

    id: str
    suffix: str
    label: int
    data: bytes
    uri: str


def plan_shards(lengths: Positions, roles: npt.NDArray[np.str_]) -> Plan:
    """Deal photos, sorted by role, out to shards of about 256 MiB; a shard holds one role only."""
    if not len(lengths):
        return Plan(lengths, lengths, (), np.zeros(1, np.int64))
    entries = LABEL_BYTES + BLOCK + -(-lengths // BLOCK) * BLOCK
    before = np.cumsum(entries) - entries
    new_role = np.concatenate([[True], roles[1:] != roles[:-1]])
    role_starts = np.flatnonzero(new_role)
    in_role = before - np.repeat(before[role_starts], np.diff(np.append(role_starts, len(lengths))))
    number = in_role // SHARD_BYTES
    starts = np.flatnonzero(new_role | (np.diff(number, prepend=0) > 0))
    shards = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(lengths))))
    numbered = zip(roles[starts].tolist(), number[starts].tolist(), strict=True)
    names = tuple(f"{role}-{n:06d}.tar" for role, n in numbered)
    return Plan(
        shards, before - before[starts][shards] + LABEL_BYTES + BLOCK, names, np.append(starts, len(lengths))
    )


def write_shard(path: Path, members: Iterable[Member], offsets: Iterable[int]) -> None:
    """Write one shard under a temporary name and rename it when it is whole.

    Raises CatflapError when a photo is not the one that was scanned.
    """
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, offset in zip(members, offsets, strict=True):
            if hashlib.sha256(member.data).hexdigest() != member.id:
                raise CatflapError(f"{member.uri} has changed since it was scanned.", "Scan again.")
            _add(archive, f"{member.id}.cls", str(member.label).encode())
            _add(archive, f"{member.id}{member.suffix}", member.data)
            assert archive.offset == offset + -(-len(member.data) // BLOCK) * BLOCK
    partial.replace(path)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
