"""Drawn golden cases: photos that take every path of decoding, more where a defect would go unnoticed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from catflap.image import Frame, Pixels, encode

# Decoded at 1/s, with at most so many pixels: a large photo costs time in every check and memory on a small
# device. 1/2 serves frames of up to 790 px; 12 megapixels of a phone are decoded whole from 757 px on.
SCALES = ((8, 4_300_000), (4, 4_300_000), (2, 10_000_000))
NEVER_SCALED = (1700, 1300)  # px, for frames so large that no such photo is scaled
STRIPES = 0.82  # cycles per pixel decoded at 1/s: above the Nyquist limit, so that they alias
PATCH = 32  # px of the frame that the stripes cover at most


@dataclass(frozen=True)
class DrawnCase:
    """A drawn photo, and by decoding defect that concerns it the photo that such a decoder would see."""

    photo: bytes
    defective: Mapping[str, bytes] = field(default_factory=dict)


def drawn_photos(frame: Frame | None = None) -> tuple[bytes, ...]:
    """The photos of `drawn_cases`."""
    return tuple(case.photo for case in drawn_cases(frame))


@lru_cache(maxsize=4)  # an export asks twice
def drawn_cases(frame: Frame | None = None) -> tuple[DrawnCase, ...]:
    """Cases that together take every decoding path of a Frame; the same each time.

    A plain JPEG of 500 × 375 px, one with EXIF orientation 6, a large one (scaled decode), grey, CMYK, a
    wide-gamut ICC profile, PNG with alpha, with a palette, with 16 bits, lossless WebP; then JPEGs of the
    other seven EXIF orientations.
    """
    wide, cmyk, alpha, deep = scene(5, 311, 208), scene(4, 300, 300), _with_alpha(scene(6, 200, 260)), _deep()
    return (
        DrawnCase(encode(scene(0, 500, 375), "JPEG", quality=90)),
        turned_case(1, 6, 320, 427),
        DrawnCase(encode(large_scene(frame or Frame()), "JPEG", quality=70, progressive=True)),
        DrawnCase(encode(scene(3, 333, 251)[..., 1], "JPEG", quality=90)),
        DrawnCase(
            encode(cmyk, "JPEG", "CMYK", quality=90),
            {"CMYK inverted": encode(255 - cmyk, "JPEG", "CMYK", quality=90)},
        ),
        DrawnCase(
            encode(wide, "JPEG", quality=90, icc_profile=wide_gamut_profile()),
            {"ICC profile ignored": encode(wide, "JPEG", quality=90)},
        ),
        DrawnCase(
            encode(alpha, "PNG"), {"alpha dropped": encode(np.ascontiguousarray(alpha[..., :3]), "PNG")}
        ),
        DrawnCase(encode(scene(7, 257, 129), "PNG", "P", transparency=3)),
        DrawnCase(encode(deep, "PNG"), {"low byte of 16 bits": encode((deep & 255).astype(np.uint8), "PNG")}),
        DrawnCase(encode(scene(9, 96, 64), "WEBP", lossless=True)),
        *(turned_case(20 + turn, turn, 213, 160) for turn in (1, 2, 3, 4, 5, 7, 8)),
    )


@lru_cache(maxsize=32)
def extra_case(seed: int) -> DrawnCase:
    """A further drawn case by seed: strong colours, alpha, a colour profile or an EXIF orientation."""
    random = np.random.default_rng([seed, 1])
    kind = seed % 4
    pixels = scene(1000 + seed, 240, 180)
    if kind == 0:
        pixels = _strong_colours(pixels, random)
    if kind == 1:
        alpha = _with_alpha(_strong_colours(pixels, random))
        return DrawnCase(
            encode(alpha, "PNG"), {"alpha dropped": encode(np.ascontiguousarray(alpha[..., :3]), "PNG")}
        )
    if kind == 2:
        vivid = _strong_colours(pixels, random)
        return DrawnCase(
            encode(vivid, "JPEG", quality=92, icc_profile=wide_gamut_profile()),
            {"ICC profile ignored": encode(vivid, "JPEG", quality=92)},
        )
    return turned_case(1000 + seed, 1 + seed // 4 % 8, 240, 180)


def turned_case(seed: int, turn: int, width: int, height: int) -> DrawnCase:
    """A drawn JPEG with an EXIF orientation, 1 to 8; the defect is to ignore it."""
    pixels = scene(seed, width, height)
    plain = encode(pixels, "JPEG", quality=92)
    defective = {} if turn == 1 else {f"EXIF orientation {turn} ignored": plain}
    return DrawnCase(encode(pixels, "JPEG", quality=92, exif=exif_orientation(turn)), defective)


def exif_orientation(turn: int) -> bytes:
    """EXIF data that states an orientation, 1 to 8, and nothing else."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([turn, 0, 0, 0, 0, 0, 0])


ROTATED = exif_orientation(6)


def _deep() -> np.ndarray:
    """A grey picture of 16 bits whose low bytes are its high bytes inverted."""
    high = scene(8, 180, 140)[..., 0].astype(np.uint16)
    return np.asarray(high * 256 + (255 - high))


def _strong_colours(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """A picture with saturated colours on its left and noise of single pixels on its right."""
    height, width = pixels.shape[:2]
    vivid = pixels.copy()
    vivid[:, : width // 2] = np.clip(
        (vivid[:, : width // 2].astype(int) - 110) * 3 * random.choice([-1, 1], 3) + 128, 0, 255
    ).astype(np.uint8)
    vivid[:, 2 * width // 3 :] = random.integers(0, 256, (height, width - 2 * width // 3, 1))
    return vivid


def scene(seed: int, width: int, height: int) -> Pixels:
    """A drawn picture by seed, uint8 (height, width, 3): a gradient, discs and a striped patch."""
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
    """A drawn picture that a Frame decodes at 1/8, 1/4 or 1/2, and whose stripes show where it does not.

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
