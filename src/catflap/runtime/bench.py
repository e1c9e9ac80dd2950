"""How fast a Bundle answers on this device, stage by stage."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from catflap.artifacts.golden import load_photo, read_golden
from catflap.errors import CatflapError
from catflap.image import decode, read_pixels
from catflap.machine import describe_machine, peak_memory_mb, versions
from catflap.progress import Progress, silent
from catflap.runtime.classifier import Classifier
from catflap.runtime.energy import EnergyMeter
from catflap.version import VERSION

WARM_UP = 10
COLD_STARTS = 3
FEWEST = 64  # queries; the 90th percentile needs 44 for a bound with 99 % confidence
PERCENTILE, CONFIDENCE = 0.9, 0.99
STAGES = ("decode", "resize", "network", "rest", "answer")
LONGEST_THROUGHPUT = 2.0  # seconds for each number of threads


def bench(
    bundle: str | os.PathLike[str],
    *,
    variant: str | None = None,
    photo: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seconds: float = 3.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Latency percentiles in ms of decode, resize, network, rest and the whole answer; what else it costs.

    One photo is asked again and again, one after another (MLPerf's single stream), for `seconds` and at least
    64 times. `rules` say so in the answer. Also photos per second by threads, memory in MB, joules a photo
    where they can be read, and the seconds from process to first answer.
    """
    if not 0 < seconds <= 86_400:
        raise CatflapError(f"{seconds:g} seconds are not possible.", "Use more than 0, and 86,400 at most.")
    classifier = Classifier(bundle, variant, threads=threads)
    data = read_golden(classifier.bundle).photos[0] if photo is None else load_photo(photo, classifier.frame)
    cores = describe_machine().cores
    progress("bench", 0, 3)
    meter = EnergyMeter()
    taken, asked = _single_stream(classifier, data, seconds)
    joules = meter.joules()
    progress("bench", 1, 3)
    throughput = _throughput(classifier, data, cores, min(seconds, LONGEST_THROUGHPUT))
    progress("bench", 2, 3)
    cold = _cold_start(classifier.bundle.path, classifier.variant.name, threads, data)
    progress("bench", 3, 3)
    timings = {stage: _percentiles(times) for stage, times in taken.items()}
    return {
        "bundle": classifier.bundle.name,
        "variant": classifier.variant.name,
        "bytes": classifier.bundle.size_of(classifier.variant),
        "photo_bytes": len(data),
        "threads": threads or cores,
        "milliseconds": timings,
        "rules": single_stream(taken["answer"], seconds),
        "photos_per_second": 1e3 / timings["answer"]["mean"],
        "throughput": throughput,
        "memory_mb": round(peak_memory_mb(), 1),
        "joules_a_photo": None if joules is None else joules / asked,
        "cold_start": cold,
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, system, and the versions that matter."""
    parts = versions(("numpy", "onnxruntime", "pillow"))
    return {**describe_machine().to_json(), "versions": {"catflap": VERSION, **parts}}


def single_stream(taken: Sequence[float], seconds: float) -> dict[str, Any]:
    """How long and how often was asked, and the early-stopping estimate of the 90th percentile in ms.

    MLPerf Inference's single stream: queries one after another, at least so many and for at least so
    long (there 60 s and 64); with a confidence of 99 % the 90th percentile is not above the estimate,
    however many queries more would have been asked.
    """
    place = _bound(len(taken))
    return {
        "scenario": "single stream",
        "min_seconds": seconds,
        "seconds": round(sum(taken) / 1e3, 3),
        "min_queries": FEWEST,
        "queries": len(taken),
        "percentile": PERCENTILE,
        "confidence": CONFIDENCE,
        "early_stopping_estimate": None if place is None else float(np.sort(taken)[place]),
    }


def _bound(count: int) -> int | None:
    """The position, among sorted times, of an upper bound for the percentile; None when there are too few.

    The largest number t of times above it for which t or fewer of `count` would be above the true
    percentile with a chance of at most 1 - CONFIDENCE (a binomial distribution).
    """
    chance, above = 0.0, -1
    for over in range(count):
        ways = math.lgamma(count + 1) - math.lgamma(over + 1) - math.lgamma(count - over + 1)
        chance += math.exp(ways + over * math.log(1 - PERCENTILE) + (count - over) * math.log(PERCENTILE))
        if chance > 1 - CONFIDENCE:
            break
        above = over
    return None if above < 0 else count - 1 - above


def _single_stream(classifier: Classifier, data: bytes, seconds: float) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of each stage, and how often in all a photo was answered.

    In turns: the stages apart, which costs a copy, and the answer as anybody gets it.
    """
    for _ in range(WARM_UP):
        classifier(data)
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
    end = perf_counter() + seconds
    while perf_counter() < end or len(taken["answer"]) < FEWEST:
        marks = [perf_counter()]
        photo = decode(data, classifier.frame)
        marks.append(perf_counter())
        pixels = read_pixels(photo, classifier.frame)
        marks.append(perf_counter())
        logits = classifier.model(pixels[None])
        marks.append(perf_counter())
        classifier.to_prediction(classifier.probabilities(logits)[0], marks[0])
        marks.append(perf_counter())
        classifier(data)
        marks.append(perf_counter())
        for stage, start, stop in zip(STAGES, marks, marks[1:], strict=False):
            taken[stage].append((stop - start) * 1e3)
    return taken, WARM_UP + 2 * len(taken["answer"])


def _percentiles(taken: Sequence[float]) -> dict[str, float]:
    names = {"p50": 50, "p90": 90, "p99": 99}
    found = {name: float(np.percentile(taken, share)) for name, share in names.items()}
    return {**found, "mean": float(np.mean(taken)), "n": len(taken)}


def _throughput(
    classifier: Classifier, data: bytes, cores: int, seconds: float
) -> list[dict[str, float | int]]:
    """Photos a second by the number of photos at once, and by the network's threads for one photo."""
    found: list[dict[str, float | int]] = []
    alone = Classifier(classifier.bundle, classifier.variant.name, threads=1)
    powers = sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})
    for at_once in powers:
        rate = _rate(alone, data, at_once, seconds)
        found.append({"photos_at_once": at_once, "network_threads": 1, "photos_per_second": rate})
    for threads in powers[1:]:
        many = Classifier(classifier.bundle, classifier.variant.name, threads=threads)
        rate = _rate(many, data, 1, seconds)
        found.append({"photos_at_once": 1, "network_threads": threads, "photos_per_second": rate})
    return found


def _rate(classifier: Classifier, data: bytes, at_once: int, seconds: float) -> float:
    classifier(data)
    start = perf_counter()

    def ask() -> int:
        asked = 0
        while perf_counter() < start + seconds or not asked:
            classifier(data)
            asked += 1
        return asked

    with ThreadPoolExecutor(at_once) as pool:
        asked = sum(future.result() for future in [pool.submit(ask) for _ in range(at_once)])
    return round(asked / (perf_counter() - start), 2)


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
    command = [sys.executable, "-P", "-c", program, str(path), variant, str(threads or 0)]
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
