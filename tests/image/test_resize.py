"""image.py against the specification, written a second time in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catflap.image import FILTERS, Frame, Pixels, encode, read_pixels
from tests.image import reference

SIDES = st.integers(1, 90) | st.sampled_from([127, 128, 255, 257, 511])
FRAMES = st.integers(8, 64)


def noise(seed: int, height: int, width: int, channels: int = 3) -> Pixels:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, channels), np.uint8)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 99), SIDES, SIDES, FRAMES, FRAMES, st.sampled_from(sorted(FILTERS)))
def test_squash_is_the_specified_resize(
    seed: int, height: int, width: int, rows: int, columns: int, filter: str
) -> None:
    pixels = noise(seed, height, width)
    got = read_pixels(pixels, Frame(columns, rows, "squash", filter))
    assert np.array_equal(got, reference.resize(pixels, columns, rows, filter))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 99), SIDES, SIDES, FRAMES, FRAMES)
def test_crop_is_the_specified_part(seed: int, height: int, width: int, rows: int, columns: int) -> None:
    pixels = noise(seed, height, width)
    got = read_pixels(pixels, Frame(columns, rows, "crop"))
    part = reference.crop(pixels, columns, rows)
    assert np.array_equal(got, reference.resize(part, columns, rows, "bilinear"))


@pytest.mark.parametrize("filter", FILTERS)
def test_a_large_photo_is_exact_too(filter: str) -> None:
    pixels = noise(7, 1201, 1603)
    got = read_pixels(pixels, Frame(288, 224, "squash", filter))
    assert np.array_equal(got, reference.resize(pixels, 288, 224, filter))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 254, 255])
def test_a_flat_photo_stays_flat(value: int) -> None:
    flat = np.full((301, 77, 3), value, np.uint8)
    for filter in FILTERS:
        assert np.unique(read_pixels(flat, Frame(64, 48, "squash", filter))).tolist() == [value]


@pytest.mark.parametrize("shape", [(1, 1), (1, 65_535), (65_535, 1), (2, 3000)])
def test_the_thinnest_photos_have_pixels(shape: tuple[int, int]) -> None:
    photo = encode(np.full(shape, 9, np.uint8), "PNG")
    for fit in ("squash", "crop"):
        assert np.unique(read_pixels(photo, Frame(16, 24, fit))).tolist() == [9]


def test_a_photo_of_the_frame_size_is_not_touched() -> None:
    pixels = noise(3, 24, 16)
    for fit in ("squash", "crop"):
        assert np.array_equal(read_pixels(encode(pixels, "PNG"), Frame(16, 24, fit)), pixels)


def test_grey_arrays_are_three_equal_channels() -> None:
    grey = noise(5, 40, 50, 1)[..., 0]
    assert np.array_equal(read_pixels(grey, Frame(32, 32)), read_pixels(np.dstack([grey] * 3), Frame(32, 32)))
