"""Object stores and web addresses; the one file that owns fsspec."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from typing import Any, BinaryIO, cast

from catflap.data.sources.listing import Listing, Reference, by_folder, reference, within_hidden
from catflap.errors import BadPhoto, CatflapError, first_line


def is_url(source: str) -> bool:
    """Whether a source or URI is an address such as s3://bucket/folder, not a path."""
    return "://" in source and not source.startswith(("zip://", "tar://"))


def list_store(url: str) -> Listing:
    """All objects under class folders at an address, in the order of their addresses."""
    fs, root = _store(url)
    try:
        found = fs.find(root, detail=True)
    except Exception as error:  # each store has its own errors
        raise CatflapError(
            f"{url} cannot be listed: {first_line(error)}.", "Check the address and credentials."
        ) from error
    inside = {name: name.removeprefix(root).lstrip("/") for name in sorted(found)}
    kept = [name for name, path in inside.items() if not within_hidden(path)]
    return Listing(
        _reference(fs, name, found[name], role, label)
        for name, (role, label) in zip(kept, by_folder([inside[name] for name in kept]), strict=True)
    )


def read_object(url: str, max_bytes: int) -> bytes:
    """The bytes of one object; BadPhoto when it cannot be read or is too large."""
    try:
        fs, path = _store(url)
        with fs.open(path, "rb") as file:
            data = cast("bytes", file.read(max_bytes + 1))
    except Exception as error:  # each store has its own errors
        raise BadPhoto(
            "unreadable", f"{url} cannot be read: {first_line(error)}.", "Check the address and credentials."
        ) from error
    if len(data) > max_bytes:
        raise BadPhoto("too_many_bytes", f"{url} has over {max_bytes} bytes.", "Save a smaller copy.")
    return data


def open_object(url: str, *, ahead: bool = True) -> BinaryIO:
    """An archive in a store as a file that can seek; CatflapError when it cannot be opened or read.

    `ahead` fetches megabytes beyond each read, for who reads from front to back; else what is read alone.
    """
    fs, path = _store(url)
    try:
        file = fs.open(path, "rb") if ahead else fs.open(path, "rb", cache_type="none")
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 1))
        file.read(1)  # which a server that only hands out whole files refuses
        file.seek(0)
    except Exception as error:  # each store has its own errors
        raise _unreachable(url, error) from error
    return cast("BinaryIO", _Object(file, url))


class _Object(io.RawIOBase):
    """An open object. A refused read becomes CatflapError, because archive readers know no such error."""

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url

    def read(self, size: int = -1) -> bytes:
        try:
            return cast("bytes", self._file.read(size))
        except (OverflowError, MemoryError):  # a damaged archive makes up sizes
            raise
        except Exception as error:  # each store has its own errors
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


def _reference(fs: Any, name: str, info: dict[str, Any], role: str, label: str) -> Reference:
    changed = str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created"))
    modified = int.from_bytes(hashlib.sha256(changed.encode()).digest()[:7], "big")
    known = {"role": role, "bytes": int(info.get("size") or 0), "modified": modified}
    return reference(fs.unstrip_protocol(name), label, fault="" if label else "no_label", **known)


@lru_cache(maxsize=8)
def _filesystem(protocol: str) -> Any:
    import fsspec  # type: ignore[import-untyped]

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise CatflapError(
            f"{protocol}:// is not read here: {error}.",
            f"Install fsspec's package for {protocol}, such as s3fs for s3.",
        ) from error


def _store(url: str) -> tuple[Any, str]:
    fs = _filesystem(url.partition("://")[0])
    return fs, str(fs._strip_protocol(url)).rstrip("/")
