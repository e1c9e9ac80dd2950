"""What a loader costs: photos a core-second, beside torchvision, WebDataset, LitData, Lance and others.

    python benchmarks/loader.py                                  # drawn photos, what is installed here
    python benchmarks/loader.py --photos FOLDER --peers PYTHON   # real ones; PYTHON has the peers too

All give batches of 64 shuffled, mirrored, random-resized parts of 224 px as uint8, with two workers, from
the page cache. A core-second is a second of one processor, of a process and its workers, so that other work
on the machine disturbs the figures little. Contestants take turns; a peer that is absent is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import header
from peers.loaders import OURS, PEERS
from scan import drawn

from catflap.artifacts.dataset import Dataset
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.image import Frame

SCRIPT = Path(__file__).with_name("peers") / "loaders.py"
BASE = "ImageFolder, torchvision.io"
LIMIT = 300  # seconds a run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="class folders of JPEGs (default: drawn ones)")
    parser.add_argument("--count", type=int, default=2000, help="drawn photos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="that count; one more warms up")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peers", type=Path, metavar="PYTHON", default=Path(sys.executable))
    parser.add_argument("--only", default="", metavar="TEXT", help="contestants with this in their name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large, small = written(
            Path(folder), args.photos or drawn(Path(folder) / "drawn", args.count, 500, 375)
        )
        header(
            photos=large.roles["train"], rounds=args.rounds, epochs=args.epochs, workers=args.workers,
            mb={"originals": size(large, "shards/train-*"), "256 px": size(small, "shards/train-*"),
                "memory map": size(small, "pixels.npy")},
        )  # fmt: skip
        measure(Path(folder), args)


def written(folder: Path, photos: Path) -> tuple[Dataset, Dataset]:
    """The train photos as two Datasets, and as class folders."""
    manifest = scan(photos, folder / "m", profile=False)
    frame = Frame(224, 224)
    large = prepare(manifest, folder / "large", frame=frame, profile=False)
    small = prepare(manifest, folder / "small", frame=frame, shrink=256, pixels=True, profile=False)
    train = large.photos("train")
    for place, id in enumerate(train.ids.tolist()):
        path = folder / "photos" / large.labels[train.labels[place]] / f"{id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(train[place])
    return large, small


def size(dataset: Dataset, pattern: str) -> float:
    return round(sum(path.stat().st_size for path in dataset.path.glob(pattern)) / 1e6, 1)


def measure(folder: Path, args: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    skipped: set[str] = set()
    for _ in range(args.rounds):
        for name in (*PEERS, *OURS):
            if name in skipped or args.only not in name:
                continue
            answer = run(name, folder, args)
            if isinstance(answer, str):
                print(json.dumps({"what": name, "skipped": answer}), flush=True)
                skipped.add(name)
            else:
                found.setdefault(name, []).append(answer)
    if args.only in OURS[1]:
        found[f"{OURS[1]}, {args.workers} processes"] = [
            apart(OURS[1], folder, args) for _ in range(args.rounds)
        ]
    rates = {
        name: statistics.median(one["photos"] / one["cpu_s"] for one in runs) for name, runs in found.items()
    }
    for name, runs in found.items():
        wall = statistics.median(one["photos"] / one["seconds"] for one in runs)
        compared = {"of_imagefolder": round(rates[name] / rates[BASE], 2)} if BASE in rates else {}
        print(json.dumps({
            "what": name, "version": runs[0]["version"], "photos_per_core_s": round(rates[name]), **compared,
            "photos_per_s": round(wall), "n": runs[0]["photos"],
        }), flush=True)  # fmt: skip


def run(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any] | str:
    """One contestant's figures, or why it was skipped."""
    process = start(name, folder, args, [])
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"took more than {LIMIT} s"
    if process.returncode:
        return (err.strip().splitlines() or ["failed without a word"])[-1][:300]
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def apart(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of as many processes as workers, each with one thread and its share of the photos."""
    count = args.workers
    alone = argparse.Namespace(**{**vars(args), "workers": 1})
    processes = [start(name, folder, alone, [str(rank), str(count)]) for rank in range(count)]
    answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return {
        "photos": sum(answer["photos"] for answer in answers),
        "cpu_s": sum(answer["cpu_s"] for answer in answers),
        "seconds": max(answer["seconds"] for answer in answers),
        "version": answers[0]["version"],
    }


def start(name: str, folder: Path, args: argparse.Namespace, more: list[str]) -> subprocess.Popen[str]:
    """A process with one contestant; LitData clears $TMPDIR, so that each gets a folder of its own."""
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    python = sys.executable if name in OURS else args.peers
    command = [str(python), str(SCRIPT), name, str(folder), str(args.workers), str(args.epochs), *more]
    environment = {**os.environ, "TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(SCRIPT.parents[2] / "src")  # the peers' Python may lack Catflap
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


if __name__ == "__main__":
    main()
