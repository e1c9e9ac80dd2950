"""JPEGs are cut out of a stream whole, wherever its chunks end."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from catflap.exporting.golden_cases import scene
from catflap.image import encode
from catflap.live.frame_sources import Splitter
from catflap.live.frames import SourceLost

PHOTOS = [encode(scene(seed, 90, 60), "JPEG", quality=80, progressive=seed == 1) for seed in range(3)]
HEAD = b"--cut\r\nContent-Type: image/jpeg\r\n\r\n"


def split(data: bytes, size: int, limit: int = 1 << 20) -> list[bytes]:
    splitter = Splitter(limit)
    return [one for start in range(0, len(data), size) for one in splitter.feed(data[start : start + size])]


def with_thumbnail() -> bytes:
    """A JPEG that has a whole JPEG in its EXIF, as cameras write it."""
    inner = PHOTOS[0]
    exif = b"Exif\x00\x00" + inner
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    return PHOTOS[2][:2] + segment + PHOTOS[2][2:]


@given(st.integers(1, 5000))
def test_the_chunks_do_not_matter(size: int) -> None:
    assert split(b"".join(PHOTOS), size) == PHOTOS
    assert split(b"".join(HEAD + photo + b"\r\n" for photo in PHOTOS), size) == PHOTOS


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_thumbnail_inside_does_not_end_a_photo(size: int) -> None:
    photo = with_thumbnail()
    found = split(photo + PHOTOS[1], size)
    assert found == [photo, PHOTOS[1]]
    assert Image.open(io.BytesIO(found[0])).size == (90, 60)


def test_restart_markers_and_fill_bytes_do_not_end_a_photo() -> None:
    photo = encode(np.asarray(scene(5, 200, 150)), "JPEG", quality=95, restart_marker_blocks=4)
    assert b"\xff\xd0" in photo
    filled = photo.replace(b"\xff\xda", b"\xff\xff\xff\xda", 1)
    assert split(photo + filled, 333) == [photo, filled]


def test_a_photo_that_was_cut_off_is_skipped_or_ends_at_the_next_one() -> None:
    found = split(PHOTOS[0][:700] + PHOTOS[1] + PHOTOS[2], 64)
    assert found == PHOTOS[1:]


@given(st.binary(max_size=3000), st.integers(1, 500))
def test_garbage_never_breaks_it(garbage: bytes, size: int) -> None:
    splitter = Splitter(1 << 20)
    for start in range(0, len(garbage), size):
        splitter.feed(garbage[start : start + size])


def test_garbage_between_is_skipped() -> None:
    noise = np.random.default_rng(1).integers(0, 255, 5000, np.uint8).tobytes().replace(b"\xff\xd8", b"..")
    assert split(noise + PHOTOS[0] + noise + PHOTOS[1], 100) == PHOTOS[:2]


@pytest.mark.slow
def test_an_endless_frame_is_refused() -> None:
    with pytest.raises(SourceLost, match="more than 5000 bytes"):
        split(PHOTOS[0][:700] + b"\x00" * 10_000, 512, 5000)
