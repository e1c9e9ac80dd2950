"""Make the golden vectors of the Frame anew: `python -m tests.image.make_golden`.

Needed only when the specification in docs/concepts/frame.md changes. Every photo is drawn here.
"""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from catflap.exporting.drawings import scene, wide_gamut_profile
from catflap.image import Frame, Pixels, encode, read_pixels

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "vectors"
FORMAT = {"format": "catflap frame vectors", "version": 1, "specification": "docs/concepts/frame.md"}
PLAIN = ("squash", "crop", "enlarge", "bicubic")  # upright RGB PNGs: nothing but crop and resize
FRAME = Frame(24, 16)
CROP = replace(FRAME, fit="crop")
CUBIC = replace(FRAME, filter="bicubic")
FULL = replace(FRAME, decode="full")
EXACT = 1  # grey levels; nothing but rounding may differ
LOSSY = 4  # decoders of lossy formats may differ in their arithmetic
MANAGED = 2  # so may colour management


def exif(orientation: int) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HHI", orientation, 0, 0)


def alpha(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    ramp = np.linspace(0, 255, width).astype(np.uint8)[None].repeat(height, 0)
    return np.dstack([pixels, ramp])


def vectors() -> dict[str, tuple[bytes, str, Frame, int]]:
    """Name -> the photo's bytes, its suffix, the frame, the tolerance."""
    wide, tall, small = scene(1, 90, 60), scene(2, 50, 80), scene(3, 30, 20)
    grey16 = (np.arange(60 * 40).reshape(40, 60) * 27).astype(np.uint16)
    made = {
        "squash_wide": (encode(wide, "PNG"), "png", FRAME, EXACT),
        "squash_tall": (encode(tall, "PNG"), "png", FRAME, EXACT),
        "squash_very_tall": (encode(scene(4, 20, 200), "PNG"), "png", FRAME, EXACT),
        "enlarge": (encode(scene(5, 9, 7), "PNG"), "png", FRAME, EXACT),
        "crop_wide": (encode(wide, "PNG"), "png", replace(CROP, width=16), EXACT),
        "crop_tall": (encode(tall, "PNG"), "png", CROP, EXACT),
        "crop_odd": (encode(scene(6, 37, 31), "PNG"), "png", replace(CROP, width=17, height=13), EXACT),
        "bicubic_down": (encode(wide, "PNG"), "png", CUBIC, EXACT),
        "bicubic_up": (encode(scene(7, 11, 8), "PNG"), "png", CUBIC, EXACT),
        "grey": (encode(wide[..., 0], "PNG"), "png", FRAME, EXACT),
        "grey_16_bit": (encode(grey16, "PNG"), "png", FRAME, EXACT),
        "black_and_white": (encode(wide[..., 1], "PNG", "1"), "png", FRAME, EXACT),
        "alpha": (encode(alpha(wide), "PNG"), "png", FRAME, EXACT),
        "palette": (encode(wide, "PNG", "P"), "png", FRAME, EXACT),
        "palette_transparency": (encode(wide, "PNG", "P", transparency=3), "png", FRAME, EXACT),
        "colour_key": (encode(small, "PNG", transparency=tuple(map(int, small[0, 0]))), "png", FRAME, EXACT),
        "gif": (encode(wide, "GIF", "P"), "gif", FRAME, EXACT),
        "bmp": (encode(small, "BMP"), "bmp", FRAME, EXACT),
        "tiff_cmyk": (encode(small, "TIFF", "CMYK"), "tiff", FRAME, EXACT),
        "tiff_orientation_6": (encode(wide, "TIFF", exif=exif(6)[6:]), "tiff", FRAME, EXACT),
        "webp_lossless": (encode(alpha(small), "WEBP", lossless=True, exact=True), "webp", FRAME, EXACT),
        "icc_wide_gamut": (encode(small, "PNG", icc_profile=wide_gamut_profile()), "png", FRAME, MANAGED),
        "icc_ignored": (encode(small, "PNG", icc_profile=b"no profile"), "png", FRAME, EXACT),
        "jpeg": (encode(small, "JPEG", quality=90), "jpg", FRAME, LOSSY),
        "jpeg_444": (encode(small, "JPEG", quality=90, subsampling=0), "jpg", FRAME, LOSSY),
        "jpeg_grey": (encode(small[..., 0], "JPEG", quality=90), "jpg", FRAME, LOSSY),
        "jpeg_cmyk": (encode(small, "JPEG", "CMYK", quality=90), "jpg", FRAME, LOSSY),
        "jpeg_full": (encode(scene(8, 200, 140), "JPEG", quality=80), "jpg", FULL, LOSSY),
        "jpeg_half": (encode(scene(8, 97, 65), "JPEG", quality=80), "jpg", FRAME, LOSSY),
        "jpeg_quarter": (encode(scene(8, 200, 140), "JPEG", quality=80), "jpg", FRAME, LOSSY),
        "jpeg_eighth": (encode(scene(8, 390, 260), "JPEG", quality=60), "jpg", FRAME, LOSSY),
        "jpeg_progressive": (encode(small, "JPEG", quality=85, progressive=True), "jpg", FRAME, LOSSY),
    }
    for orientation in range(1, 9):
        photo = encode(small, "PNG", exif=exif(orientation)[6:])
        made[f"orientation_{orientation}"] = (photo, "png", FRAME, EXACT)
    photo = encode(scene(9, 131, 200), "JPEG", quality=80, exif=exif(8))
    made["jpeg_quarter_orientation_8"] = (photo, "jpg", FRAME, LOSSY)
    return made


def refused() -> dict[str, tuple[bytes, Frame, str]]:
    """File -> its bytes, the frame, the reason for which it must be refused."""
    png, jpeg = encode(scene(1, 90, 60), "PNG"), encode(scene(2, 50, 80), "JPEG", quality=90)
    return {
        "refused_empty.jpg": (b"", FRAME, "empty"),
        "refused_page.jpg": (b"<!doctype html><title>404</title>", FRAME, "not_a_photo"),
        "refused_noise.png": (bytes(range(1, 200)), FRAME, "unknown_format"),
        "refused_cut.png": (png[: len(png) // 2], FRAME, "truncated"),
        "refused_cut.jpg": (jpeg[: len(jpeg) // 2], FRAME, "truncated"),
        "refused_float.tiff": (encode(scene(3, 30, 20)[..., 0], "TIFF", "F"), FRAME, "unsupported_mode"),
        "refused_bytes.png": (png, replace(FRAME, max_bytes=len(png) - 1), "too_many_bytes"),
        "refused_pixels.png": (png, replace(FRAME, max_pixels=90 * 60 - 1), "too_many_pixels"),
    }


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    index = []
    for name, (photo, suffix, frame, tolerance) in vectors().items():
        (FOLDER / f"{name}.{suffix}").write_bytes(photo)
        (FOLDER / f"{name}.frame.png").write_bytes(encode(read_pixels(photo, frame), "PNG"))
        index.append(
            {"photo": f"{name}.{suffix}", "plain": name.startswith(PLAIN), "frame": frame.to_json()}
            | {"pixels": f"{name}.frame.png", "tolerance": tolerance}
        )
    for file, (photo, frame, reason) in refused().items():
        (FOLDER / file).write_bytes(photo)
        index.append({"photo": file, "plain": False, "frame": frame.to_json(), "refused": reason})
    (FOLDER / "vectors.json").write_text(json.dumps({**FORMAT, "vectors": index}, indent=1) + "\n")


if __name__ == "__main__":
    main()
