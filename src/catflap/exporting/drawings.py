"""Drawn photos for golden cases: every way of decoding, and nothing of the user's in them."""

from __future__ import annotations

import struct

import numpy as np

from catflap.image import Pixels, encode

ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6


def drawn_photos() -> tuple[bytes, ...]:
    """The bytes of image files that between them take every path of the Frame; the same each time.

    A plain JPEG of 500 × 375 px comes first; then a rotated one, a large one (scaled decode), grey,
    CMYK, a wide-gamut ICC profile, PNG with alpha, with a palette, with 16 bits, and lossless WebP.
    """
    return (
        encode(scene(0, 500, 375), "JPEG", quality=90),
        encode(scene(1, 320, 427), "JPEG", quality=92, exif=ROTATED),
        encode(scene(2, 1700, 1300), "JPEG", quality=70, progressive=True),
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
