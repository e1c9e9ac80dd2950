"""Measure one environment in its own process: `python -m catflap.comparison.probe`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from catflap.image import read_pixels
from catflap.machine import peak_memory_mb
from catflap.runtime.bench import EnergyMeter

RUNS = 50
NETWORK = ("socket.connect", "socket.sendto", "socket.getaddrinfo")  # audit events of a process that asks out


def probe(side: str, model: str, photo: str, variant: str) -> dict[str, Any]:
    """What one process takes to answer a photo again and again, on one thread.

    `milliseconds` is the median of 50 answers, `percentiles` has more of them and n; `network_ms` is the
    median without decoding and resizing. `memory_mb` is the peak of this process after its first answer.
    `joules` are of an answer, None where they cannot be read. `same_bits`: every answer was the same.
    `connections` counts what went to the network, `modules` Python's and `libraries` the machine's loaded
    code, None where the system does not report it.
    """
    calls = 0

    def count(event: str, _: Any) -> None:
        nonlocal calls
        calls += event in NETWORK

    sys.addaudithook(count)
    answer, network = _trained(model) if side == "training" else _exported(model, variant)
    data = Path(photo).read_bytes()
    first = answer(data)
    memory = peak_memory_mb()
    taken, alone, same = [], [], True
    start = perf_counter()
    meter = EnergyMeter()
    for _ in range(RUNS):
        begin = perf_counter()
        found = answer(data)
        taken.append((perf_counter() - begin) * 1e3)
        same = same and found == first
    joules = meter.joules()
    pixels = network[1](data)
    for _ in range(RUNS):
        begin = perf_counter()
        network[0](pixels)
        alone.append((perf_counter() - begin) * 1e3)
    return {
        "milliseconds": float(np.median(taken)),
        "percentiles": {f"p{p}": float(np.percentile(taken, p)) for p in (50, 90, 99)} | {"n": RUNS},
        "network_ms": float(np.median(alone)),
        "timed_seconds": perf_counter() - start,
        "memory_mb": memory,
        "joules": None if joules is None else joules / RUNS,
        "same_bits": same,
        "connections": calls,
        "modules": len(sys.modules),
        "libraries": _libraries(),
    }


def _libraries() -> int | None:
    """How many shared libraries this process has loaded."""
    try:
        maps = Path("/proc/self/maps").read_text("utf-8", "replace")
    except OSError:
        return None
    return len(set(re.findall(r"(/\S+\.so\S*)$", maps, re.MULTILINE)))


Answer = Callable[[bytes], Any]  # of equal photos equal answers compare as equal
Network = tuple[Callable[[Any], Any], Callable[[bytes], Any]]  # frames to logits, photo to frames


def _trained(model: str) -> tuple[Answer, Network]:
    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.network import open_checkpoint

    checkpoint = load_checkpoint(model)
    logits = open_checkpoint(checkpoint, threads=1)

    def frames(data: bytes) -> Any:
        return read_pixels(data, checkpoint.frame)[None]

    return (lambda data: logits(frames(data)).tolist()), (logits, frames)


def _exported(model: str, variant: str) -> tuple[Answer, Network]:
    from catflap.runtime.classifier import Classifier

    classifier = Classifier(model, variant, threads=1)

    def answer(data: bytes) -> dict[str, float]:
        return classifier(data).probabilities

    return answer, (classifier.model, lambda data: read_pixels(data, classifier.frame)[None])


if __name__ == "__main__":
    print(json.dumps(probe(*sys.argv[1:5])))
