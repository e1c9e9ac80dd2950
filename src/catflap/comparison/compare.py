"""The verb `compare`: run probe.py in both environments; size, memory, start and compute side by side."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from catflap.artifacts.golden import read_golden
from catflap.errors import CatflapError
from catflap.machine import installed_packages
from catflap.progress import Progress, silent
from catflap.runtime.bench import machine
from catflap.runtime.engine import choose_variant

STARTS = 3
ROWS = {  # field: its name in the table, and the unit that it is divided by
    "flops_a_photo": ("work per photo, MFLOP", 1e6),
    "flops_in_all": ("total work, GFLOP", 1e9),
    "seconds": ("total time, s", 1),
    "photos_per_second": ("photos per second", 1),
    "peak_memory_mb": ("peak memory, MB", 1),
    "seconds_to_first_answer": ("start to first answer, s", 1),
    "milliseconds_an_answer": ("one answer, one thread, ms", 1),
    "answering_memory_mb": ("memory during inference, MB", 1),
    "packages": ("packages", 1),
    "packages_mb": ("packages, MB", 1),
    "model_bytes": ("model, MB", 1e6),
}


def compare(
    checkpoint: Path | str, bundle: Path | str, *, variant: str | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """The cost of training beside the cost of inference, measured here or by `train`.

    Rows: FLOPs a photo, seconds and photos/s, ms an answer on one thread, peak memory in MB,
    seconds from process to first answer, packages and MB installed, bytes of the model. The photos/s of a
    training whose features were all cached are None.
    """
    trained, shipped = load_checkpoint(checkpoint), load_bundle(bundle)
    name = choose_variant(shipped, variant).name
    if shipped.head["ancestors"].get("checkpoint") not in (None, trained.sha256):
        raise CatflapError(
            f"{shipped.path} was not exported from {trained.path}.", "Name the checkpoint it came from."
        )
    progress("compare", 0, 2)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo"
        photo.write_bytes(read_golden(shipped).photos[0])
        learning = _training_side(trained, photo)
        progress("compare", 1, 2)
        answering = _device_side(trained, shipped, name, photo)
        progress("compare", 2, 2)
    return {"training": learning, "inference": answering, "machine": machine()}


def table(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparison as table rows: name with unit, training, inference, and their ratio."""
    learning, answering = comparison["training"], comparison["inference"]
    rows = []
    for field, (what, unit) in ROWS.items():
        right = answering[field] / unit
        row = {"what": what, "training": None, "inference": round(right, 3), "ratio": None}
        if learning[field] is not None:
            left = learning[field] / unit
            row |= {"training": round(left, 3), "ratio": left / right}
        rows.append(row)
    return rows


def _training_side(trained: Checkpoint, photo: Path) -> dict[str, Any]:
    cost = trained.cost
    packages = installed_packages(("train",))
    forward, backward = cost["flops_forward"], cost["flops_backward"]
    seen = cost["photo_passes"] + cost.get("cached_photos", 0)
    return {
        "flops_a_photo": forward + backward,
        "flops_in_all": forward * seen + backward * cost.get("learnt_photos", seen),
        "seconds": cost["seconds"],
        "photos_per_second": cost["photos_per_second"] or None,
        "peak_memory_mb": cost["peak_memory_mb"],
        **_probed("training", trained.path, photo, ""),
        "packages": len(packages),
        "packages_mb": sum(packages.values()),
        "model_bytes": (trained.path / WEIGHTS).stat().st_size,
    }


def _device_side(trained: Checkpoint, shipped: Bundle, variant: str, photo: Path) -> dict[str, Any]:
    packages = installed_packages()
    probed = _probed("inference", shipped.path, photo, variant)
    return {
        "flops_a_photo": trained.cost["flops_forward"],
        "flops_in_all": trained.cost["flops_forward"],
        "seconds": probed["milliseconds_an_answer"] / 1e3,
        "photos_per_second": 1e3 / probed["milliseconds_an_answer"],
        "peak_memory_mb": probed["answering_memory_mb"],
        **probed,
        "packages": len(packages),
        "packages_mb": sum(packages.values()),
        "model_bytes": shipped.size_of(shipped.variant(variant)),
    }


def _probed(side: str, model: Path, photo: Path, variant: str) -> dict[str, float]:
    """Measure in fresh processes; the cold start is the time of a whole process without its timed runs."""
    probe = "catflap.comparison.probe"  # -P: import nothing from the working directory
    command = [sys.executable, "-P", "-m", probe, side, str(model), str(photo), variant]
    starts, answers = [], []
    for _ in range(STARTS):
        start = perf_counter()
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        whole = perf_counter() - start
        if process.returncode:
            raise CatflapError(
                f"The {side} side cannot be measured: {process.stderr.strip().splitlines()[-1:]}.",
                "Run: catflap doctor",
            )
        answers.append(json.loads(process.stdout))
        starts.append(whole - answers[-1]["timed_seconds"])
    return {
        "seconds_to_first_answer": median(starts),
        "milliseconds_an_answer": median(answer["milliseconds"] for answer in answers),
        "answering_memory_mb": max(answer["memory_mb"] for answer in answers),
    }
