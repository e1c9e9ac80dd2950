"""Object stores and web addresses; the one file that owns fsspec."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, BinaryIO, cast

from catflap.data.sources.listing import Listing, Reference, by_folder, hidden, reference
from catflap.errors import BadPhoto, CatflapError, why

MAX_BYTES = 64 << 20


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
            f"{url} cannot be listed: {why(error)}.", "Check the address and credentials."
        ) from error
    kept = {name: info for name, info in sorted(found.items()) if not hidden(name.rsplit("/", 1)[-1])}
    inside = [name.removeprefix(root).lstrip("/") for name in kept]
    return Listing(
        _reference(fs, name, info, role, label)
        for (name, info), (role, label) in zip(kept.items(), by_folder(inside), strict=True)
    )


def read_object(url: str, max_bytes: int) -> bytes:
    """The bytes of one object; BadPhoto when it cannot be read or is too large."""
    try:
        fs, path = _store(url)
        with fs.open(path, "rb") as file:
            data = cast("bytes", file.read(max_bytes + 1))
    except Exception as error:  # each store has its own errors
        raise BadPhoto(
            "unreadable", f"{url} cannot be read: {why(error)}.", "Check the address and credentials."
        ) from error
    if len(data) > max_bytes:
        raise BadPhoto("too_many_bytes", f"{url} has over {max_bytes} bytes.", "Save a smaller copy.")
    return data


def open_object(url: str) -> BinaryIO:
    """An object as a file that can seek."""
    fs, path = _store(url)
    return cast("BinaryIO", fs.open(path, "rb"))


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
        raise CatflapError(f"{protocol}:// is not read here: {error}.", "Install what it names.") from error


def _store(url: str) -> tuple[Any, str]:
    fs = _filesystem(url.partition("://")[0])
    return fs, str(fs._strip_protocol(url)).rstrip("/")
