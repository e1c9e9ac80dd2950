"""The bytes of a photo, wherever it lies."""

from __future__ import annotations

from catflap.image import read_file


def read_photo(uri: str, offset: int, length: int, max_bytes: int) -> bytes:
    """The bytes of a photo named by a Manifest; BadPhoto when it cannot be read."""
    return read_file(uri, max_bytes)
