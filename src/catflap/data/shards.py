"""Tar shards that any WebDataset reader can stream, with the place of every photo in them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Place:
    """Where the bytes of a photo lie: the shard's name, the first byte and the length."""

    shard: str
    offset: int
    length: int


def write_shards(folder: Path, photos: Iterable[tuple[str, str, str, bytes]]) -> list[Place]:
    """Write photos as (role, key, label, bytes) into tar files of about 256 MiB, a role's own each.

    WebDataset convention: KEY.jpg (or its real suffix) beside KEY.cls, the label's number in text.
    """
    places: list[Place] = []
    counts: dict[str, int] = {}
    open_role, archive = "", None
    try:
        for role, name, label, data in photos:
            if archive is None or role != open_role or archive.offset > SHARD_BYTES:
                if archive is not None:
                    archive.close()
                number = counts.get(role, 0)
                counts[role], open_role = number + 1, role
                shard = f"{role}-{number:06d}.tar"
                archive = tarfile.open(folder / shard, "w", format=tarfile.USTAR_FORMAT)
            _add(archive, f"{Path(name).stem}.cls", label.encode())
            offset = archive.offset + tarfile.BLOCKSIZE
            _add(archive, name, data)
            places.append(Place(shard, offset, len(data)))
    finally:
        if archive is not None:
            archive.close()
    return places


def digest_places(ids: list[str], labels: list[int], roles: list[str]) -> str:
    """The hash that names a Dataset's content."""
    lines = (f"{id} {label} {role}\n" for id, label, role in zip(ids, labels, roles, strict=True))
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode())
    return total.hexdigest()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
