"""JPEGs that lack data are refused; those with surplus bytes have the same pixels as without."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from catflap.errors import BadPhoto
from catflap.exporting.golden_cases import scene
from catflap.image import ZEROED, Frame, Pixels, encode, may_lack_data, read_pixels

FRAME = Frame(48, 32)
KINDS: dict[str, dict[str, object]] = {
    "baseline": {"quality": 95},
    "coarse": {"quality": 60},
    "optimised": {"quality": 80, "optimize": True},
    "progressive": {"quality": 85, "progressive": True},
    "restarts": {"quality": 85, "restart_marker_rows": 1},
}


def grainy(width: int = 400, height: int = 300) -> Pixels:
    grain = np.random.default_rng(3).integers(-12, 13, (height, width, 1))
    return np.clip(scene(2, width, height).astype(int) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=KINDS)
def photo(request: pytest.FixtureRequest) -> bytes:
    return encode(grainy(), "JPEG", **KINDS[request.param])


def zeroed(photo: bytes, start: int, count: int) -> bytes:
    return photo[:start] + bytes(count) + photo[start + count :]


@pytest.mark.parametrize("surplus", [bytes(16), bytes(4096), bytes(range(1, 200)), b"\xff" * 16])
def test_surplus_bytes_before_the_end_marker_change_nothing(photo: bytes, surplus: bytes) -> None:
    padded = photo[:-2] + surplus + photo[-2:]
    assert np.array_equal(read_pixels(padded, FRAME), read_pixels(photo, FRAME))


@pytest.mark.parametrize("tail", [b"\xff\xd9", b"trailer" * 99, bytes(5000)])
def test_bytes_after_the_end_marker_change_nothing(photo: bytes, tail: bytes) -> None:
    assert np.array_equal(read_pixels(photo + tail, FRAME), read_pixels(photo, FRAME))


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["baseline", "coarse", "optimised", "restarts"])
def test_a_run_of_zeros_inside_is_missing_data(kind: str, place: float) -> None:
    photo = encode(grainy(), "JPEG", **KINDS[kind])
    with pytest.raises(BadPhoto, match="data is missing") as error:
        read_pixels(zeroed(photo, int(place * len(photo)), 600), FRAME)
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_a_truncated_photo_with_a_new_end_marker_is_missing_data(photo: bytes, share: float) -> None:
    with pytest.raises(BadPhoto, match="truncated"):
        read_pixels(photo[: int(share * len(photo))] + b"\xff\xd9", FRAME)


@pytest.mark.parametrize("height", [300, 305], ids=["whole units", "one row of the last units"])
def test_bytes_that_were_cut_out_are_missing_data(height: int) -> None:
    photo = encode(grainy(height=height), "JPEG", quality=90)
    middle = len(photo) // 2
    for frame in (FRAME, Frame(288, 288)):
        with pytest.raises(BadPhoto, match="data is missing"):
            read_pixels(photo[:middle] + photo[middle + 3000 :], frame)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("kind", KINDS)
def test_flat_photos_are_whole(kind: str, level: int) -> None:
    """Their data may be nothing but zeros, and they may end in the grey that stands for missing blocks."""
    flat = np.full((1200, 1600, 3), level, np.uint8)
    flat[:300, :400] = grainy()
    assert read_pixels(encode(flat, "JPEG", **KINDS[kind]), FRAME).shape == (32, 48, 3)


def test_a_flat_grey_photo_is_whole_where_zeros_are_codes_of_its_tables() -> None:
    """As an optimised table has them: the data goes on after thousands of zeros."""
    flat = np.full((1200, 1600), 200, np.uint8)
    flat[:300, :400] = flat[900:, :400] = grainy()[:, :, 1]
    photo = encode(flat, "JPEG", quality=80, optimize=True)
    assert ZEROED in photo[: len(photo) // 2 + 9999]
    assert read_pixels(photo, FRAME).shape == (32, 48, 3)


def test_a_whole_photo_of_each_kind_shows_no_sign_of_missing_data(photo: bytes) -> None:
    """Else it is decoded thrice."""
    assert not may_lack_data(photo)


def test_the_scans_of_a_progressive_photo_come_in_any_order() -> None:
    """Here the last bit of each block's mean comes last of all, and not before those of its details."""
    photo = encode(grainy(), "JPEG", **KINDS["progressive"])
    start = photo.index(bytes([0xFF, 0xDA, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 0, 0x10]))
    end = photo.index(b"\xff\xc4", start)
    moved = photo[:start] + photo[end:-2] + photo[start:end] + photo[-2:]
    assert np.array_equal(read_pixels(moved, FRAME), read_pixels(photo, FRAME))
    assert not may_lack_data(moved)
    assert may_lack_data(photo[:start] + photo[end:])


def test_zeros_in_a_header_are_no_sign_of_damage() -> None:
    comment = b"\xff\xfe\x01\x00" + bytes(254)
    photo = encode(grainy(), "JPEG", quality=90)
    padded = photo[:2] + comment + photo[2:]
    assert ZEROED in padded
    assert np.array_equal(read_pixels(padded, FRAME), read_pixels(photo, FRAME))


def test_the_verdict_does_not_depend_on_the_frame() -> None:
    photo = encode(grainy(1600, 1200), "JPEG", quality=90)
    spoilt = zeroed(photo, len(photo) // 2, 2000)
    for frame in (Frame(32, 32), Frame(288, 288), Frame(288, 288, decode="full")):
        assert read_pixels(photo, frame).shape == (frame.height, frame.width, 3)
        with pytest.raises(BadPhoto, match="data is missing"):
            read_pixels(spoilt, frame)


def test_a_photo_of_many_thousand_zeros_is_decided_in_a_few_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confirming a sign of damage costs five more decodes at most, however many signs there are."""
    opened = []
    plain = Image.open

    def counted(file: io.BytesIO, **options: object) -> Image.Image:
        opened.append(file)
        return plain(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", counted)
    photo = encode(np.full((600, 800, 3), 255, np.uint8), "JPEG", optimize=True, quality=80)
    spread = b"".join(ZEROED * 2 + b"\x11" for _ in range(500))
    with pytest.raises(BadPhoto):
        read_pixels(photo[:-200] + spread + photo[-2:], FRAME)
    assert len(opened) <= 6


def test_a_png_with_a_broken_data_stream_is_damaged() -> None:
    """Pillow decodes a PNG to its end for the EXIF after the pixels; what fails there must not be lost."""
    photo = encode(grainy(64, 64), "PNG")
    start = photo.index(b"IDAT")
    (length,) = struct.unpack(">I", photo[start - 4 : start])
    data = bytearray(photo[start + 4 : start + 4 + length])
    data[length // 2 : length // 2 + 40] = b"\xff" * 40
    checksum = struct.pack(">I", zlib.crc32(b"IDAT" + data))
    broken = photo[: start + 4] + bytes(data) + checksum + photo[start + 8 + length :]
    with pytest.raises(BadPhoto) as error:
        read_pixels(broken, FRAME)
    assert error.value.reason == "damaged"
