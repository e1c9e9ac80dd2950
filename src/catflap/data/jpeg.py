"""Strict, scaled grey decoding of JPEGs; the one file that owns simplejpeg."""

from __future__ import annotations

import numpy as np
import simplejpeg

from catflap.errors import BadPhoto
from catflap.image import Pixels, PhotoInfo

GREYABLE = ("L", "RGB")


def scaled_grey(data: bytes, info: PhotoInfo, side: int) -> Pixels:
    """The luma of a whole JPEG, upright, uint8 (height, width), at 1/1 to 1/8 of its size.

    Both sides keep at least `side` pixels where the photo has them. Every warning of the decoder
    is an error: BadPhoto when the data ends early ("truncated") or is spoilt ("damaged").
    """
    try:
        grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=side, min_width=side, strict=True)
    except ValueError as error:
        reason = "truncated" if "premature end" in str(error).lower() else "damaged"
        raise BadPhoto(reason, f"The photo is {reason}: {error}.", "Copy the file again.") from error
    return _upright(grey[:, :, 0], info.orientation)


def _upright(grey: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return np.ascontiguousarray(grey)
