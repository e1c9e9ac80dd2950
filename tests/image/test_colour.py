"""Every kind of stored pixel, turned into RGB as docs/concepts/frame.md says, against plain NumPy."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from catflap.errors import BadPhoto
from catflap.exporting.golden_cases import scene, wide_gamut_profile
from catflap.image import MAX_PROFILE, Frame, Pixels, encode, inspect, read_pixels, thumbnail
from tests.image import reference
from tests.image.make_golden import exif, ways, xmp

WIDTH, HEIGHT = 24, 16
SAME = Frame(WIDTH, HEIGHT)  # of the photos' own size: no resize


def noise(channels: int) -> Pixels:
    return np.random.default_rng(channels).integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_of(bit_depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for the kinds that Pillow does not write."""
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bit_depth, colour_type, 0, 0, 0)
    per_row = len(rows) // HEIGHT
    filtered = b"".join(b"\0" + rows[row * per_row : (row + 1) * per_row] for row in range(HEIGHT))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def test_transparency_is_laid_on_white() -> None:
    rgba = noise(4)
    for format in ("PNG", "TIFF"):
        assert np.array_equal(read_pixels(encode(rgba, format), SAME), reference.on_white(rgba))
    assert np.array_equal(read_pixels(Image.fromarray(rgba), SAME), reference.on_white(rgba))


def test_every_colour_under_every_alpha() -> None:
    colour, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.dstack([colour, colour, colour, alpha])
    got = read_pixels(encode(rgba, "PNG"), Frame(256, 256))
    assert np.array_equal(got, reference.on_white(rgba))


def test_grey_with_transparency() -> None:
    grey = noise(2)
    rgba = np.dstack([grey[..., :1]] * 3 + [grey[..., 1:]])
    photo = png_of(8, 4, grey.tobytes())
    assert np.array_equal(read_pixels(photo, SAME), reference.on_white(rgba))


def test_16_bits_are_cut_to_8() -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
    expected = np.dstack([(grey >> 8).astype(np.uint8)] * 3)
    pgm = b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + grey.astype(">u2").tobytes()
    for photo in (encode(grey, "PNG"), encode(grey, "TIFF"), encode(grey, "JPEG2000"), pgm):
        assert np.array_equal(read_pixels(photo, SAME), expected)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4)])
def test_16_bit_colour(colour_type: int, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, channels), np.uint16)
    got = read_pixels(png_of(16, colour_type, deep.astype(">u2").tobytes()), SAME)
    shallow = (deep >> 8).astype(np.uint8)
    assert np.array_equal(got, shallow if channels == 3 else reference.on_white(shallow))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_spans_black_to_white(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 1 << bits, (HEIGHT, WIDTH))
    packed = np.packbits(((values[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(HEIGHT, -1), axis=1)
    expected = (values * (255 // ((1 << bits) - 1))).astype(np.uint8)
    assert np.array_equal(read_pixels(png_of(bits, 0, packed.tobytes()), SAME), np.dstack([expected] * 3))


def test_palette_with_and_without_transparency() -> None:
    index, palette, alpha = noise(1)[..., 0], noise(3).reshape(-1, 3)[:256], noise(1).reshape(-1)[:256]
    palette = np.resize(palette, (256, 3))
    plain = png_of(8, 3, index.tobytes(), (b"PLTE", palette.tobytes()))
    assert np.array_equal(read_pixels(plain, SAME), palette[index])
    alpha = np.resize(alpha, 256)
    clear = png_of(8, 3, index.tobytes(), (b"PLTE", palette.tobytes()), (b"tRNS", alpha.tobytes()))
    expected = reference.on_white(np.dstack([palette[index], alpha[index]]))
    assert np.array_equal(read_pixels(clear, SAME), expected)


def test_a_colour_key_becomes_white() -> None:
    pixels = noise(3)
    key = pixels[3, 5]
    photo = png_of(8, 2, pixels.tobytes(), (b"tRNS", key.astype(">u2").tobytes()))
    expected = np.where((pixels == key).all(axis=2, keepdims=True), 255, pixels)
    assert np.array_equal(read_pixels(photo, SAME), expected)


def test_cmyk() -> None:
    cmyk = noise(4)
    photo = saved(Image.fromarray(cmyk, "CMYK"), "TIFF")
    assert np.array_equal(read_pixels(photo, SAME), reference.cmyk_to_rgb(cmyk))


def test_a_cmyk_jpeg_is_inverted_with_and_without_the_adobe_marker() -> None:
    """Both kinds are read as Adobe writes them, 255 for no ink."""
    flat = np.tile(np.array([10, 200, 60, 90], np.uint8), (HEIGHT, WIDTH, 1))
    with_marker = saved(Image.fromarray(flat, "CMYK"), "JPEG", quality=100)
    start = with_marker.index(b"\xff\xee")
    without = with_marker[:start] + with_marker[start + 2 + with_marker[start + 3] :]
    assert b"Adobe" in with_marker
    assert b"Adobe" not in without
    for photo in (with_marker, without):
        difference = read_pixels(photo, SAME).astype(int) - reference.cmyk_to_rgb(flat)
        assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format(format: str, orientation: int) -> None:
    stored = scene(1, WIDTH, HEIGHT)
    options = {"lossless": True} if format == "WEBP" else {} if format == "TIFF" else {"quality": 100}
    tag = exif(orientation) if format in ("JPEG", "WEBP", "AVIF") else exif(orientation)[6:]
    plain = read_pixels(encode(stored, format, **options), SAME)
    expected = reference.upright(plain, orientation)
    photo = encode(stored, format, exif=tag, **options)
    frame = Frame(expected.shape[1], expected.shape[0])
    for given in (photo, Image.open(io.BytesIO(photo))):
        assert np.array_equal(read_pixels(given, frame), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_to_tell_an_orientation(orientation: int) -> None:
    stored = scene(1, WIDTH, HEIGHT)
    upright = {way: read_pixels(photo, SAME) for way, photo in ways(stored, 1).items()}
    for way, photo in ways(stored, orientation).items():
        expected = reference.upright(upright[way], 1 if way == "jpeg_exif_byte" else orientation)
        frame = Frame(expected.shape[1], expected.shape[0])
        assert np.array_equal(read_pixels(photo, frame), expected), way


@pytest.mark.parametrize("code", [2, 5, 7, 10, 11, 12])
def test_an_orientation_that_is_no_whole_number_is_upright(code: int) -> None:
    """ASCII, UNDEFINED, fractions and floats, each as near to 6 as it comes."""
    size, value = {
        2: (2, b"6\0"),
        5: (1, struct.pack(">II", 6, 1)),
        7: (1, b"\6"),
        10: (1, struct.pack(">ii", 6, 1)),
        11: (1, struct.pack(">f", 6)),
        12: (1, struct.pack(">d", 6)),
    }[code]
    entry = struct.pack(">HHI", 0x0112, code, size) + (
        value.ljust(4, b"\0") if len(value) <= 4 else b"\0\0\0\x1a"
    )
    tag = b"MM\0*\0\0\0\x08\0\1" + entry + bytes(4) + (value if len(value) > 4 else b"")
    pixels = noise(3)
    photo = encode(pixels, "PNG", exif=tag)
    assert np.array_equal(read_pixels(photo, SAME), pixels)
    assert inspect(photo).orientation == 1


def test_the_boxes_of_an_avif_turn_it_and_its_xmp_does_not() -> None:
    pixels = scene(1, WIDTH, HEIGHT)
    plain = read_pixels(encode(pixels, "AVIF", quality=90), SAME)
    assert np.array_equal(read_pixels(encode(pixels, "AVIF", quality=90, xmp=xmp(3)), SAME), plain)
    both = encode(pixels, "AVIF", quality=90, exif=exif(3), xmp=xmp(2))
    assert np.array_equal(read_pixels(both, SAME), reference.upright(plain, 3))


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_out_of_range_is_upright(value: int) -> None:
    pixels = noise(3)
    assert np.array_equal(read_pixels(encode(pixels, "PNG", exif=exif(value)[6:]), SAME), pixels)


def test_only_the_first_frame_of_an_animation_counts() -> None:
    first, second = scene(1, WIDTH, HEIGHT), scene(2, WIDTH, HEIGHT)
    frames = [Image.fromarray(first), Image.fromarray(second)]
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("TIFF", {})):
        still = read_pixels(saved(frames[0], format, **options), SAME)
        moving = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(read_pixels(moving, SAME), still)


def managed(pixels: Pixels, profile: bytes) -> Pixels:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(Image.fromarray(pixels), source, target)
    return np.asarray(converted)


def test_a_profile_is_converted_to_srgb() -> None:
    pixels, profile = noise(3), wide_gamut_profile()
    for format in ("PNG", "TIFF"):
        got = read_pixels(encode(pixels, format, icc_profile=profile), SAME)
        assert np.array_equal(got, managed(pixels, profile))
        assert not np.array_equal(got, pixels)


def test_a_profile_that_does_not_fit_is_ignored() -> None:
    pixels, profile = noise(3), wide_gamut_profile()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    too_large = profile + bytes(MAX_PROFILE)
    for unfit in (b"x", profile[:200], profile[:127], srgb, too_large):
        assert np.array_equal(read_pixels(encode(pixels, "TIFF", icc_profile=unfit), SAME), pixels)
    grey = pixels[..., 0]
    got = read_pixels(encode(grey, "PNG", icc_profile=profile), SAME)
    assert np.array_equal(got, np.dstack([grey] * 3))


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "HSV"])
def test_pixels_without_an_agreed_colour_are_refused(mode: str) -> None:
    with pytest.raises(BadPhoto, match=f"'{mode}'") as caught:
        read_pixels(Image.new(mode, (9, 9)), SAME)
    assert caught.value.reason == "unsupported_mode"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((8, 8, 4), np.float32),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
    ],
    ids=str,
)
def test_arrays_that_are_no_photo_are_refused(array: npt.NDArray[np.generic]) -> None:
    with pytest.raises(BadPhoto, match="is not a photo"):
        read_pixels(array, SAME)  # type: ignore[arg-type]


def test_an_array_with_alpha_is_laid_on_white_as_its_image_is() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (SAME.height, SAME.width, 4), np.uint8)
    pixels[0] = (10, 20, 30, 0)
    found = read_pixels(pixels, SAME)
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found, read_pixels(Image.fromarray(pixels), SAME))
    np.testing.assert_array_equal(found, read_pixels(encode(pixels, "PNG"), SAME))


def test_strided_and_read_only_arrays_are_fine() -> None:
    pixels = noise(3)
    turned = pixels[::-1, ::-1]
    turned.flags.writeable = False
    assert np.array_equal(read_pixels(turned, SAME), turned)


def test_a_photo_given_as_an_image_or_array_is_not_changed() -> None:
    image, pixels = Image.fromarray(scene(3, 200, 100)), scene(4, 200, 100)
    copies = image.copy(), pixels.copy()
    for photo in (image, pixels):
        read_pixels(photo, SAME)
        thumbnail(photo, 20)
    assert image.size == (200, 100)
    assert image.tobytes() == copies[0].tobytes()
    assert np.array_equal(pixels, copies[1])
