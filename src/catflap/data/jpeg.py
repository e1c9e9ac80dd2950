"""Strict, scaled decoding of JPEGs; the one file that owns simplejpeg."""

from __future__ import annotations

import simplejpeg

from catflap.errors import BadPhoto
from catflap.image import Frame, PhotoInfo, Pixels

GREYABLE = ("L", "RGB")
APP1, APP2, SCAN = 0xE1, 0xE2, 0xDA  # markers: EXIF or XMP, ICC or MPO, the pixels begin


def scaled_grey(data: bytes, info: PhotoInfo, side: int) -> tuple[Pixels, tuple[float, float]]:
    """The luma of a whole JPEG as stored, uint8 (height, width), at 1/8 to 8/8 of its size.

    Both sides keep at least `side` pixels where the photo has them. The second value is the height
    and width that the photo covers in these pixels, before they were rounded up. Every warning of
    the decoder is an error: BadPhoto when the data ends early ("truncated") or is spoilt ("damaged").
    """
    grey = _decode(data, "GRAY", side, side)[:, :, 0]
    height, width = grey.shape
    eighths = next(
        (n for n in range(1, 9) if (-(-info.height * n // 8), -(-info.width * n // 8)) == (height, width)), 8
    )
    return grey, (info.height * eighths / 8, info.width * eighths / 8)


def plain_rgb(data: bytes, frame: Frame) -> Pixels | None:
    """What image.decode gives, bit for bit, in two thirds of its time; None when it needs more than that.

    That is a file which is no JPEG in grey or YCbCr, or has an orientation or a colour profile. Raises
    BadPhoto as scaled_grey does.
    """
    if not _is_plain(data):
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError as error:
        raise _bad(error) from error
    if colour not in ("YCbCr", "Gray"):
        return None
    share = 1
    while frame.decode == "scaled" and share < 8:
        if height < 4 * share * frame.height or width < 4 * share * frame.width:
            break
        share *= 2
    return _decode(data, "RGB", -(-height // share), -(-width // share))


def _decode(data: bytes, colours: str, height: int, width: int) -> Pixels:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colours, min_height=height, min_width=width, strict=True
        )
    except ValueError as error:
        raise _bad(error) from error
    return pixels


def _bad(error: ValueError) -> BadPhoto:
    reason = "truncated" if "premature end" in str(error).lower() else "damaged"
    return BadPhoto(reason, f"The photo is {reason}: {error}.", "Copy the file again.")


def _is_plain(data: bytes) -> bool:
    """Whether a JPEG's header holds nothing that turns it or changes its colours: no APP1 and no APP2."""
    place = 2
    while data[:2] == b"\xff\xd8" and data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker = data[place + 1]
        if marker in (APP1, APP2, SCAN):
            return marker == SCAN
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])
    return False
