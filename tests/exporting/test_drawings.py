"""The drawn golden photos take every path of the Frame between them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from catflap.exporting.export import PIXEL_TOLERANCE
from catflap.exporting.golden_cases import NEVER_SCALED, drawn_photos, large_scene, scene
from catflap.image import Frame, encode, inspect, read_pixels
from tests.matrix import mostly_slow

PHOTOS = drawn_photos()
ABOUT = [inspect(photo) for photo in PHOTOS]
IMAGES = [Image.open(BytesIO(photo)) for photo in PHOTOS]


def test_they_are_the_same_each_time() -> None:
    assert drawn_photos() == drawn_photos(Frame()) == PHOTOS
    assert len(set(PHOTOS)) == len(PHOTOS)


def test_the_first_is_the_photo_that_is_timed() -> None:
    assert (ABOUT[0].width, ABOUT[0].height, ABOUT[0].format, ABOUT[0].mode) == (500, 375, "JPEG", "RGB")


def test_they_cover_formats_modes_and_orientation() -> None:
    assert {about.format for about in ABOUT} == {"JPEG", "PNG", "WEBP"}
    assert {about.mode for about in ABOUT} >= {"RGB", "L", "CMYK", "RGBA", "P"}
    assert any(about.mode.startswith("I") for about in ABOUT), "16 bits"
    assert any(about.orientation == 6 for about in ABOUT)
    assert any("icc_profile" in image.info for image in IMAGES)
    assert any("transparency" in image.info for image in IMAGES)
    assert any(image.info.get("progressive") for image in IMAGES)
    assert any(about.width > about.height for about in ABOUT)
    assert any(about.width < about.height for about in ABOUT)


@pytest.mark.parametrize("side", [64, 224, 288, 320])
def test_they_cover_scaled_decoding_enlarging_and_shrinking(side: int) -> None:
    frame, full = Frame(side, side), Frame(side, side, decode="full")
    photos = drawn_photos(frame)
    differs = [not np.array_equal(read_pixels(photo, frame), read_pixels(photo, full)) for photo in photos]
    assert any(differs)
    assert not all(differs)
    about = [inspect(photo) for photo in photos]
    assert any(max(one.width, one.height) < 2 * side for one in about)
    assert any(min(one.width, one.height) > side for one in about)


SQUARE = (32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 288, 299, 320, 352, 384, 416, 448, 512, 576, 640)
OBLONG = ((320, 96), (96, 320), (640, 352), (224, 299), (32, 640), (640, 33))


SCALES = [(96, 8), (128, 8), (224, 4), (256, 4), (320, 2), (640, 2)]


@pytest.mark.parametrize("size", mostly_slow([*((side, side) for side in SQUARE), *OBLONG], 5), ids=str)
def test_a_device_that_does_not_decode_scaled_shows(size: tuple[int, int]) -> None:
    """The other way round as well, and with either filter, by far more than decoders may differ."""
    photo = drawn_photos(Frame(*size))[2]
    assert len(photo) < 60_000
    for fit in ("squash", "crop"):
        for filter in ("bilinear", "bicubic"):
            scaled, full = (
                read_pixels(photo, Frame(*size, fit, filter, decode)).astype(int)
                for decode in ("scaled", "full")
            )
            assert np.abs(scaled - full).max() >= 2.5 * PIXEL_TOLERANCE, (fit, filter)


@pytest.mark.parametrize(
    ("side", "scale"),
    mostly_slow([(96, 8), (128, 8), (224, 4), (256, 4), (320, 2), (640, 2)], 2, several=True),
)
def test_a_mean_of_pixels_is_as_good_as_a_scaled_decode(side: int, scale: int) -> None:
    """As a browser has it, which decodes at full size only: the colours of the large photo are soft."""
    photo = drawn_photos(Frame(side, side))[2]
    whole = np.asarray(Image.open(BytesIO(photo)).convert("RGB"))
    high, wide = (-(-length // scale) * scale - length for length in whole.shape[:2])
    padded = np.pad(whole, ((0, high), (0, wide), (0, 0)), "edge").astype(np.float64)
    blocks = padded.reshape(len(padded) // scale, scale, -1, scale, 3)
    means = np.floor(blocks.mean((1, 3)) + 0.5).astype(np.uint8)
    frame = Frame(side, side)
    difference = np.abs(read_pixels(means, frame).astype(int) - read_pixels(photo, frame))
    assert difference.max() <= PIXEL_TOLERANCE / 2


def test_the_large_photo_is_never_too_large() -> None:
    for width, height in ((2048, 8), (8, 2048), (8, 8), (790, 790)):
        frame = Frame(width, height)
        photo = encode(large_scene(frame), "JPEG")
        assert read_pixels(photo, frame).shape == (height, width, 3)
        about = inspect(photo)
        assert 4 * width < about.width
        assert 4 * height < about.height
        assert about.width * about.height <= 10_000_000
    for frame in (Frame(2048, 2048), Frame(640, 640, max_pixels=2_500_000)):
        assert large_scene(frame).shape == (*NEVER_SCALED[::-1], 3)


@pytest.mark.parametrize("number", range(len(PHOTOS)))
def test_a_wrong_step_shows(number: int) -> None:
    """No photo is flat or looks alike when mirrored, turned or with red and blue swapped (but for grey)."""
    pixels = read_pixels(PHOTOS[number], Frame(64, 64)).astype(int)
    others = [pixels[:, ::-1], pixels[::-1], pixels.transpose(1, 0, 2)]
    if ABOUT[number].mode not in ("L", "I;16"):
        others.append(pixels[..., ::-1])
    assert min(np.abs(pixels - other).mean() for other in others) > 5


def test_scenes_differ_by_seed_and_have_their_size() -> None:
    assert scene(1, 30, 20).shape == (20, 30, 3)
    assert scene(1, 30, 20).dtype == np.uint8
    assert np.abs(scene(1, 30, 20).astype(int) - scene(2, 30, 20)).mean() > 5
