"""What a scan costs: photos a CPU-second beside a bare loop and beside peers, and memory as photos grow.

    python benchmarks/scan.py                                  # drawn photos
    python benchmarks/scan.py --photos FOLDER --peers PYTHON   # real ones; PYTHON has imagededup, cleanvision
    python benchmarks/scan.py --memory                         # 3,000 and 60,000 drawn photos

The bare loop reads, decodes strictly at 1/8, hashes with SHA-256 and perceptually, and keeps nothing.
The scan also lists, checks, writes parts, finds duplicates and writes the Manifest. CPU-seconds are those of
a process and its children, so that other work on the machine disturbs the figures little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from machine import header
from PIL import Image

from catflap.data.jpeg import scaled_grey
from catflap.data.phash import SIDE, signature
from catflap.data.scan import scan
from catflap.image import encode, inspect

PEERS = {
    "imagededup PHash": """
import sys
from imagededup.methods import PHash
PHash(verbose=False).encode_images(image_dir=sys.argv[1], recursive=True, num_enc_workers=0)
""",
    "cleanvision": """
import sys
from cleanvision import Imagelab
Imagelab(data_path=sys.argv[1]).find_issues(n_jobs=1, verbose=False)
""",
}
NOTHING = "import sys; from {} import {}"
IMPORTS = {"imagededup PHash": ("imagededup.methods", "PHash"), "cleanvision": ("cleanvision", "Imagelab")}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="class folders of JPEGs (default: drawn ones)")
    parser.add_argument("--count", type=int, default=1500, help="drawn photos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="an environment with the peers")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.memory:
            header(photos=[3000, 60_000])
            measure_memory(Path(folder))
            return
        photos = args.photos or drawn(Path(folder) / "photos", args.count, 500, 375)
        paths = sorted(str(path) for path in photos.rglob("*.jpg"))
        header(
            photos=len(paths), mean_bytes=round(statistics.mean(Path(path).stat().st_size for path in paths))
        )
        measure_speed(photos, paths, Path(folder), args.rounds, args.peers)


def measure_speed(photos: Path, paths: list[str], folder: Path, rounds: int, peers: Path | None) -> None:
    steps: dict[str, Callable[[], object]] = {
        "bare loop": lambda: bare_loop(paths),
        "scan": lambda: scan(photos, folder / "m", workers=1, profile=False),
        "scan with profile page": lambda: scan(photos, folder / "p", workers=1),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(cpu_seconds(step))
    bare = len(paths) / statistics.median(taken["bare loop"])
    for name, times in taken.items():
        rate = len(paths) / statistics.median(times)
        print(
            json.dumps({"what": name, "photos_per_cpu_s": round(rate), "of_bare_loop": round(rate / bare, 3)})
        )
    for name, code in PEERS.items() if peers else ():
        start = cpu_seconds(partial(call, peers, NOTHING.format(*IMPORTS[name])))
        rate = len(paths) / (cpu_seconds(partial(call, peers, code, str(photos))) - start)
        ours = len(paths) / statistics.median(taken["scan"])
        print(
            json.dumps(
                {"what": name, "photos_per_cpu_s": round(rate), "scan_is_times": round(ours / rate, 2)}
            )
        )


def bare_loop(paths: list[str]) -> None:
    for path in paths:
        data = Path(path).read_bytes()
        hashlib.sha256(data).hexdigest()
        grey, extent = scaled_grey(data, inspect(data), SIDE)
        signature(grey, extent)


def cpu_seconds(step: Callable[[], object]) -> float:
    before = spent()
    step()
    return spent() - before


def spent() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def call(python: Path | None, code: str, *arguments: str) -> None:
    subprocess.run([str(python), "-c", code, *arguments], check=True, capture_output=True)


def measure_memory(folder: Path) -> None:
    """Peak memory of the process that scans and of its worker, in MB, each in fresh processes."""
    code = (
        "import sys; from catflap.data.scan import scan; "
        "scan(sys.argv[1], sys.argv[2], workers=1, profile=False)"
    )
    for count in (3000, 60_000):
        photos = drawn(folder / str(count), count, 64, 64)
        command = [sys.executable, "-c", code, str(photos), str(folder / f"m{count}")]
        process = psutil.Popen(command)
        parent = worker = together = 0
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                now = process.memory_info().rss
                children = [child.memory_info().rss for child in process.children()]
                parent, worker = max(parent, now), max([worker, *children])
                together = max(together, now + sum(children))
            time.sleep(0.02)
        peak = {"parent_mb": parent, "worker_mb": worker, "together_mb": together}
        print(json.dumps({"photos": count, **{name: round(size / 1e6, 1) for name, size in peak.items()}}))


def drawn(folder: Path, count: int, width: int, height: int) -> Path:
    """Drawn JPEGs with the grain of a camera under two labels, all different."""
    dice = np.random.default_rng(0)
    for label in ("cat", "other"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        blobs = Image.fromarray(dice.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = dice.integers(-12, 13, (height, width, 1), dtype=np.int16)
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        path = folder / ("cat", "other")[number % 2] / f"{number:06d}.jpg"
        path.write_bytes(encode(pixels, "JPEG", quality=88))
    return folder


if __name__ == "__main__":
    main()
