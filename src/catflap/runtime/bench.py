"""How fast a Bundle answers on this device, stage by stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from catflap.artifacts.golden import read_golden
from catflap.errors import CatflapError
from catflap.image import read_file, read_pixels
from catflap.machine import describe_machine, versions
from catflap.progress import Progress, silent
from catflap.runtime.classifier import Classifier
from catflap.version import VERSION

WARM_UP = 10
COLD_STARTS = 3


def bench(
    bundle: str | os.PathLike[str],
    *,
    variant: str | None = None,
    photo: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seconds: float = 3.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Latency percentiles in ms of pixels (decode, orient, resize), network and the whole answer.

    Measured on one photo, one after another (single stream), for `seconds` each and at least 50
    times; also the photos per second, the memory in MB and the seconds from process to first answer.
    """
    classifier = Classifier(bundle, variant, threads=threads)
    data = read_golden(classifier.bundle).photos[0] if photo is None else read_file(photo)
    pixels = read_pixels(data, classifier.frame)[None]
    stages = {
        "pixels": lambda: read_pixels(data, classifier.frame),
        "network": lambda: classifier.frames(pixels),
        "answer": lambda: classifier(data),
    }
    timings = {}
    for done, (stage, step) in enumerate(stages.items()):
        progress("bench", done, len(stages) + 1)
        timings[stage] = _percentiles(_timed(step, seconds))
    cold = _cold_start(classifier.bundle.path, classifier.variant.name, threads, data)
    progress("bench", len(stages) + 1, len(stages) + 1)
    return {
        "bundle": classifier.bundle.name,
        "variant": classifier.variant.name,
        "bytes": len(classifier.bundle.members[classifier.variant.file]),
        "photo_bytes": len(data),
        "threads": threads or describe_machine().cores,
        "milliseconds": timings,
        "photos_per_second": 1e3 / timings["answer"]["mean"],
        "cold_start": cold,
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, system, and the versions that matter."""
    parts = versions(("numpy", "onnxruntime", "pillow"))
    return {**describe_machine().to_json(), "versions": {"catflap": VERSION, **parts}}


def _timed(step: Any, seconds: float) -> list[float]:
    for _ in range(WARM_UP):
        step()
    taken: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or len(taken) < 50:
        start = perf_counter()
        step()
        taken.append((perf_counter() - start) * 1e3)
    return taken


def _percentiles(taken: list[float]) -> dict[str, float]:
    names = {"p50": 50, "p90": 90, "p99": 99}
    found = {name: float(np.percentile(taken, share)) for name, share in names.items()}
    return {**found, "mean": float(np.mean(taken)), "n": len(taken)}


def _cold_start(path: Path, variant: str, threads: int | None, photo: bytes) -> dict[str, float]:
    """Seconds and MB of a fresh process that answers once, for this photo."""
    program = (
        "import sys\n"
        "from catflap.machine import peak_memory_mb\n"
        "from catflap.runtime.classifier import Classifier\n"
        "classifier = Classifier(sys.argv[1], sys.argv[2], threads=int(sys.argv[3]) or None)\n"
        "classifier(sys.stdin.buffer.read())\n"
        "print(peak_memory_mb())\n"
    )
    command = [sys.executable, "-c", program, str(path), variant, str(threads or 0)]
    taken: list[float] = []
    memory = 0.0
    for _ in range(COLD_STARTS):
        start = perf_counter()
        answer = subprocess.run(command, input=photo, capture_output=True)
        if answer.returncode:
            why = answer.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise CatflapError(f"A fresh process cannot answer: {why}.", "Run: catflap doctor")
        taken.append(perf_counter() - start)
        memory = max(memory, float(answer.stdout))
    return {"seconds": float(np.median(taken)), "memory_mb": memory, "n": COLD_STARTS}
