"""Photos made worse on purpose: the corruptions of ImageNet-C (Hendrycks and Dietterich 2019).

Their parameters are those of the paper for 224 px, at five severities, applied to the frame that the model
sees. Frost is drawn, where the paper lays photos of frost over the picture. Pixels are uint8 RGB (H, W, 3);
inside, float32 from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.evaluation.intervals import Flags, Ints, effective_photos, holm, share
from catflap.evaluation.paired import mcnemar, paired_difference
from catflap.image import Frame, Pixels, decode, encode

Plane: TypeAlias = npt.NDArray[np.float32]
Random: TypeAlias = np.random.Generator
SEVERITIES = (1, 2, 3, 4, 5)
LOSS = 0.05  # of right decisions, from which a corruption is a limit
LEVEL = 0.05


def _gaussian_noise(x: Plane, level: int, random: Random) -> Plane:
    return x + random.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[level], x.shape).astype(np.float32)


def _shot_noise(x: Plane, level: int, random: Random) -> Plane:
    photons = (60, 25, 12, 5, 3)[level]
    return (random.poisson(x * photons) / photons).astype(np.float32)


def _impulse_noise(x: Plane, level: int, random: Random) -> Plane:
    chance = random.random(x.shape, np.float32)
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return np.where(chance < amount / 2, 0, np.where(chance < amount, 1, x)).astype(np.float32)


def _defocus_blur(x: Plane, level: int, random: Random) -> Plane:
    radius, alias = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = max(8, radius) + 2
    y, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (y**2 + across**2 <= radius**2).astype(np.float32)
    return _convolve(x, _convolve(disk[:, :, None], _gaussian(alias))[:, :, 0])


def _glass_blur(x: Plane, level: int, random: Random) -> Plane:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    blurred = _convolve(x, _gaussian(sigma))
    rows, columns = np.indices(x.shape[:2])
    for _ in range(rounds):
        moves = random.integers(-reach, reach, (2, *x.shape[:2]))
        there = np.clip(rows + moves[0], 0, len(x) - 1), np.clip(columns + moves[1], 0, x.shape[1] - 1)
        blurred = blurred[there]
    return _convolve(blurred, _gaussian(sigma))


def _motion_blur(x: Plane, level: int, random: Random) -> Plane:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _convolve(x, _streak(radius, sigma, random.uniform(-45, 45)))


def _zoom_blur(x: Plane, level: int, random: Random) -> Plane:
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    zooms = np.arange(1, most, step)
    return np.asarray((x + sum(_zoom(x, zoom) for zoom in zooms)) / (len(zooms) + 1), np.float32)


def _snow(x: Plane, level: int, random: Random) -> Plane:
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]  # fmt: skip
    flakes = _zoom(random.normal(mean, spread, (*x.shape[:2], 1)).astype(np.float32), zoom)
    flakes = np.where(flakes < least, 0, np.clip(flakes, 0, 1)).astype(np.float32)
    flakes = _convolve(flakes, _streak(radius, sigma, random.uniform(-135, -45)))
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    white = np.maximum(x, grey[:, :, None] * 1.5 + 0.5)
    return np.asarray(kept * x + (1 - kept) * white + flakes + flakes[::-1, ::-1], np.float32)


def _frost(x: Plane, level: int, random: Random) -> Plane:
    kept, amount = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    return kept * x + amount * _ice(x.shape[0], x.shape[1], random)


def _ice(height: int, width: int, random: Random) -> Plane:
    """Drawn frost (H, W, 3): veins where a fractal crosses its middle, and needles, on a bluish film."""
    veins = (1 - np.abs(2 * _plasma(height, width, 1.7, random) - 1)) ** 6
    seeds = (random.random((height, width, 1)) < 0.006).astype(np.float32)
    needles = np.maximum.reduce(
        [_convolve(seeds, _streak(20, 15, angle)) for angle in random.uniform(0, 180, 6)]
    )
    film = 0.25 + 0.4 * veins + 0.6 * needles / max(float(needles.max()), 1e-6)
    return np.asarray(np.clip(film, 0, 1) * np.array([0.85, 0.95, 1.0]), np.float32)


def _fog(x: Plane, level: int, random: Random) -> Plane:
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    fog = _plasma(x.shape[0], x.shape[1], decay, random)
    highest = float(x.max())
    return np.asarray((x + amount * fog) * highest / (highest + amount), np.float32)


def _brightness(x: Plane, level: int, random: Random) -> Plane:
    value = x.max(axis=2, keepdims=True)
    brighter = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 1)
    return np.asarray(np.where(value > 0, x * brighter / np.maximum(value, 1e-6), brighter), np.float32)


def _contrast(x: Plane, level: int, random: Random) -> Plane:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return np.asarray((x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean, np.float32)


def _elastic(x: Plane, level: int, random: Random) -> Plane:
    alpha, sigma, corner = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )[level]  # fmt: skip  of the side
    height, width = x.shape[:2]
    side = min(height, width)
    middle, third = np.array([width, height]) / 2, side // 3
    before = np.array([middle + third, (middle[0] + third, middle[1] - third), middle - third])
    after = before + random.uniform(-corner * side, corner * side, before.shape)
    ones = np.ones((3, 1))
    turn = np.linalg.solve(np.hstack([after, ones]), before)  # from a place to where its pixel was
    rows, columns = np.indices((height, width)).astype(np.float64)
    source = np.stack([columns, rows, np.ones_like(rows)], axis=2) @ turn
    smooth = _gaussian(sigma * side, most=min(height, width) // 2 - 1)
    shift = _convolve(random.uniform(-1, 1, (height, width, 2)).astype(np.float32), smooth) * alpha * side
    return _sample(x, source[:, :, 1] + shift[:, :, 1], source[:, :, 0] + shift[:, :, 0])


def _pixelate(x: Plane, level: int, random: Random) -> Plane:
    kept = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    for axis in (0, 1):
        size = x.shape[axis]
        edges = np.unique((np.arange(max(1, int(size * kept))) * size) // max(1, int(size * kept)))
        widths = np.diff(np.append(edges, size))
        sums = np.add.reduceat(x, edges, axis=axis)
        means = sums / widths.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = np.repeat(means, widths, axis=axis).astype(np.float32)
    return x


def _jpeg(x: Plane, level: int, random: Random) -> Plane:
    quality = (25, 18, 15, 10, 7)[level]
    return _to_plane(decode(encode(_to_pixels(x), "JPEG", quality=quality), Frame()))


CORRUPTIONS: Mapping[str, Callable[[Plane, int, Random], Plane]] = MappingProxyType(
    {
        "gaussian noise": _gaussian_noise, "shot noise": _shot_noise, "impulse noise": _impulse_noise,
        "defocus blur": _defocus_blur, "glass blur": _glass_blur, "motion blur": _motion_blur,
        "zoom blur": _zoom_blur, "snow": _snow, "frost": _frost, "fog": _fog, "brightness": _brightness,
        "contrast": _contrast, "elastic transform": _elastic, "pixelate": _pixelate, "JPEG": _jpeg,
    }
)  # fmt: skip


def corrupt(pixels: Pixels, corruption: str, severity: int, seed: int) -> Pixels:
    """Pixels, uint8 (H, W, 3), with a corruption at a severity of 1 to 5; the same seed gives the same."""
    random = np.random.default_rng([seed, severity, list(CORRUPTIONS).index(corruption)])
    return _to_pixels(CORRUPTIONS[corruption](_to_plane(pixels), severity - 1, random))


def judge_corruptions(
    clean: npt.ArrayLike,
    corrupted: Mapping[tuple[str, int], npt.ArrayLike],
    groups: npt.ArrayLike,
) -> dict[str, Any]:
    """The share decided right at each corruption and severity, beside the clean photos, ready for JSON.

    `clean` and each of `corrupted` (n,) are true where the decision was right, `groups` (n,) name photos that
    are not independent. `limits` says, for each corruption, the mildest severity that loses more than five
    points of right decisions, significantly so (McNemar by group, Holm over all).
    """
    before, owners = np.asarray(clean, np.bool_), np.asarray(groups)
    owners = np.unique(owners, return_inverse=True)[1].astype(np.int64)
    names, rows = list(corrupted), list[dict[str, Any]]()
    for corruption, severity in names:
        after = np.asarray(corrupted[corruption, severity], np.bool_)
        gained = after.astype(np.int64) - before
        rows.append(
            {
                "corruption": corruption,
                "severity": severity,
                "right": _right(after, owners),
                "difference": paired_difference(gained, owners),
                "p": mcnemar(gained, owners),
            }
        )
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p"] = float(f"{adjusted:.3g}")
    whole = _right(before, owners)
    return {
        "photos": len(before),
        "groups": int(owners.max()) + 1 if len(owners) else 0,
        "clean": whole,
        "mean": round(float(np.mean([row["right"]["value"] for row in rows])), 6) if rows else None,
        "limits": _limits(rows, whole["value"]),
        "rows": rows,
    }


def _limits(rows: Sequence[Mapping[str, Any]], clean: float) -> list[str]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["difference"]["value"] < -LOSS and row["p"] < LEVEL:
            known = found.setdefault(row["corruption"], row)
            if row["severity"] < known["severity"]:
                found[row["corruption"]] = row
    return [
        f"{name} from severity {row['severity']}: {100 * row['right']['value']:.1f} % decided right "
        f"({100 * row['right']['low']:.1f} to {100 * row['right']['high']:.1f} %), clean {100 * clean:.1f} %."
        for name, row in found.items()
    ]


def _right(hits: Flags, owners: Ints) -> dict[str, Any]:
    effective = float(effective_photos(np.zeros_like(owners), owners, 1)[0])
    return share(int(hits.sum()), len(hits), effective, "there are no photos")


def _to_plane(pixels: Pixels) -> Plane:
    return np.asarray(pixels, np.float32) / np.float32(255)


def _to_pixels(x: Plane) -> Pixels:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _gaussian(sigma: float, most: int = 40) -> Plane:
    reach = min(most, max(1, math.ceil(3 * sigma)))
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(np.outer(line, line), np.float32)


def _streak(radius: int, sigma: float, degrees: float) -> Plane:
    """A line through the middle of a kernel, as wide as a pixel, whose weight falls to one side."""
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    angle = math.radians(degrees)
    for step in range(radius + 1):
        y, across = round(radius - step * math.sin(angle)), round(radius + step * math.cos(angle))
        kernel[y, across] += math.exp(-0.5 * (step / sigma) ** 2)
    return kernel


def _convolve(x: Plane, kernel: Plane) -> Plane:
    """Planes (H, W, k), mirrored at the edges, with a kernel of odd sides whose weights are scaled to 1."""
    reach = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(
        x, ((reach[0],) * 2, (reach[1],) * 2, (0, 0)), "reflect" if min(x.shape[:2]) > max(reach) else "edge"
    )
    shape = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel / kernel.sum(), shape)[:, :, None]
    whole = np.fft.irfft2(spectrum, shape, axes=(0, 1))
    return whole[2 * reach[0] : 2 * reach[0] + len(x), 2 * reach[1] : 2 * reach[1] + x.shape[1]].astype(
        np.float32
    )


def _zoom(x: Plane, zoom: float) -> Plane:
    """The middle of planes (H, W, k), enlarged, bilinear."""
    for axis in (0, 1):
        size = x.shape[axis]
        places = (np.arange(size) - (size - 1) / 2) / zoom + (size - 1) / 2
        low = np.clip(np.floor(places).astype(np.int64), 0, max(0, size - 2))
        part = (places - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = np.take(x, low, axis) * (1 - part) + np.take(x, np.minimum(low + 1, size - 1), axis) * part
    return x


def _sample(x: Plane, rows: npt.NDArray[np.floating[Any]], columns: npt.NDArray[np.floating[Any]]) -> Plane:
    """Planes (H, W, 3) at fractional places, bilinear, mirrored beyond the edges."""
    places = []
    for values, size in ((rows, x.shape[0]), (columns, x.shape[1])):
        around = np.abs(values) % (2 * size - 2)
        places.append(np.where(around > size - 1, 2 * size - 2 - around, around))
    low = [
        np.minimum(place.astype(np.int64), size - 2) for place, size in zip(places, x.shape[:2], strict=True)
    ]
    down, across = (
        (place - start).astype(np.float32)[:, :, None] for place, start in zip(places, low, strict=True)
    )
    y, z = low
    upper = x[y, z] * (1 - across) + x[y, z + 1] * across
    lower = x[y + 1, z] * (1 - across) + x[y + 1, z + 1] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _plasma(height: int, width: int, decay: float, random: Random) -> Plane:
    """A fractal height map (H, W, 1), 0 to 1, by diamond and square (Fournier et al. 1982)."""
    side = 1 << math.ceil(math.log2(max(height, width, 2)))
    heights = np.zeros((side, side))
    step, wobble = side, 100.0

    def mean_and_wobble(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(sums / 4 + wobble * random.uniform(-wobble, wobble, sums.shape))

    while step >= 2:
        half = step // 2
        corners = heights[0:side:step, 0:side:step]
        squares = corners + np.roll(corners, -1, 0)
        squares = squares + np.roll(squares, -1, 1)
        heights[half:side:step, half:side:step] = mean_and_wobble(squares)
        middles = heights[half:side:step, half:side:step]
        down = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        heights[0:side:step, half:side:step] = mean_and_wobble(down)
        across = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        heights[half:side:step, 0:side:step] = mean_and_wobble(across)
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return np.asarray(heights / max(heights.max(), 1e-9), np.float32)[:height, :width, None]
