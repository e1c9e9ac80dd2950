"""The one byte-exact zip encoding of a Bundle: stored members, fixed headers, nothing else.

A set of members has exactly one encoding, so the reader rebuilds the headers and compares:
a flipped bit anywhere, a gap, a comment, an extra field or a trailing byte is refused.
Format: APPNOTE.TXT 6.3 of PKWARE, the subset described in docs/reference/bundle.md.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from catflap.errors import BadArtifact, CatflapError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}){0,3}")
MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 1000
MAX_BYTES = (1 << 31) - 1  # no zip64

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_DATE = (1 << 5) | 1  # 1980-01-01, 00:00


def encode_members(members: Mapping[str, bytes | memoryview]) -> bytes:
    """The bytes of a Bundle that holds these members in this order; CatflapError when none can."""
    bad = [name for name in members if not NAME.fullmatch(name)] + _also_folders(members)
    if bad or not 0 < len(members) <= MAX_MEMBERS or sum(map(len, members.values())) > MAX_BYTES - (1 << 20):
        raise CatflapError(
            f"A bundle cannot hold these {len(members)} files{f': {bad[0]!r}' if bad else ''}.",
            "Use at most 1000 files of 2 GB in all, with plain names.",
        )
    return b"".join(_chunks(members))


def decode_members(data: bytes | memoryview, file: str = "The file") -> Mapping[str, memoryview]:
    """The members of a Bundle as views into its bytes, in their order; BadArtifact when not exact.

    `file` is what an error calls it.
    """
    try:
        return _decoded(memoryview(data))
    except _NotWhole as error:
        raise BadArtifact(
            f"{file} is not a whole Catflap bundle: {error}.", "Copy or export it again."
        ) from error


class _NotWhole(Exception):
    """Why some bytes are not exactly a Bundle."""


def _decoded(view: memoryview) -> Mapping[str, memoryview]:
    members = _walk(view)
    position = 0
    for chunk in _chunks(members):
        if view[position : position + len(chunk)] != chunk:
            raise _NotWhole(f"bytes differ near offset {position}")
        position += len(chunk)
    if position != len(view):
        raise _NotWhole("it has bytes after its end")
    return MappingProxyType(members)


def _walk(view: memoryview) -> dict[str, memoryview]:
    """Follow the local headers from the first byte; decode_members checks everything else."""
    members: dict[str, memoryview] = {}
    position = 0
    while bytes(view[position : position + 4]) == MAGIC:
        if position + _LOCAL.size > len(view):
            raise _NotWhole("it is cut short")
        fields = _LOCAL.unpack_from(view, position)
        size, name_length = fields[8], fields[9]
        start = position + _LOCAL.size + name_length
        name = bytes(view[position + _LOCAL.size : start]).decode("ascii", "replace")
        if not NAME.fullmatch(name):
            raise _NotWhole(f"the member name {name[:40]!r} is not allowed")
        if name in members or len(members) >= MAX_MEMBERS:
            raise _NotWhole(f"the member {name!r} is there twice or one too many")
        if start + size > len(view):
            raise _NotWhole("it is cut short")
        members[name] = view[start : start + size]
        position = start + size
    if not members:
        raise _NotWhole("it does not begin like one")
    if both := _also_folders(members):
        raise _NotWhole(f"the member {both[0]!r} is a folder of others too")
    return members


def _also_folders(members: Iterable[str]) -> list[str]:
    """The names under which other members lie, so that no folder can hold them all."""
    parts = [name.split("/") for name in members]
    folders = {"/".join(part[:depth]) for part in parts for depth in range(1, len(part))}
    return [name for name in members if name in folders]


def _chunks(members: Mapping[str, bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Local header and data of each member, then the central directory and its end record."""
    central = b""
    offset = 0
    for name, data in members.items():
        path = name.encode("ascii")
        common = (20, 0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(path), 0)
        local = _LOCAL.pack(MAGIC, *common) + path
        central += _CENTRAL.pack(b"PK\x01\x02", 20, *common, 0, 0, 0, 0, offset) + path
        offset += len(local) + len(data)
        yield local
        yield data
    yield central
    yield _END.pack(b"PK\x05\x06", 0, 0, len(members), len(members), len(central), offset, 0)
