"""Fast decoding of JPEGs for scans and training: simplejpeg, with every warning of libjpeg an error."""

from __future__ import annotations

import simplejpeg

from catflap.image import Frame, PhotoInfo, Pixels, may_lack_data

GREYABLE = ("L", "RGB")
APP1, APP2, SCAN = 0xE1, 0xE2, 0xDA  # markers: EXIF or XMP, ICC or MPO, start of scan


def scaled_grey(data: bytes, info: PhotoInfo, side: int) -> tuple[Pixels, tuple[float, float]]:
    """The luma of a whole JPEG as stored, uint8 (height, width), at 1/8 to 8/8 of its size.

    Both sides keep at least `side` pixels where the photo has them. The second value is the height
    and width that the photo covers in these pixels, before they were rounded up. Raises ValueError with
    the decoder's sentence where it warns or cannot decode; image.py has the last word on such a photo.
    """
    grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=side, min_width=side, strict=True)[:, :, 0]
    height, width = grey.shape
    eighths = next(
        (n for n in range(1, 9) if (-(-info.height * n // 8), -(-info.width * n // 8)) == (height, width)), 8
    )
    return grey, (info.height * eighths / 8, info.width * eighths / 8)


def warning_remark(error: ValueError) -> str:
    """What scan remarks about a JPEG that image.py decodes though this error arose; "" for a mere limit of
    simplejpeg, such as a rare chroma subsampling.
    """
    sentence = " ".join(str(error).split()).replace(";", ",")
    if "extraneous bytes before marker 0xd9" in sentence:
        return f"surplus_bytes: {sentence}"
    is_warning = sentence.startswith(
        ("Corrupt", "Premature", "Invalid", "Inconsistent", "Warning", "Unknown")
    )
    return f"decoder_warning: {sentence}" if is_warning else ""


def plain_rgb(data: bytes, frame: Frame) -> Pixels | None:
    """What image.decode gives, bit for bit, in two thirds of its time; None where only image.decode can.

    That is a file which is not a JPEG in grey or YCbCr, has an orientation or a colour profile, or makes
    the decoder warn or may lack data.
    """
    if not _is_plain(data) or may_lack_data(data):
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        if colour not in ("YCbCr", "Gray"):
            return None
        share = 1
        while frame.decode == "scaled" and share < 8:
            if height < 4 * share * frame.height or width < 4 * share * frame.width:
                break
            share *= 2
        size = {"min_height": -(-height // share), "min_width": -(-width // share)}
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True, **size)
    except ValueError:
        return None
    return pixels


def _is_plain(data: bytes) -> bool:
    """Whether a JPEG's header has neither EXIF nor a colour profile: no APP1 and no APP2."""
    place = 2
    while data[:2] == b"\xff\xd8" and data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker = data[place + 1]
        if marker in (APP1, APP2, SCAN):
            return marker == SCAN
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])
    return False
