"""Zip and tar archives, read without unpacking: a member is named by where its bytes lie."""

from __future__ import annotations

import re
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from catflap.data.sources.listing import (
    PHOTO_SUFFIXES,
    ROLE_NAMES,
    Listing,
    Reference,
    by_folder,
    printable,
    reference,
    within_hidden,
)
from catflap.data.sources.sidecars import label_in
from catflap.data.sources.stores import is_url, open_object
from catflap.errors import BadPhoto, CatflapError, system_reason

SIDECAR_BYTES = 1 << 16
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
ENCRYPTED, SIZES_FOLLOW = 1, 8
COMPRESSED = {b"\x1f\x8b": "gunzip -k", b"BZ": "bunzip2 -k", b"\xfd7": "unxz -k", b"\x28\xb5": "unzstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, first byte, length, content if it may hold a label, and why it is no use."""

    name: str
    offset: int
    length: int
    content: bytes
    fault: str


def list_zip(path: str) -> Listing:
    """All members of a zip archive under class folders, in the order of their names."""
    try:
        with open_archive(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise CatflapError(
            f"{path} is no whole zip archive: {error}.", "Copy or download the archive again."
        ) from error
    files = [one for one in members if not one.filename.endswith("/") and not within_hidden(one.filename)]
    files.sort(key=lambda member: member.filename)
    folders = _by_folder([member.filename for member in files])
    return Listing(
        _zip_reference(path, member, role, label)
        for member, (role, label) in zip(files, folders, strict=True)
    )


def list_tars(paths: list[str]) -> Listing:
    """All photos in tar archives: WebDataset shards where a label lies beside a photo, else class folders."""
    return Listing(found for path in sorted(paths) for found in _list_tar(path))


def read_member(uri: str, offset: int, length: int, max_bytes: int, crc: int | None = None) -> bytes:
    """The bytes of a member of an archive; BadPhoto when they are damaged, absent or too many.

    `crc` is that of a zip's directory, where it is known: a streamed zip has none beside the member.
    """
    if length > max_bytes:
        raise BadPhoto("too_many_bytes", f"{uri} has {length} bytes.", "Save a smaller copy.")
    kind, _, path = uri.partition("://")[0], *uri.rpartition("::")[1:]
    try:
        file = _opened(path, threading.get_ident())
        file.seek(offset)
        data = file.read(length) if kind == "tar" else _read_zipped(file, length, crc)
    except CatflapError as error:  # the store's
        raise BadPhoto("unreadable", error.what, error.fix) from error
    except (OSError, struct.error, zlib.error, ValueError) as error:
        raise BadPhoto("unreadable", f"{uri} cannot be read: {error}.", "Copy the archive again.") from error
    if len(data) != length:
        raise BadPhoto("truncated", f"{uri} is cut short.", "Copy the archive again.")
    return data


def open_archive(path: str, *, ahead: bool = True) -> BinaryIO:
    """An archive on disk or at an address, as a file that can seek; `ahead` as of `open_object`."""
    return open_object(path, ahead=ahead) if is_url(path) else open(path, "rb")


@lru_cache(maxsize=16)
def _opened(path: str, thread: int) -> BinaryIO:
    """An archive that stays open; each thread has its own, because a file has one position."""
    return open_archive(path, ahead=False)  # its photos are read in any order


def _zip_reference(path: str, member: zipfile.ZipInfo, role: str, label: str) -> Reference:
    fault = "" if label else "no_label"
    if _outside(member.filename):
        fault = "outside_archive"
    elif member.flag_bits & ENCRYPTED:
        fault = "encrypted"
    elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = "unsupported_compression"
    uri = f"zip://{printable(member.filename)}::{path}"
    known = {"role": role, "offset": member.header_offset, "bytes": member.file_size, "fault": fault}
    return reference(uri, printable(label), modified=member.CRC, **known)


def _read_zipped(file: BinaryIO, length: int, listed: int | None) -> bytes:
    """A member from its local header on, checked against every CRC of it that is known."""
    fields = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    signature, flags, method, crc = fields[0], fields[2], fields[3], fields[6]
    if signature != b"PK\x03\x04":
        raise ValueError("no member starts there")
    file.seek(fields[9] + fields[10], 1)
    stored = method == zipfile.ZIP_STORED
    data = file.read(length) if stored else b"".join(_inflated(file, length))
    known = ({listed} if listed is not None else set()) | (set() if flags & SIZES_FOLLOW else {crc})
    if known - {zlib.crc32(data)}:
        raise ValueError("its checksum is wrong")
    return data


def _inflated(file: BinaryIO, length: int) -> Iterator[bytes]:
    """The inflated bytes of a member, never more than one byte over its stated length."""
    inflater, left = zlib.decompressobj(-zlib.MAX_WBITS), length + 1
    while left and not inflater.eof:
        data = inflater.unconsumed_tail or file.read(1 << 16)
        if not data:
            return
        part = inflater.decompress(data, left)
        left -= len(part)
        yield part


def _list_tar(path: str) -> list[Reference]:
    try:
        with open_archive(path) as file:
            start = file.read(6)
            for magic, command in COMPRESSED.items():
                if start.startswith(magic):
                    raise CatflapError(
                        f"{path} is compressed, so its photos cannot be reached one by one.",
                        f"Run: {command} {path}",
                    )
            size = file.seek(0, 2)
            file.seek(0)
            members, whole = _tar_members(file)
    except OSError as error:
        raise CatflapError(
            f"{path} cannot be read: {system_reason(error)}.", "Check its path and permissions."
        ) from error
    if not members:
        raise CatflapError(f"{path} is no tar archive with photos.", "Copy or download the archive again.")
    found = _sharded(path, members, size) or _foldered(path, members, size)
    broken = [] if whole else [reference(path, "", fault="archive_truncated")]
    return sorted([*found, *broken], key=lambda part: str(part["uri"]))


def _tar_members(file: BinaryIO) -> tuple[list[Member], bool]:
    """The files of a tar, and whether it ends with the block of zeros that every whole tar has."""
    members: list[Member] = []
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else memory grows with the archive
                if member.isreg() and not within_hidden(member.name):
                    members.append(_member(archive, member))
                if archive.offset <= end:  # a size below 0 would lead in a circle
                    return members, False
                end = archive.offset
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError):  # a size may be anything
        return members, False
    file.seek(end)
    return members, file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Member:
    fault, content = "", b""
    if _outside(member.name):
        fault = "outside_archive"
    elif member.issparse():  # its bytes lie in pieces, of which only tar knows where they belong
        fault = "sparse"
    if member.name.endswith((".cls", ".json")) and 0 <= member.size < SIDECAR_BYTES:
        content = archive.extractfile(member).read()  # type: ignore[union-attr]
    return Member(member.name, member.offset_data, member.size, content, fault)


def _sharded(path: str, members: list[Member], size: int) -> list[Reference]:
    """The photos of a WebDataset shard: files of one key lie together, and one of them has the label."""
    labels = {_key(one.name): label_in(one.name, one.content) for one in members if one.content}
    labels = {key: label for key, label in labels.items() if label}
    if not labels:
        return []
    prefix = re.split(r"[-_.\d]", Path(path).name.lower())[0]
    role = ROLE_NAMES.get(prefix, "")
    return [
        _tar_reference(path, member, size, role, labels.get(_key(member.name), ""))
        for member in members
        if PurePosixPath(member.name).suffix.lower() in PHOTO_SUFFIXES
    ]


def _foldered(path: str, members: list[Member], size: int) -> list[Reference]:
    folders = _by_folder([member.name for member in members])
    return [
        _tar_reference(path, member, size, role, label)
        for member, (role, label) in zip(members, folders, strict=True)
    ]


def _tar_reference(path: str, member: Member, size: int, role: str, label: str) -> Reference:
    fault = member.fault or ("" if label else "no_label")
    if not member.fault and not 0 <= member.length <= size - member.offset:
        fault = "truncated"
    known = {"role": role, "offset": member.offset, "bytes": member.length, "fault": fault, "modified": size}
    return reference(f"tar://{printable(member.name)}::{path}", printable(label), **known)


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.')[0]}"


def _by_folder(names: list[str]) -> list[tuple[str, str]]:
    """`by_folder` of the members; what lies outside the archive has no say in what the folders mean."""
    inside = by_folder([name for name in names if not _outside(name)])
    return [("", "") if _outside(name) else next(inside) for name in names]


def _outside(name: str) -> bool:
    """Whether a member's path leads out of the folder into which the archive would be unpacked."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts
