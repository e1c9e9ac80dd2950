"""The decode rule of JPEGs, component by component."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from catflap.exporting.golden_cases import scene
from catflap.image import Frame, Pixels, encode, read_pixels, thumbnail
from tests.image import reference

SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}
WIDTH, HEIGHT = 320, 256


def planes(across: int, down: int) -> tuple[Pixels, Pixels, Pixels]:
    """Three components that stay clear of 0 and 255, where clamping would blur the comparison."""
    random = np.random.default_rng(4)
    drawn = scene(2, WIDTH, HEIGHT) * 0.5 + 60 + random.integers(-9, 10, (HEIGHT, WIDTH, 3))
    y, cb, cr = (np.ascontiguousarray(drawn[..., place]).astype(np.uint8) for place in range(3))
    return y, cb[::down, ::across].copy(), cr[::down, ::across].copy()


def as_decoded(plane: Pixels) -> Pixels:
    """What a decoder gets of a component: the same samples through a grey JPEG."""
    return np.asarray(Image.open(io.BytesIO(encode(plane, "JPEG", quality=100))))


@pytest.mark.parametrize("kind", SUBSAMPLING)
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_scaled_jpeg_is_the_mean_of_its_samples(kind: str, scale: int) -> None:
    across, down = SUBSAMPLING[kind]
    parts = planes(across, down)
    photo = simplejpeg.encode_jpeg_yuv_planes(*parts, 100)
    decoded = [as_decoded(part) for part in parts]
    expected = reference.jfif_to_rgb(
        reference.component(decoded[0], scale, 1, 1),
        *(reference.component(part, scale, across, down) for part in decoded[1:]),
    )
    half = Frame(WIDTH // scale // 2, HEIGHT // scale // 2)
    assert reference.scale_of((WIDTH, HEIGHT), (half.width, half.height)) == scale
    got = read_pixels(photo, half).astype(int)
    shrunk = reference.resize(expected, half.width, half.height, "bilinear")
    assert np.abs(got - shrunk).max() <= 2


@pytest.mark.parametrize(("side", "scale"), [(143, 1), (144, 2), (287, 2), (288, 4), (575, 4), (576, 8)])
def test_at_least_twice_the_frame_remains(side: int, scale: int) -> None:
    frame = Frame(36, 20)
    assert reference.scale_of((side, 800), (36, 20)) == scale
    photo = encode(scene(1, side, 800), "JPEG", quality=90)
    image = Image.open(io.BytesIO(photo))
    image.draft(None, (side // scale, 800 // scale))
    assert image.size == (-(-side // scale), -(-800 // scale))
    assert np.array_equal(read_pixels(photo, frame), read_pixels(np.asarray(image), frame))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_photo_is_scaled_by_its_stored_sides(orientation: int) -> None:
    stored = scene(1, 400, 160)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0" + bytes([orientation]) + bytes(6)
    turned = encode(stored, "JPEG", quality=95, exif=exif)
    frame = Frame(40, 100)
    assert reference.scale_of((400, 160), (100, 40)) == 2
    got = read_pixels(turned, frame)
    plain = read_pixels(encode(stored, "JPEG", quality=95), Frame(100, 40))
    assert np.abs(got.astype(int) - reference.upright(plain, orientation)).max() <= 1


def test_a_thumbnail_may_be_larger_than_a_frame_and_never_than_its_photo() -> None:
    photo = encode(scene(1, 90, 60), "JPEG")
    sizes = {side: Image.open(io.BytesIO(thumbnail(photo, side))).size for side in (5000, 1500, 30)}
    assert sizes == {5000: (90, 60), 1500: (90, 60), 30: (30, 20)}


def test_full_decodes_everything() -> None:
    photo = encode(scene(5, 640, 480), "JPEG", quality=70)
    full = read_pixels(np.asarray(Image.open(io.BytesIO(photo))), Frame(32, 32))
    assert np.array_equal(read_pixels(photo, Frame(32, 32, decode="full")), full)
    assert not np.array_equal(read_pixels(photo, Frame(32, 32)), full)
