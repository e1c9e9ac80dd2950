"""The bytes of photos: from files, zip and tar archives (without unpacking) and object stores."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from catflap.data.listing import (
    PHOTO_SUFFIXES,
    ROLE_NAMES,
    Listing,
    Reference,
    by_folder,
    count_skipped,
    printable,
    reference,
    within_hidden,
)
from catflap.errors import BadPhoto, CatflapError, first_line, system_reason
from catflap.image import read_file

SIDECAR_BYTES = 1 << 16
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
ENCRYPTED, SIZES_FOLLOW = 1, 8
COMPRESSED = {b"\x1f\x8b": "gunzip -k", b"BZ": "bunzip2 -k", b"\xfd7": "unxz -k", b"\x28\xb5": "unzstd"}


LABEL_FIELDS = ("label", "class", "cls", "category")  # of a JSON sidecar
SIDECARS = (".cls", ".json", ".txt")  # what may lie beside a photo in a WebDataset shard


def is_url(source: str) -> bool:
    """Whether a source or URI is an address such as s3://bucket/folder, not a path."""
    return "://" in source and not source.startswith(("zip://", "tar://"))


def read_photo(uri: str, offset: int, length: int, max_bytes: int, crc: int | None = None) -> bytes:
    """The bytes of a photo that a Manifest names; BadPhoto when it cannot be read.

    `offset`, `length` and `crc` locate a photo in an archive; files and objects are read as they are now.
    """
    if offset >= 0:
        return read_member(uri, offset, length, max_bytes, crc)
    return read_object(uri, max_bytes) if is_url(uri) else read_file(uri, max_bytes)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, first byte, length, content if it may hold a label, and any fault."""

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
            f"{path} is not a complete zip archive: {error}.", "Copy or download the archive again."
        ) from error
    skipped: Counter[str] = Counter()
    files = []
    for member in sorted(members, key=lambda member: member.filename):
        if within_hidden(member.filename):
            count_skipped(skipped, member.filename)
        elif not member.filename.endswith("/"):
            files.append(member)
    folders = _by_folder([member.filename for member in files])
    references = (
        _zip_reference(path, member, role, label)
        for member, (role, label) in zip(files, folders, strict=True)
    )
    return Listing(references, skipped=skipped)


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


def list_tars(paths: list[str]) -> Listing:
    """All photos in tar archives: WebDataset shards where a label lies beside a photo, else class folders."""
    skipped: Counter[str] = Counter()
    return Listing((found for path in sorted(paths) for found in _list_tar(path, skipped)), skipped=skipped)


def _list_tar(path: str, skipped: Counter[str]) -> list[Reference]:
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
            members, is_complete = _tar_members(file, skipped)
    except OSError as error:
        raise CatflapError(
            f"{path} cannot be read: {system_reason(error)}.", "Check its path and permissions."
        ) from error
    if not members:
        raise CatflapError(f"{path} is not a tar archive with photos.", "Copy or download the archive again.")
    found = _sharded(path, members, size, skipped) or _foldered(path, members, size)
    broken = [] if is_complete else [reference(path, "", fault="archive_truncated")]
    return sorted([*found, *broken], key=lambda part: str(part["uri"]))


def _tar_members(file: BinaryIO, skipped: Counter[str]) -> tuple[list[Member], bool]:
    """The files of a tar, and whether it ends with the block of zeros that every complete tar has."""
    members: list[Member] = []
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else memory grows with the archive
                if member.isreg() and within_hidden(member.name):
                    count_skipped(skipped, member.name)
                elif member.isreg():
                    members.append(_member(archive, member))
                if archive.offset <= end:  # a negative size would loop
                    return members, False
                end = archive.offset
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        MemoryError,
    ):  # a damaged size can be any number
        return members, False
    file.seek(end)
    return members, file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Member:
    fault, content = "", b""
    if _outside(member.name):
        fault = "outside_archive"
    elif member.issparse():  # stored in pieces
        fault = "sparse"
    if member.name.endswith((".cls", ".json")) and 0 <= member.size < SIDECAR_BYTES:
        content = archive.extractfile(member).read()  # type: ignore[union-attr]
    return Member(member.name, member.offset_data, member.size, content, fault)


def _sharded(path: str, members: list[Member], size: int, skipped: Counter[str]) -> list[Reference]:
    """The photos of a WebDataset shard: files of one key lie together, and one of them has the label."""
    labels = {_key(one.name): _label_in(one.name, one.content) for one in members if one.content}
    labels = {key: label for key, label in labels.items() if label}
    if not labels:
        return []
    prefix = re.split(r"[-_.\d]", Path(path).name.lower())[0]
    role = ROLE_NAMES.get(prefix, "")
    found = []
    for member in members:
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix in PHOTO_SUFFIXES:
            found.append(_tar_reference(path, member, size, role, labels.get(_key(member.name), "")))
        elif suffix not in SIDECARS:
            count_skipped(skipped, member.name)
    return found


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


def _label_in(name: str, content: bytes) -> str:
    """The label that a .cls or .json file states, or "" when it states none."""
    try:
        text = content.decode()
        if name.endswith(".cls"):
            return text.strip()
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(fields, dict):
        return ""
    for field in LABEL_FIELDS:
        value = fields.get(field)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return (
                str(value).strip().encode("utf-8", "backslashreplace").decode()
            )  # JSON allows unpaired surrogates
    return ""


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.')[0]}"


def _by_folder(names: list[str]) -> list[tuple[str, str]]:
    """`by_folder` of the members; paths that lead out of the archive are ignored there."""
    inside = by_folder([name for name in names if not _outside(name)])
    return [("", "") if _outside(name) else next(inside) for name in names]


def _outside(name: str) -> bool:
    """Whether a member's path leads out of the folder into which the archive would be unpacked."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


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
    except CatflapError as error:  # raised by a store
        raise BadPhoto("unreadable", error.what, error.fix) from error
    except (OSError, struct.error, zlib.error, ValueError) as error:
        raise BadPhoto("unreadable", f"{uri} cannot be read: {error}.", "Copy the archive again.") from error
    if len(data) != length:
        raise BadPhoto("truncated", f"{uri} is cut short.", "Copy the archive again.")
    return data


def open_archive(path: str, *, ahead: bool = True) -> BinaryIO:
    """An archive on disk or at an address, as a file that can seek; `ahead` as in `open_object`."""
    return open_object(path, ahead=ahead) if is_url(path) else open(path, "rb")


@lru_cache(maxsize=16)
def _opened(path: str, thread: int) -> BinaryIO:
    """An archive that stays open; each thread has its own, because a file has one position."""
    return open_archive(path, ahead=False)  # its photos are read in any order


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


def list_store(url: str) -> Listing:
    """All objects under class folders at an address, in the order of their addresses."""
    fs, root = _store(url)
    try:
        found = fs.find(root, detail=True)
    except Exception as error:  # each store raises its own types
        raise CatflapError(
            f"{url} cannot be listed: {first_line(error)}.", "Check the address and credentials."
        ) from error
    inside = {name: name.removeprefix(root).lstrip("/") for name in sorted(found)}
    kept = [name for name, path in inside.items() if not within_hidden(path)]
    skipped: Counter[str] = Counter()
    for path in inside.values():
        if within_hidden(path):
            count_skipped(skipped, path)
    references = (
        _store_reference(fs, name, found[name], role, label)
        for name, (role, label) in zip(kept, by_folder([inside[name] for name in kept]), strict=True)
    )
    return Listing(references, skipped=skipped)


def _store_reference(fs: Any, name: str, info: dict[str, Any], role: str, label: str) -> Reference:
    changed = str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created"))
    modified = int.from_bytes(hashlib.sha256(changed.encode()).digest()[:7], "big")
    known = {"role": role, "bytes": int(info.get("size") or 0), "modified": modified}
    return reference(fs.unstrip_protocol(name), label, fault="" if label else "no_label", **known)


def read_object(url: str, max_bytes: int) -> bytes:
    """The bytes of one object; BadPhoto when it cannot be read or is too large."""
    try:
        fs, path = _store(url)
        with fs.open(path, "rb") as file:
            data = cast("bytes", file.read(max_bytes + 1))
    except Exception as error:  # each store raises its own types
        raise BadPhoto(
            "unreadable", f"{url} cannot be read: {first_line(error)}.", "Check the address and credentials."
        ) from error
    if len(data) > max_bytes:
        raise BadPhoto("too_many_bytes", f"{url} has over {max_bytes} bytes.", "Save a smaller copy.")
    return data


def open_object(url: str, *, ahead: bool = True) -> BinaryIO:
    """An archive in a store as a file that can seek; CatflapError when it cannot be opened or read.

    `ahead` fetches megabytes beyond each read, for reading from front to back.
    """
    fs, path = _store(url)
    try:
        file = fs.open(path, "rb") if ahead else fs.open(path, "rb", cache_type="none")
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 1))
        file.read(1)  # fails on a server that only sends whole files
        file.seek(0)
    except Exception as error:  # each store raises its own types
        raise _unreachable(url, error) from error
    return cast("BinaryIO", _Object(file, url))


class _Object(io.RawIOBase):
    """An open object. A failed read becomes CatflapError, which archive readers let through."""

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url

    def read(self, size: int = -1) -> bytes:
        try:
            return cast("bytes", self._file.read(size))
        except (OverflowError, MemoryError):  # a damaged archive states false sizes
            raise
        except Exception as error:  # each store raises its own types
            raise _unreachable(self._url, error) from error

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return cast("int", self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def _unreachable(url: str, error: Exception) -> CatflapError:
    return CatflapError(
        f"{url} cannot be read: {first_line(error)}.",
        "Check the address and credentials, or download the archive.",
    )


@lru_cache(maxsize=8)
def _filesystem(protocol: str) -> Any:
    import fsspec  # type: ignore[import-untyped]

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise CatflapError(
            f"{protocol}:// is not supported here: {error}.",
            f"Install fsspec's package for {protocol}, such as s3fs for s3.",
        ) from error


def _store(url: str) -> tuple[Any, str]:
    fs = _filesystem(url.partition("://")[0])
    return fs, str(fs._strip_protocol(url)).rstrip("/")
