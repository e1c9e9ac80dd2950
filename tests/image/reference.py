"""The specification of docs/concepts/frame.md in plain NumPy, without Pillow: the second implementation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
PRECISION = 22  # bits after the point of a resize weight


def triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def cubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (triangle, 1.0),
    "bicubic": (cubic, 2.0),
}


def resize(pixels: Pixels, width: int, height: int, filter: str) -> Pixels:
    """Columns first, rounded to 8 bits, then rows."""
    across = resize_rows(pixels.transpose(1, 0, 2), width, filter).transpose(1, 0, 2)
    return resize_rows(across, height, filter)


def resize_rows(pixels: Pixels, size: int, filter: str) -> Pixels:
    """Resize along the first axis with integer weights; an axis of the right size is left alone."""
    if len(pixels) == size:
        return pixels
    result = np.empty((size, *pixels.shape[1:]), np.uint8)
    for place, (first, weights) in enumerate(weights_of(len(pixels), size, filter)):
        part = pixels[first : first + len(weights)].astype(np.int64)
        total = np.tensordot(weights, part, 1) + (1 << (PRECISION - 1))
        result[place] = np.clip(total >> PRECISION, 0, 255)
    return result


def weights_of(source: int, size: int, filter: str) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """For each output position: the first input position and the integer weights from there on."""
    kernel, reach = FILTERS[filter]
    scale = source / size
    stretch = max(scale, 1.0)
    support = reach * stretch
    rows = []
    for place in range(size):
        centre = (place + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(source, int(centre + support + 0.5))
        raw = [kernel((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, last)]
        total = sum(raw)
        shares = [weight / total for weight in raw]
        rounded = [int(share * (1 << PRECISION) + (0.5 if share >= 0 else -0.5)) for share in shares]
        rows.append((first, np.array(rounded, np.int64)))
    return rows


def crop(pixels: Pixels, width: int, height: int) -> Pixels:
    """The largest centred part of the aspect width : height, in whole pixels."""
    rows, columns = pixels.shape[:2]
    across = min(columns, max(1, rows * width // height))
    down = min(rows, max(1, columns * height // width))
    left, top = (columns - across) // 2, (rows - down) // 2
    return pixels[top : top + down, left : left + across]


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels as EXIF orientation 1 to 8 says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def on_white(rgba: Pixels) -> Pixels:
    """Lay transparency on white: (colour × alpha + 255 × (255 - alpha)) / 255, rounded."""
    colour, alpha = rgba[..., :3].astype(np.int64), rgba[..., 3:].astype(np.int64)
    return ((2 * (colour * alpha + 255 * (255 - alpha)) + 255) // 510).astype(np.uint8)


def cmyk_to_rgb(cmyk: Pixels) -> Pixels:
    """White minus black, minus what the ink takes of it: (255 - K) - ink × (255 - K) / 255, rounded."""
    ink, light = cmyk[..., :3].astype(np.int64), 255 - cmyk[..., 3:].astype(np.int64)
    return (light - (2 * ink * light + 255) // 510).astype(np.uint8)


def scale_of(stored: tuple[int, int], frame: tuple[int, int]) -> int:
    """The s of a scaled decode; both sizes are (width, height) as stored."""
    room = min(stored[0] // (2 * frame[0]), stored[1] // (2 * frame[1]))
    return next(scale for scale in (8, 4, 2, 1) if room >= scale or scale == 1)


def component(samples: Pixels, scale: int, across: int, down: int) -> npt.NDArray[np.int64]:
    """A component of a JPEG at 1/scale: averaged, then upsampled by what is left of its subsampling."""
    size = scale
    while size > 1 and across % 2 == 0 and down % 2 == 0:
        size, across, down = size // 2, across // 2, down // 2
    rows, columns = (side // size for side in samples.shape)
    blocks = samples.astype(np.int64).reshape(rows, size, columns, size).sum((1, 3))
    mean = (blocks + size * size // 2) // (size * size)
    if scale == 8:
        return mean.repeat(down, 0).repeat(across, 1)
    if (across, down) == (2, 1):
        return doubled(mean, 1, 2, 2)
    if (across, down) == (2, 2):
        taller = doubled(mean.T, 0, 0, 0).T
        return doubled(taller, 8, 7, 4)
    return mean


def doubled(samples: npt.NDArray[np.int64], low: int, high: int, shift: int) -> npt.NDArray[np.int64]:
    """libjpeg's triangle filter along the second axis."""
    padded = np.pad(samples, ((0, 0), (1, 1)), "edge")
    left = (3 * samples + padded[:, :-2] + low) >> shift
    right = (3 * samples + padded[:, 2:] + high) >> shift
    return np.stack([left, right], 2).reshape(len(samples), -1)


def jfif_to_rgb(y: npt.NDArray[np.int64], cb: npt.NDArray[np.int64], cr: npt.NDArray[np.int64]) -> Pixels:
    blue, red = cb - 128.0, cr - 128.0
    rgb = np.dstack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue])
    return np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)
