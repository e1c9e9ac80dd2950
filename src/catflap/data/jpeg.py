"""Strict, scaled grey decoding of JPEGs; the one file that owns simplejpeg."""

from __future__ import annotations

import simplejpeg

from catflap.errors import BadPhoto
from catflap.image import PhotoInfo, Pixels

GREYABLE = ("L", "RGB")


def scaled_grey(data: bytes, info: PhotoInfo, side: int) -> tuple[Pixels, tuple[float, float]]:
    """The luma of a whole JPEG as stored, uint8 (height, width), at 1/8 to 8/8 of its size.

    Both sides keep at least `side` pixels where the photo has them. The second value is the height
    and width that the photo covers in these pixels, before they were rounded up. Every warning of
    the decoder is an error: BadPhoto when the data ends early ("truncated") or is spoilt ("damaged").
    """
    try:
        grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=side, min_width=side, strict=True)[:, :, 0]
    except ValueError as error:
        reason = "truncated" if "premature end" in str(error).lower() else "damaged"
        raise BadPhoto(reason, f"The photo is {reason}: {error}.", "Copy the file again.") from error
    height, width = grey.shape
    eighths = next(
        (n for n in range(1, 9) if (-(-info.height * n // 8), -(-info.width * n // 8)) == (height, width)), 8
    )
    return grey, (info.height * eighths / 8, info.width * eighths / 8)
