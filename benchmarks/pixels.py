"""What the Frame costs and what its decode rule changes: milliseconds from photo bytes to pixels.

    python benchmarks/pixels.py
    python benchmarks/pixels.py --photos FOLDER    # also how far the two rules differ on real photos

Drawn photos are used, with grain, so that they compress like real ones.
"""

from __future__ import annotations

import argparse
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
from machine import header, in_turns

from catflap.exporting.golden_cases import scene
from catflap.image import Frame, encode, read_pixels

SIZES = {"500 × 375": (500, 375), "1600 × 1200": (1600, 1200), "12 megapixels": (4000, 3000)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    header(rounds=args.rounds)
    for name, (width, height) in SIZES.items():
        photo = grainy(width, height)
        steps = {
            f"{decode} to {side} px": partial(read_pixels, photo, Frame(side, side, decode=decode))
            for decode in ("full", "scaled")
            for side in (224, 288)
        }
        print(json.dumps({"photo": name, "bytes": len(photo), "ms": in_turns(steps, args.rounds)}))
    if args.photos:
        compare_rules(args.photos)


def grainy(width: int, height: int) -> bytes:
    """A drawn JPEG with the grain of a camera."""
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return encode(np.clip(scene(1, width, height) + grain, 0, 255).astype(np.uint8), "JPEG", quality=90)


def compare_rules(folder: Path, count: int = 300) -> None:
    """The difference between scaled and full decoding, in grey levels, on photos drawn from a folder."""
    paths = sorted(folder.rglob("*.jpg"))
    random.Random(0).shuffle(paths)
    for side in (32, 64, 96, 224, 288):
        scaled, full = Frame(side, side), Frame(side, side, decode="full")
        apart = [
            np.abs(read_pixels(path, scaled).astype(int) - read_pixels(path, full)) for path in paths[:count]
        ]
        figures = {
            "frame": side,
            "photos": len(apart),
            "mean": round(float(np.mean([a.mean() for a in apart])), 3),
        }
        print(json.dumps({**figures, "largest": int(max(a.max() for a in apart))}))


if __name__ == "__main__":
    main()
