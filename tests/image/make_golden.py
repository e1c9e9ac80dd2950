"""Make the golden vectors of the Frame anew: `python -m tests.image.make_golden`.

Needed only when the specification in docs/concepts/frame.md changes. Every photo is drawn here.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from catflap.exporting.golden_cases import scene, wide_gamut_profile
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

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


def exif(orientation: int, type: str = "H") -> bytes:
    """EXIF with an orientation: "H" is the type SHORT, "I" LONG, "B" BYTE."""
    code = {"B": 1, "H": 3, "I": 4}[type]
    value = struct.pack(f">{type}", orientation).ljust(4, b"\0")
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 0x0112, code, 1) + value + bytes(4)


def xmp(orientation: int) -> bytes:
    space = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    about = f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
    rdf = f'<rdf:RDF xmlns:rdf="{space}">{about}</rdf:RDF>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{rdf}</x:xmpmeta>'.encode()


def with_chunk(png: bytes, kind: bytes, data: bytes, *, after_pixels: bool = False) -> bytes:
    """A PNG with one more chunk, after its head or after its pixels."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    place = len(png) - 12 if after_pixels else 33
    return png[:place] + chunk + png[place:]


def xmp_chunk(orientation: int) -> bytes:
    return b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation)


def raw_profile(orientation: int) -> bytes:
    """EXIF as ImageMagick packs it into a text of a PNG."""
    data = exif(orientation)
    text = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
    return b"Raw profile type exif\0\0" + zlib.compress(text)


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
    return made | turned()


def ways(pixels: Pixels, orientation: int) -> dict[str, bytes]:
    """Photos that tell an orientation where a decoder may miss it, by the way in which they do."""
    png = encode(pixels, "PNG")
    long, byte, first = exif(orientation, "I"), exif(orientation, "B"), exif(orientation)
    other = xmp(orientation % 8 + 1)
    return {
        "png_exif_last": with_chunk(png, b"eXIf", first[6:], after_pixels=True),
        "png_xmp": with_chunk(png, b"iTXt", xmp_chunk(orientation)),
        "png_xmp_last": with_chunk(png, b"iTXt", xmp_chunk(orientation), after_pixels=True),
        "png_raw_profile": with_chunk(png, b"zTXt", raw_profile(orientation)),
        "webp_exif": encode(pixels, "WEBP", lossless=True, exif=first),
        "webp_exif_lossy": encode(pixels, "WEBP", quality=90, exif=first),
        "webp_xmp": encode(pixels, "WEBP", lossless=True, xmp=xmp(orientation)),
        "avif": encode(pixels, "AVIF", quality=90, subsampling="4:4:4", exif=first),
        "jpeg_xmp": encode(pixels, "JPEG", quality=90, xmp=xmp(orientation)),
        "jpeg_exif_long": encode(pixels, "JPEG", quality=90, exif=long),
        "jpeg_exif_before_xmp": encode(pixels, "JPEG", quality=90, exif=first, xmp=other),
        "jpeg_exif_byte": encode(pixels, "JPEG", quality=90, exif=byte, xmp=other),  # is no whole number: 1
    }


def turned() -> dict[str, tuple[bytes, str, Frame, int]]:
    """One photo of each way, and a JPEG that is decoded smaller."""
    small, suffixes = scene(3, 30, 20), {"jpeg": "jpg"}
    made = {}
    for number, way in enumerate(ways(small, 1)):
        orientation = (6, 8, 3, 5, 7, 4, 2)[number % 7]
        kind = way.split("_")[0]
        exact = kind == "png" or way in ("webp_exif", "webp_xmp")
        photo = ways(small, orientation)[way]
        suffix, tolerance = suffixes.get(kind, kind), EXACT if exact else LOSSY
        made[f"{way}_{orientation}"] = (photo, suffix, FRAME, tolerance)
    photo = ways(scene(9, 131, 200), 8)["jpeg_xmp"]
    made["jpeg_quarter_xmp_8"] = (photo, "jpg", FRAME, LOSSY)
    return made


def refused() -> dict[str, tuple[bytes, Frame, str]]:
    """File -> its bytes, the frame, the reason for which it must be refused."""
    png, jpeg = encode(scene(1, 90, 60), "PNG"), encode(scene(2, 50, 80), "JPEG", quality=90)
    return {
        "refused_empty.jpg": (b"", FRAME, "empty"),
        "refused_page.jpg": (b"<!doctype html><title>404</title>", FRAME, "not_a_photo"),
        "refused_drawing.svg": (SVG, FRAME, "not_a_photo"),
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
