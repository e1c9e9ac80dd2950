"""The bytes of a photo, wherever it lies."""

from __future__ import annotations

from catflap.data.sources.archives import read_member
from catflap.data.sources.stores import is_url, read_object
from catflap.image import read_file


def read_photo(uri: str, offset: int, length: int, max_bytes: int, crc: int | None = None) -> bytes:
    """The bytes of a photo that a Manifest names; BadPhoto when it cannot be read.

    `offset`, `length` and `crc` count for photos in archives; files and objects are read as they are now.
    """
    if offset >= 0:
        return read_member(uri, offset, length, max_bytes, crc)
    return read_object(uri, max_bytes) if is_url(uri) else read_file(uri, max_bytes)
