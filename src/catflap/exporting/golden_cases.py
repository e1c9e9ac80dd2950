"""Drawn photos for golden cases: every way of decoding, and nothing of the user's in them."""

from __future__ import annotations

import struct

import numpy as np

from catflap.image import Frame, Pixels, encode

ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
# At 1/s, and in how many px: a large photo costs the time of every check and the memory of a small device.
# At 1/2 that is a frame of 790 px; a phone's 12 megapixels are decoded whole from 757 px on.
SCALES = ((8, 4_300_000), (4, 4_300_000), (2, 10_000_000))
NEVER_SCALED = (1700, 1300)  # px, for a frame at which no photo of that size is scaled
STRIPES = 0.82  # of a pixel that is decoded at 1/s: thinner than two can show, so that they alias
PATCH = 32  # px of the frame that the stripes cover at most, across and down


def drawn_photos(frame: Frame | None = None) -> tuple[bytes, ...]:
    """The bytes of image files that between them take every path of a Frame; the same each time.

    A plain JPEG of 500 × 375 px comes first; then a rotated one, a large one (scaled decode), grey,
    CMYK, a wide-gamut ICC profile, PNG with alpha, with a palette, with 16 bits, and lossless WebP.
    """
    return (
        encode(scene(0, 500, 375), "JPEG", quality=90),
        encode(scene(1, 320, 427), "JPEG", quality=92, exif=ROTATED),
        encode(large_scene(frame or Frame()), "JPEG", quality=70, progressive=True),
        encode(scene(3, 333, 251)[..., 1], "JPEG", quality=90),
        encode(scene(4, 300, 300), "JPEG", "CMYK", quality=90),
        encode(scene(5, 311, 208), "JPEG", quality=90, icc_profile=wide_gamut_profile()),
        encode(_with_alpha(scene(6, 200, 260)), "PNG"),
        encode(scene(7, 257, 129), "PNG", "P", transparency=3),
        encode(scene(8, 180, 140)[..., 0].astype(np.uint16) * 257, "PNG"),
        encode(scene(9, 96, 64), "WEBP", lossless=True),
    )


def scene(seed: int, width: int, height: int) -> Pixels:
    """A drawn picture, uint8 (height, width, 3): a sky, discs and a striped patch, by seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width
    top, bottom = random.uniform(30, 225, (2, 3))
    picture = top + (bottom - top) * y[..., None]
    for _ in range(6):
        centre, radius = random.uniform(0.1, 0.9, 2), random.uniform(0.05, 0.3)
        inside = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) < radius**2
        picture[inside] = random.uniform(0, 255, 3)
    left, high = random.uniform(0.1, 0.6, 2)
    patch = (x > left) & (x < left + 0.3) & (y > high) & (y < high + 0.3)
    stripes = 127 + 120 * np.sin(2 * np.pi * random.uniform(10, 30) * (x + 0.5 * y))
    picture[patch] = stripes[patch, None]
    pixels: Pixels = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return pixels


def large_scene(frame: Frame) -> Pixels:
    """A drawn picture that a Frame decodes at 1/8, 1/4 or 1/2, and that shows at once where it does not.

    Soft colours, whose pixels hardly depend on the decoder, and a patch of light and dark stripes, of which
    a scaled decode leaves coarse ones and a full one next to nothing. The scale divides no side.
    """
    for scale, most in SCALES:
        width, height = 2 * scale * frame.width + 3, 2 * scale * frame.height + 1
        if width * height <= min(most, frame.max_pixels):
            break
    else:
        width, height = NEVER_SCALED
    x, y = np.arange(width)[None] / width, np.arange(height)[:, None] / height
    picture = np.empty((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = 60 + 130 * x, 90 + 30 * x + 40 * y, 190 - 120 * y
    across, down = (2 * scale * min(PATCH, side // 2) for side in (frame.width, frame.height))
    left, top = (width - across) // 2, (height - down) // 2
    patch = picture[top : top + down, left : left + across]
    patch[:] = patch + np.rint(90 * np.sin(2 * np.pi * STRIPES / scale * np.arange(across)))[:, None]
    return picture


def _with_alpha(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    alpha = np.linspace(0, 255, width).astype(np.uint8)[None].repeat(height, 0)
    return np.dstack([pixels, alpha])


def wide_gamut_profile() -> bytes:
    """A minimal ICC v2 matrix profile with the primaries of Display P3 and a gamma of 2.2 (ICC.1:2001-04)."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    name = b"Wide gamut\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256))
    tags = {
        b"desc": description,
        b"cprt": b"text" + bytes(4) + b"Public domain\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ " + bytes(4) + fixed(0.5151, 0.2412, -0.0011),
        b"gXYZ": b"XYZ " + bytes(4) + fixed(0.2920, 0.6922, 0.0419),
        b"bXYZ": b"XYZ " + bytes(4) + fixed(0.1571, 0.0666, 0.7841),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI", start + len(body), 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    header += bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body
