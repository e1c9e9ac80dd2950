"""Near-duplicates among millions of hashes: seconds, memory and recall, and groups from end to end.

    python benchmarks/duplicates.py                     # 12 million, evenly spread and correlated
    python benchmarks/duplicates.py --count 1000000
    python benchmarks/duplicates.py --photos FOLDER     # recall on changed copies of real photos

One hash in twenty is a planted copy of another with up to four bits changed. "correlated" hashes have
bits that hang together (a first-order chain with correlation 0.6) and are not balanced, as hashes of
real photos can be. The first two runs are the plain search; the last two are what a scan does, six
bits and mirrored copies too. Each runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import header
from PIL import Image, ImageEnhance, ImageOps

from catflap.data.duplicates import NEAR, confirmed_pairs, near_pairs
from catflap.data.jpeg import scaled_grey
from catflap.data.phash import MIRROR, SIDE, Signature, signature
from catflap.image import encode, inspect
from catflap.machine import peak_memory_mb

RUNS = (("even", 4, 0), ("correlated", 4, 0), ("even", NEAR, MIRROR), ("correlated", NEAR, MIRROR))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=12_000_000)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        search(args.count, *RUNS[args.run])
        return
    header(hashes=args.count, threads=2)
    if args.photos:
        changed_copies(args.photos)
        return
    for number in range(len(RUNS)):
        command = [sys.executable, __file__, "--count", str(args.count), "--run", str(number)]
        subprocess.run(command, check=True)


def search(count: int, kind: str, distance: int, mirror: int) -> None:
    hashes, one, other = planted(count, kind)
    before = peak_memory_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    first, second, _ = near_pairs(hashes, distance, mirror=mirror)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = np.sort(first * count + second)
    wanted = np.minimum(one, other) * count + np.maximum(one, other)
    places = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    print(json.dumps({
        "hashes": count, "kind": kind, "distance": distance, "mirrored_too": bool(mirror),
        "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak_memory_mb()), "peak_mb_before": round(before),
        "planted": len(wanted), "recall": float((found[places] == wanted).mean()), "pairs": len(found),
    }))  # fmt: skip


def planted(count: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, and the positions of planted copies and of what they are copies of."""
    dice = np.random.default_rng(0)
    if kind == "even":
        hashes = dice.integers(0, 2**64, count, dtype=np.uint64)
    else:
        hashes, level = np.zeros(count, np.uint64), dice.standard_normal(count, dtype=np.float32)
        for bit in range(64):
            hashes |= (level > 0.25 * np.sin(bit)).astype(np.uint64) << np.uint64(bit)
            level = 0.6 * level + 0.8 * dice.standard_normal(count, dtype=np.float32)
    copies = count // 20
    source, target = dice.integers(0, count - copies, copies), np.arange(count - copies, count)
    changed = hashes[source]
    bits = dice.integers(0, 5, copies)
    for step in range(4):
        flip = np.uint64(1) << dice.integers(0, 64, copies).astype(np.uint64)
        changed ^= np.where(bits > step, flip, np.uint64(0))
    hashes[target] = changed
    return hashes, source, target


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return encode(np.asarray(image), "JPEG", quality=quality)


def cropped(share: float) -> Callable[[Image.Image], bytes]:
    def crop(image: Image.Image) -> bytes:
        left, top = round(image.width * share / 2), round(image.height * share / 2)
        return jpeg(image.crop((left, top, image.width - left, image.height - top)))

    return crop


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded, quality 30": lambda image: jpeg(image, 30),
    "half the size": lambda image: jpeg(image.resize((image.width // 2, image.height // 2))),
    "64 × 64": lambda image: jpeg(image.resize((64, 64))),
    "grey": lambda image: jpeg(image.convert("L")),
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "30 % brighter": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.3)),
    "turned by 1°": lambda image: jpeg(image.rotate(1)),
    "cropped by 2 %": cropped(0.02),
    "cropped by 5 %": cropped(0.05),
    "cropped by 10 %": cropped(0.1),
}


def changed_copies(folder: Path, count: int = 400) -> None:
    """Recall and precision on changed copies of photos: pairs of different photos are all wrong."""
    paths = sorted(folder.rglob("*.jpg"))
    originals = [path.read_bytes() for path in paths[:: max(1, len(paths) // count)]]
    distinct = alone([signed(data) for data in originals])
    images = [Image.open(io.BytesIO(originals[place])).convert("RGB") for place in distinct]
    plain = [signed(originals[place]) for place in distinct]
    for name, change in CHANGES.items():
        found = pairs([*plain, *(signed(change(image)) for image in images)])
        planted = {(place, place + len(plain)) for place in range(len(plain))}
        recall = len(found & planted) / len(planted)
        print(json.dumps({
            "change": name, "photos": len(plain), "recall": round(recall, 4), "wrong": len(found - planted),
        }))  # fmt: skip


def signed(data: bytes) -> Signature:
    info = inspect(data)
    grey, extent = scaled_grey(data, info, SIDE)
    return signature(grey, extent, info.orientation)


def pairs(signatures: list[Signature]) -> set[tuple[int, int]]:
    thumbs = np.stack([np.frombuffer(found.thumb, np.uint8) for found in signatures])
    hashes = np.array([found.phash or 0 for found in signatures], np.uint64)
    found = confirmed_pairs(hashes, lambda places: thumbs[places])
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


def alone(signatures: list[Signature]) -> list[int]:
    """Photos that have no copy among these already, so that what is planted is the whole truth."""
    copies = {place for pair in pairs(signatures) for place in pair}
    usable = (place for place, found in enumerate(signatures) if found.phash is not None)
    return [place for place in usable if place not in copies]


if __name__ == "__main__":
    main()
