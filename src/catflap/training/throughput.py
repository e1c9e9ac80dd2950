"""Photos a second of features and of training every weight, by device, precision and batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import nn

from catflap.image import Frame
from catflap.machine import keep_memory, peak_memory_mb
from catflap.training.backbones import load_backbone
from catflap.training.depthwise import fast_depthwise
from catflap.training.distributed import Precision, autocast, fastest_precision
from catflap.training.features import open_extractor
from catflap.training.head import fit_head
from catflap.training.network import Network

LABELS = 2
FEWEST = 3  # rounds that are timed


@dataclass(frozen=True)
class Throughput:
    """Photos a second over `photos` photos; `peak_mb` is the device's memory on a GPU, else the process's.

    On a processor the seconds are those that its cores worked for this process, so that other programs do not
    count; on a GPU they are the clock's.
    """

    per_second: float
    photos: int
    peak_mb: float
    precision: str
    batch: int

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def measure_features(name: str, frame: Frame, device: str = "cpu", *, seconds: float = 2.0) -> Throughput:
    """Features of random frames by the extractor that `train` uses on a device, on all cores."""
    extractor = open_extractor(load_backbone(name, pretrained=False), frame, device=device)
    frames = _frames(extractor.batch, frame)
    workers = extractor.workers if device == "cpu" else 1
    with ThreadPoolExecutor(workers) as pool:

        def step() -> None:
            list(pool.map(extractor.model, [frames] * workers))

        rate, photos = _rate(step, extractor.batch * workers, device, seconds, workers)
    precision = "32-true" if device == "cpu" else fastest_precision(device)
    return Throughput(rate, photos, _peak(device), precision, extractor.batch)


def measure_learning(
    name: str,
    frame: Frame,
    device: str = "cpu",
    *,
    precision: Precision | None = None,
    batch: int = 32,
    seconds: float = 2.0,
    fewest: int = FEWEST,
    threads: int | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Throughput:
    """Forward, backward and update of batches of random frames, as in fine-tuning, without a loader.

    At least `fewest` steps; `wrap` is applied to the network on its device, as DDP is. `threads` of a
    processor, None for torch's own number.
    """
    keep_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    precision = precision or fastest_precision(device)
    network = Network(load_backbone(name, pretrained=False), LABELS).eval().to(device)
    model = wrap(network)
    frames = torch.from_numpy(_frames(batch, frame)).to(device)
    labels = torch.arange(batch, device=device) % LABELS
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=precision == "16-mixed")

    def step() -> None:
        with autocast(device, precision):
            loss = nn.functional.cross_entropy(model(frames), labels)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()

    try:
        with fast_depthwise(network) if device == "cpu" else nullcontext():
            rate, photos = _rate(step, batch, device, seconds, threads or before, fewest)
    finally:
        torch.set_num_threads(before)
    return Throughput(rate, photos, _peak(device), precision, batch)


def measure_head(width: int, rows: int = 4000) -> float:
    """Photos a processor-second of fitting a head to random features, float32 (rows, width)."""
    dice = np.random.default_rng(0)
    features = dice.normal(size=(rows, width)).astype(np.float32)
    labels = (features[:, 0] + dice.normal(size=rows) > 0).astype(np.int64)
    start = process_time()
    fit_head([(features, labels)], LABELS, 0.01, False)
    return rows / (process_time() - start)


def _frames(count: int, frame: Frame) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, frame.height, frame.width, 3), np.uint8)


def _rate(
    step: Callable[[], None], photos: int, device: str, seconds: float, threads: int, fewest: int = FEWEST
) -> tuple[float, int]:
    """Photos a second of a step, after a first one that does not count, and how many photos were timed."""
    on_gpu = device.startswith("cuda")
    clock = perf_counter if on_gpu else partial(_core_seconds, threads)
    step()
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start, rounds = clock(), 0
    while rounds < fewest or clock() - start < seconds:
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
        rounds += 1
    return rounds * photos / (clock() - start), rounds * photos


def _core_seconds(threads: int) -> float:
    """Seconds that each of so many cores has worked for this process."""
    return process_time() / threads


def _peak(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_memory_mb()
