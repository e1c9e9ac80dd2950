"""Time to the same validation accuracy: `catflap train` beside fastai, timm's pieces, torchvision's recipe.

    python benchmarks/trainers.py --peer fastai=PYTHON --peer timm=PYTHON --peer torchvision=PYTHON

The same backbone (EfficientNet-Lite0 with the packaged weights), the same train and validation photos, one
machine, one run, one after the other. Each peer runs in its own interpreter (peers/trainers.py) with that
peer, psutil and safetensors installed, as its documentation says, at 224 px, and is judged after every
epoch; judging does not count. Catflap's time is that of `train` with nothing cached. Seconds of the
processor stand beside seconds: on a busy machine they are the fairer number. `--cap` is in seconds of
the processor: 1200 are ten minutes of two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import header, need_photos

from catflap.artifacts.dataset import Dataset
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.image import Frame
from catflap.machine import describe_machine
from catflap.training.plan import Plan
from catflap.training.train import train

SHARES = {"train": 0.6, "validation": 0.36, "calibration": 0.02, "test": 0.02}  # accuracies need photos
SCRIPT = Path(__file__).with_name("peers") / "trainers.py"
Point = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, default=Path(os.environ.get("CATFLAP_PHOTOS", "../shared/data/photos"))
    )
    parser.add_argument("--count", type=int, metavar="N", help="photos of each label, spread over all")
    parser.add_argument("--epochs", type=int, default=3, help="of each peer; fastai adds a frozen one")
    parser.add_argument("--cap", type=float, default=1200, metavar="S", help="processor's seconds for a peer")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 288], metavar="PX", help="of Catflap")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help="fastai, timm, torchvision"
    )
    args = parser.parse_args()
    need_photos(args.photos)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CATFLAP_CACHE"] = f"{folder}/cache"
        photos = some(args.photos, Path(folder) / "some", args.count) if args.count else args.photos
        manifest = scan(photos, Path(folder) / "m", profile=False)
        ours: dict[int, Point] = {}
        for px in args.sizes:
            dataset = prepare(
                manifest, Path(folder) / f"d{px}", frame=Frame(px, px), shares=SHARES, profile=False
            )
            if not ours:
                roles = {role: dataset.roles[role] for role in ("train", "validation")}
                header(photos=str(args.photos), epochs=args.epochs, cap=args.cap, n=roles)
                task = handed_over(dataset, Path(folder), args)
            ours[px] = catflap(dataset, Path(folder) / f"c{px}")
            print(json.dumps({"what": f"catflap head, {px} px", **ours[px]}), flush=True)
        for peer in args.peer:
            name, _, python = peer.partition("=")
            compare(name, run(name, python, task), ours)


def some(photos: Path, out: Path, count: int) -> Path:
    """Class folders with links to `count` photos of each label."""
    for label in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = sorted(path for path in label.rglob("*") if path.is_file())
        (out / label.name).mkdir(parents=True)
        for path in files[:: max(1, len(files) // count)][:count]:
            (out / label.name / path.name).symlink_to(path.resolve())
    return out


def catflap(dataset: Dataset, out: Path) -> Point:
    """What `train` takes and reaches; the frozen network's graph is written in this time, too."""
    start, cpu = time.perf_counter(), time.process_time()
    checkpoint = train(dataset, out, Plan())
    taken = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    return {name: round(value, 1) for name, value in taken.items()} | {
        "accuracy": checkpoint.metrics["accuracy"]["value"]
    }


def handed_over(dataset: Dataset, folder: Path, args: argparse.Namespace) -> Path:
    """The task of the peers: photos as files, and the backbone's weights."""
    from safetensors.torch import save_file

    from catflap.training.backbones import PACKAGED, load_backbone

    task: dict[str, Any] = {"labels": len(dataset.labels), "epochs": args.epochs, "cap": args.cap}
    for role in ("train", "validation"):
        photos, task[role] = dataset.photos(role), []
        for place, id in enumerate(photos.ids.tolist()):
            path = folder / role / f"{id}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(photos[place])
            task[role].append((str(path), int(photos.labels[place])))
    weights = folder / "backbone.safetensors"
    save_file(load_backbone(PACKAGED).network.state_dict(), weights)
    path = folder / "task.json"
    path.write_text(json.dumps({**task, "weights": str(weights), "threads": describe_machine().cores}))
    return path


def run(name: str, python: str, task: Path) -> list[Point]:
    """The lines that a peer printed, as they come."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [python, "-W", "ignore", str(SCRIPT), name, str(task)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    points = []
    for line in process.stdout:
        if line.startswith("{"):
            points.append({"what": name, **json.loads(line)})
            print(json.dumps(points[-1]), flush=True)
    if process.wait():
        print(json.dumps({"what": name, "skipped": f"exit {process.returncode}, see above"}), flush=True)
    return [point for point in points if "accuracy" in point]


def compare(name: str, points: list[Point], ours: dict[int, Point]) -> None:
    """Print how long each took to what the other reached."""
    if not points:
        return
    best = max(points, key=lambda point: float(point["accuracy"]))
    for px, mine in ours.items():
        level = next((point for point in points if point["accuracy"] >= mine["accuracy"]), None)
        point: Point = {
            "what": f"{name} beside catflap head, {px} px",
            "best": best["accuracy"],
            "ours": mine["accuracy"],
        }
        if mine["accuracy"] >= best["accuracy"]:
            point["to the peer's best"] = ratios(best, mine)
        point["to ours"] = ratios(level, mine) if level else "not in these epochs"
        print(json.dumps(point), flush=True)


def ratios(theirs: Point, mine: Point) -> dict[str, float]:
    """How many times as long the peer took."""
    return {name: round(theirs[name] / mine[name], 1) for name in ("seconds", "cpu_s")}


if __name__ == "__main__":
    main()
