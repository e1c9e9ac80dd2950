"""How fast a Bundle answers: latency by stage, throughput, memory, energy, cold start; and device profiles,
by which times measured here are scaled to another device."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.folder import check_place, write_atomically
from catflap.artifacts.golden import load_photo, read_golden
from catflap.artifacts.schema import read_json
from catflap.errors import BadArtifact, CatflapError
from catflap.image import decode, read_pixels
from catflap.machine import describe_machine, peak_memory_mb, versions
from catflap.progress import Progress, silent
from catflap.runtime.classifier import Classifier
from catflap.runtime.engine import open_variant
from catflap.version import VERSION

WARM_UP = 10
COLD_STARTS = 3
MIN_QUERIES = 64  # the 90th percentile needs 44 for a bound with 99 % confidence
PERCENTILE, CONFIDENCE = 0.9, 0.99
STAGES = ("decode", "resize", "network", "rest", "answer")
MAX_THROUGHPUT_SECONDS = 2.0  # for each number of threads
PROFILE_KIND, REFERENCE = "device-profile", "cat"
PROFILE_ROUNDS, PROFILE_WARM_UP = 40, 5
POWERCAP = Path("/sys/class/powercap")


def bench(
    bundle: str | os.PathLike[str],
    *,
    variant: str | None = None,
    photo: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seconds: float = 3.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Latency percentiles in ms of decode, resize, network, rest and the whole answer, and other costs.

    One photo is answered again and again, one query after another (MLPerf's single-stream scenario), for
    `seconds` and at least 64 times; `rules` in the result state that. Also photos per second by number of
    threads, memory in MB, joules per photo where they can be read, and seconds from process start to first
    answer.
    """
    if not 0 < seconds <= 86_400:
        raise CatflapError(f"seconds is {seconds:g}.", "Use more than 0, and at most 86,400.")
    classifier = Classifier(bundle, variant, threads=threads)
    data = read_golden(classifier.bundle).photos[0] if photo is None else load_photo(photo, classifier.frame)
    cores = describe_machine().cores
    progress("bench", 0, 3)
    meter = EnergyMeter()
    times, queries = _single_stream(classifier, data, seconds)
    joules = meter.joules()
    progress("bench", 1, 3)
    throughput = _throughput(classifier, data, cores, min(seconds, MAX_THROUGHPUT_SECONDS))
    progress("bench", 2, 3)
    cold = _cold_start(classifier.bundle.path, classifier.variant.name, threads, data)
    progress("bench", 3, 3)
    milliseconds = {stage: _percentiles(stage_times) for stage, stage_times in times.items()}
    return {
        "bundle": classifier.bundle.name,
        "variant": classifier.variant.name,
        "bytes": classifier.bundle.size_of(classifier.variant),
        "photo_bytes": len(data),
        "threads": threads or cores,
        "milliseconds": milliseconds,
        "rules": single_stream_rules(times["answer"], seconds),
        "photos_per_second": 1e3 / milliseconds["answer"]["mean"],
        "throughput": throughput,
        "memory_mb": round(peak_memory_mb(), 1),
        "joules_a_photo": None if joules is None else joules / queries,
        "cold_start": cold,
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """The machine under the figures: processor, cores, system, and the versions that matter."""
    parts = versions(("numpy", "onnxruntime", "pillow"))
    return {**describe_machine().to_json(), "versions": {"catflap": VERSION, **parts}}


def single_stream_rules(times: Sequence[float], seconds: float) -> dict[str, Any]:
    """The rules of MLPerf Inference's single stream, with the early-stopping estimate of the 90th percentile.

    Queries follow one another, at least MIN_QUERIES of them and for at least `seconds` (in MLPerf 60 s). With
    99 % confidence the 90th percentile is not above the estimate, in ms; None when there are too few queries.
    """
    index = _percentile_bound(len(times))
    return {
        "scenario": "single stream",
        "min_seconds": seconds,
        "seconds": round(sum(times) / 1e3, 3),
        "min_queries": MIN_QUERIES,
        "queries": len(times),
        "percentile": PERCENTILE,
        "confidence": CONFIDENCE,
        "early_stopping_estimate": None if index is None else float(np.sort(times)[index]),
    }


def _percentile_bound(count: int) -> int | None:
    """The index, among sorted times, of an upper bound for the percentile; None when there are too few.

    It leaves the largest number t of times above it such that t or fewer of `count` exceed the true
    percentile with probability at most 1 - CONFIDENCE (binomial distribution).
    """
    probability, above = 0.0, -1
    for exceeding in range(count):
        ways = math.lgamma(count + 1) - math.lgamma(exceeding + 1) - math.lgamma(count - exceeding + 1)
        log_power = exceeding * math.log(1 - PERCENTILE) + (count - exceeding) * math.log(PERCENTILE)
        probability += math.exp(ways + log_power)
        if probability > 1 - CONFIDENCE:
            break
        above = exceeding
    return None if above < 0 else count - 1 - above


def _single_stream(classifier: Classifier, data: bytes, seconds: float) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of each stage, and the number of answers in all.

    Each round measures the stages one by one, which costs a copy, and then the answer as a caller gets it.
    """
    for _ in range(WARM_UP):
        classifier(data)
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    end = perf_counter() + seconds
    while perf_counter() < end or len(times["answer"]) < MIN_QUERIES:
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
            times[stage].append((stop - start) * 1e3)
    return times, WARM_UP + 2 * len(times["answer"])


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    values = {f"p{percent}": float(np.percentile(times, percent)) for percent in (50, 90, 99)}
    return {**values, "mean": float(np.mean(times)), "n": len(times)}


def _throughput(
    classifier: Classifier, data: bytes, cores: int, seconds: float
) -> list[dict[str, float | int]]:
    """Photos per second by the number of concurrent photos, and by the network's threads for one photo."""
    rows: list[dict[str, float | int]] = []
    single = Classifier(classifier.bundle, classifier.variant.name, threads=1)
    counts = sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})
    for concurrent in counts:
        rate = _rate(single, data, concurrent, seconds)
        rows.append({"photos_at_once": concurrent, "network_threads": 1, "photos_per_second": rate})
    for threads in counts[1:]:
        parallel = Classifier(classifier.bundle, classifier.variant.name, threads=threads)
        rate = _rate(parallel, data, 1, seconds)
        rows.append({"photos_at_once": 1, "network_threads": threads, "photos_per_second": rate})
    return rows


def _rate(classifier: Classifier, data: bytes, concurrent: int, seconds: float) -> float:
    classifier(data)
    start = perf_counter()

    def answer_until_end() -> int:
        count = 0
        while perf_counter() < start + seconds or not count:
            classifier(data)
            count += 1
        return count

    with ThreadPoolExecutor(concurrent) as pool:
        answers = sum(
            future.result() for future in [pool.submit(answer_until_end) for _ in range(concurrent)]
        )
    return round(answers / (perf_counter() - start), 2)


def _cold_start(path: Path, variant: str, threads: int | None, photo: bytes) -> dict[str, float]:
    """Seconds and peak memory in MB of a fresh process that answers one photo."""
    program = (
        "import sys\n"
        "from catflap.machine import peak_memory_mb\n"
        "from catflap.runtime.classifier import Classifier\n"
        "classifier = Classifier(sys.argv[1], sys.argv[2], threads=int(sys.argv[3]) or None)\n"
        "classifier(sys.stdin.buffer.read())\n"
        "print(peak_memory_mb())\n"
    )
    command = [sys.executable, "-P", "-c", program, str(path), variant, str(threads or 0)]
    times: list[float] = []
    memory = 0.0
    for _ in range(COLD_STARTS):
        start = perf_counter()
        run = subprocess.run(command, input=photo, capture_output=True)
        if run.returncode:
            last_line = run.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise CatflapError(f"A fresh process cannot answer: {last_line}.", "Run: catflap doctor")
        times.append(perf_counter() - start)
        memory = max(memory, float(run.stdout))
    return {"seconds": float(np.median(times)), "memory_mb": memory, "n": COLD_STARTS}


class EnergyMeter:
    """Energy in joules of all the machine's processors since it was created, other programs included.

    Read from Intel's and AMD's RAPL counters where Linux lets this process read them.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        # A zone with one colon is a package, or "psys": the whole machine, which counts its packages again.
        zones = (zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._zones = sorted(zone for zone in zones if _read_text(zone / "name") != "psys")
        self._before = [_read_number(zone / "energy_uj") for zone in self._zones]
        self._total = 0

    def joules(self) -> float | None:
        """The joules so far; None where they cannot be read.

        Call it more often than the counter wraps, which takes about an hour of full load.
        """
        for number, zone in enumerate(self._zones):
            before, now = self._before[number], _read_number(zone / "energy_uj")
            if before is None or now is None:
                return None
            wrap = _read_number(zone / "max_energy_range_uj") or 0
            self._total += now - before if now >= before else now - before + wrap
            self._before[number] = now
        return self._total / 1e6 if self._zones else None


def _read_text(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.read_text().strip()
    return ""


def _read_number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


@dataclass(frozen=True)
class DeviceProfile:
    """A device's speed: `ms` of the shipped bundle's network on `machine` with `threads`.

    `reference` is the sha256 of that bundle.
    """

    machine: dict[str, Any]
    threads: int
    reference: str
    ms: float

    def name(self) -> str:
        """The device in words."""
        return f"{self.machine.get('processor', 'a device')} with {self.threads} threads"


def profile_device(threads: int) -> DeviceProfile:
    """Time the shipped bundle's network on this machine."""
    bundle = load_bundle(REFERENCE)
    return DeviceProfile(describe_machine().to_json(), threads, bundle.sha256, _network_ms(bundle, threads))


def check_profile(path: Path) -> None:
    """Raise CatflapError where no profile may be written: over a file that is not one."""
    check_place(path)
    if path.exists():
        load_profile(path)


def write_profile(path: Path, profile: DeviceProfile) -> None:
    """Write a profile for `catflap export --device-profile`, where `check_profile` allows it."""
    check_profile(path)
    fields = {"catflap": PROFILE_KIND, "version": 1, **vars(profile)}
    write_atomically(path, (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("utf-8"))


def load_profile(path: str | os.PathLike[str]) -> DeviceProfile:
    """A profile that `catflap bench --profile` wrote; BadArtifact when the file is not one."""
    fields = read_json(Path(path), PROFILE_KIND)
    names = set(DeviceProfile.__dataclass_fields__)
    types = {"machine": (dict,), "threads": (int,), "reference": (str,), "ms": (int, float)}
    valid = set(fields) == names | {"catflap", "version"}
    valid = valid and all(type(fields[name]) in allowed for name, allowed in types.items())
    if not valid or not (0 < fields["ms"] < 1e9 and 0 < fields["threads"] < 1e9):
        raise BadArtifact(f"{path} is not a valid device profile.", "Write it with: catflap bench --profile")
    return DeviceProfile(**{name: fields[name] for name in names})


def device_slowdown(profile: DeviceProfile) -> float:
    """How many times slower than this machine the device is, with the profile's number of threads.

    Both times are of the shipped bundle's int8 network; float networks may scale somewhat differently.
    """
    bundle = load_bundle(REFERENCE)
    if bundle.sha256 != profile.reference:
        raise CatflapError(
            "The device profile was written by another version of Catflap.",
            "Write it again: catflap bench --profile",
        )
    return profile.ms / _network_ms(bundle, profile.threads)


def median_ms(step: Callable[[], object]) -> float:
    """The median milliseconds of a step, after a warm-up."""
    times = []
    for _ in range(PROFILE_ROUNDS + PROFILE_WARM_UP):
        start = perf_counter()
        step()
        times.append((perf_counter() - start) * 1e3)
    return float(np.median(times[PROFILE_WARM_UP:]))


def _network_ms(bundle: Bundle, threads: int) -> float:
    frame = read_golden(bundle).frames[:1]
    model = open_variant(bundle, bundle.variant(), threads)
    return median_ms(lambda: model(frame))
