"""How fast a Bundle answers on this device, stage by stage."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from catflap.artifacts.golden import read_golden
from catflap.image import read_file, read_pixels
from catflap.progress import Progress, silent
from catflap.runtime.classifier import Classifier
from catflap.runtime.session import VERSION as ONNXRUNTIME
from catflap.version import VERSION

WARM_UP = 10


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
    cold = _cold_start(classifier.bundle.path, classifier.variant.name, threads)
    progress("bench", len(stages) + 1, len(stages) + 1)
    return {
        "bundle": classifier.bundle.name,
        "variant": classifier.variant.name,
        "bytes": len(classifier.bundle.members[classifier.variant.file]),
        "photo_bytes": len(data),
        "threads": threads or os.cpu_count(),
        "milliseconds": timings,
        "photos_per_second": 1e3 / timings["answer"]["mean"],
        "cold_start": cold,
        "machine": machine(),
    }


def machine() -> dict[str, str | int | None]:
    """What was measured on: processor, cores, system and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": ONNXRUNTIME,
        "catflap": VERSION,
    }


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


def _cold_start(path: Path, variant: str, threads: int | None) -> dict[str, float]:
    """Seconds and MB of a fresh process that answers once, as the operating system counts them."""
    program = (
        "import sys, resource\n"
        "from catflap.artifacts.golden import read_golden\n"
        "from catflap.runtime.classifier import Classifier\n"
        "classifier = Classifier(sys.argv[1], sys.argv[2], threads=int(sys.argv[3]) or None)\n"
        "classifier(read_golden(classifier.bundle).photos[0])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", program, str(path), variant, str(threads or 0)]
    taken: list[float] = []
    memory = 0
    for _ in range(3):
        start = perf_counter()
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        taken.append(perf_counter() - start)
        memory = max(memory, int(answer.stdout))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {"seconds": float(np.median(taken)), "memory_mb": memory / unit}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
