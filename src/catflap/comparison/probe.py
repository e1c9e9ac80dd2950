"""Measure one environment in its own process: `python -m catflap.comparison.probe`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from catflap.image import read_pixels
from catflap.machine import peak_memory_mb

RUNS = 50


def probe(side: str, model: str, photo: str, variant: str) -> dict[str, Any]:
    """Milliseconds per photo on one thread (median of 50), and the peak memory of this process in MB."""
    answer = _trained(model) if side == "training" else _exported(model, variant)
    data = Path(photo).read_bytes()
    answer(data)
    memory = peak_memory_mb()
    taken = []
    for _ in range(RUNS):
        start = perf_counter()
        answer(data)
        taken.append((perf_counter() - start) * 1e3)
    return {
        "milliseconds": sorted(taken)[RUNS // 2],
        "timed_seconds": sum(taken) / 1e3,
        "memory_mb": memory,
    }


def _trained(model: str) -> Callable[[bytes], Any]:
    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.network import open_checkpoint

    checkpoint = load_checkpoint(model)
    logits = open_checkpoint(checkpoint, threads=1)
    return lambda data: logits(read_pixels(data, checkpoint.frame)[None])


def _exported(model: str, variant: str) -> Callable[[bytes], Any]:
    from catflap.runtime.classifier import Classifier

    return Classifier(model, variant, threads=1)


if __name__ == "__main__":
    print(json.dumps(probe(*sys.argv[1:5])))
