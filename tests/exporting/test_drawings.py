"""The drawn golden photos take every path of the Frame between them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from catflap.exporting.drawings import drawn_photos, scene
from catflap.image import Frame, inspect, read_pixels

PHOTOS = drawn_photos()
ABOUT = [inspect(photo) for photo in PHOTOS]
IMAGES = [Image.open(BytesIO(photo)) for photo in PHOTOS]


def test_they_are_the_same_each_time() -> None:
    assert drawn_photos() == PHOTOS
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
    differs = [not np.array_equal(read_pixels(photo, frame), read_pixels(photo, full)) for photo in PHOTOS]
    assert any(differs)
    assert not all(differs)
    assert any(max(about.width, about.height) < 2 * side for about in ABOUT)
    assert any(min(about.width, about.height) > side for about in ABOUT)


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
