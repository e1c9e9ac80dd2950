"""The clock of `--minutes`: what is left, and how many epochs fit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from math import ceil
from time import perf_counter

import numpy as np
import torch

from catflap.artifacts.dataset import Dataset, Photos
from catflap.data.loader import load_batches
from catflap.errors import Refused
from catflap.image import Frame
from catflap.machine import keep_memory
from catflap.runtime.scoring import frames_of
from catflap.training.heads.features import Extractor, count_unseen
from catflap.training.loop.resizing import resize
from catflap.training.loop.settings import LoopSettings
from catflap.training.networks.convolution import QuickConvolution
from catflap.training.networks.folding import folded
from catflap.training.networks.network import Network
from catflap.training.precision import Precision, autocast
from catflap.training.processes import (
    all_reduce,
    broadcast,
    is_single_process,
    out_of_memory_forgiven,
    rank_and_world_size,
    too_little_memory,
)

FINETUNING = LoopSettings(epochs=10)  # at most
PARTS, LEAST = 20, 0.1  # of an epoch
_TRIES = 3
_LOADED = 256  # photos
_LATE = 60.0  # seconds by which a head may be late
_LOOP = 1.25  # photos and the optimiser take time too, and a machine is not as quick every minute
_SEARCH = 1 / 2  # of the minutes, at most, for what comes before the head
_SEARCH_OF_HEADS = 3 / 4  # where nothing but the head comes after it


@dataclass(frozen=True)
class TimeBudget:
    """The minutes of a training: all of it ends at `until`, what is left of a search at `search_until`.

    Both are seconds of perf_counter; `device` and `precision` are those of the loop, which follows the head
    if it `tunes`. Many processes ask together, and go by the first one's clock.
    """

    until: float
    search_until: float
    device: str
    precision: Precision
    tunes: bool = True

    def left(self) -> float:
        """Seconds left."""
        return broadcast(self.until - perf_counter(), self.device)

    def search_left(self) -> float:
        """Seconds left for a search; below 0 when it should have ended."""
        return broadcast(self.search_until - perf_counter(), self.device)

    def epochs(
        self, network: Network, dataset: Dataset, how: LoopSettings = FINETUNING, *, before: float = 0.0
    ) -> float:
        """How many epochs of a recipe fit into the time that is left less `before` seconds; at most its own.

        Whole ones; where not one fits, the part that does, in twentieths, and 0 below a tenth. Time to judge
        each epoch, and five blends at the end, counts. Many processes share all of it.
        """
        _, processes = rank_and_world_size()
        pace = seconds_a_photo(network, dataset, how, self.device, self.precision)
        loading = 0.0 if self.device == "cpu" else seconds_to_load(dataset, how)  # cores of their own
        judged = len(dataset.photos("validation")) * max(pace / 2, loading) / processes  # forward, in fp32
        epoch = len(dataset.photos("train")) * max(pace, loading) * _LOOP / processes + judged
        fit = min(how.epochs, (self.left() - before - (5 if how.blended else 1) * judged) / epoch)
        whole = int(fit) if fit >= 1 else int(fit * PARTS) / PARTS
        return broadcast(whole if whole >= LEAST else 0, self.device)


def clock_of(
    minutes: float, start: float, device: str, precision: Precision, *, tunes: bool = True
) -> TimeBudget:
    """The clock that began to run at `start`, in seconds of perf_counter."""
    search = _SEARCH if tunes else _SEARCH_OF_HEADS
    return TimeBudget(start + 60 * minutes, start + 60 * minutes * search, device, precision, tunes)


def seconds_of_features(extractor: Extractor, photos: Photos, device: str) -> float:
    """What the features of a photo take when every worker is busy, measured on blank frames.

    A GPU waits for `photos` to be decoded, so that of some of them this is measured, too. Many processes
    measure together, and share the photos.
    """
    frames = np.zeros((extractor.batch, extractor.frame.height, extractor.frame.width, 3), np.uint8)
    shared, taken = [frames] * extractor.workers, []
    _, processes = rank_and_world_size()
    with ThreadPoolExecutor(extractor.workers) as pool:
        for _ in range(_TRIES):
            start = perf_counter()
            list(pool.map(extractor.model, shared))
            taken.append(perf_counter() - start)
    network, loading = min(taken) / len(frames) / len(shared), 0.0
    if device != "cpu":
        some, start = photos.take(np.arange(min(len(photos), _LOADED))), perf_counter()
        for _ in frames_of(some, extractor.frame, extractor.workers, extractor.batch):
            pass
        loading = (perf_counter() - start) / len(some)
    return max(network, loading) / processes * _LOOP


def check_time(clock: TimeBudget, extractor: Extractor, pace: float, name: str, dataset: Dataset) -> None:
    """Raise Refused where features alone, of photos that are not cached, take longer than what is left.

    By a minute, for there is always a head. `pace` is the seconds that those of a photo take, and `name` that
    of the backbone.
    """
    roles, left = [dataset.photos(role) for role in ("train", "validation")], max(0.0, clock.left())
    if pace * sum(map(len, roles)) <= left + _LATE:
        return
    photos = broadcast(sum(count_unseen(extractor, photos) for photos in roles), clock.device)
    needed = pace * photos
    if needed > left + _LATE:
        size = f"{extractor.frame.width} x {extractor.frame.height} px"
        raise Refused(
            f"The features of {photos:,} photos take about {needed / 60:,.0f} minutes at the rate measured "
            f"here ({name}, {size}, {1 / pace:,.0f} photos a second), and {left / 60:,.1f} are left.",
            f"Give --minutes {ceil(2 * needed / 60) + 1} or more, half of them for what follows.",
        )


def seconds_a_photo(
    network: Network, dataset: Dataset, how: LoopSettings, device: str, precision: Precision
) -> float:
    """What a photo takes forward and backward, measured as the loop runs it, on blank frames with a copy.

    As in the loop, a GPU that runs out of memory gets half of the batch, again and again. Many processes
    measure together, each with its share of a batch, and add up their gradients.
    """
    keep_memory()  # as the loop does
    _, processes = rank_and_world_size()
    copy, batch = deepcopy(network).to(device).train(how.train_batch_norm), max(1, how.batch // processes)
    with QuickConvolution() if how.train_batch_norm else folded(copy, dataset.frame):
        while True:
            with out_of_memory_forgiven():
                return _seconds_of_a_step(copy, dataset.frame, batch, device, precision) / batch
            if batch == 1 or processes > 1:
                raise too_little_memory(device, batch)
            copy.zero_grad()
            batch = (batch + 1) // 2


def seconds_to_load(dataset: Dataset, how: LoopSettings) -> float:
    """What a photo takes to be read, decoded and varied as the loop does it, with nothing else to do.

    A GPU waits for that where photos are large; many processes measure together.
    """
    photos = dataset.photos("train")
    some = photos.take(np.arange(min(len(photos), _LOADED)))
    batch = max(1, how.batch // rank_and_world_size()[1])
    start = perf_counter()
    for _ in load_batches(some, dataset.frame, batch, epochs=1, crops=how.crops, resize=resize):
        pass
    return (perf_counter() - start) / len(some)


def _seconds_of_a_step(
    network: Network, frame: Frame, batch: int, device: str, precision: Precision
) -> float:
    frames = torch.zeros(batch, frame.height, frame.width, 3, dtype=torch.uint8, device=device)
    taken: list[float] = []
    for _ in range(_TRIES):
        start = perf_counter()
        with autocast(device, precision):
            answers = network(frames)
        answers.sum().backward()
        if not is_single_process():
            slopes = [each.grad.flatten() for each in network.parameters() if each.grad is not None]
            all_reduce(torch.cat(slopes))
        network.zero_grad()
        if torch.device(device).type in ("cuda", "mps"):  # which work on when the call has come back
            torch.accelerator.synchronize(device)
        taken.append(perf_counter() - start)
    return min(taken)
