"""Gradients of a batch on a CPU: each core takes parts of the batch, summed in a fixed order; frozen stages.

Cores that share a part wait for each other at every layer: two cores learn from 1.4 times as many photos a
second if each has its own. The sums do not depend on how many cores there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.training.distributed import Precision, autocast, is_single_process
from catflap.training.network import Network

PART_PIXELS = 2 * 320 * 320  # of a part; about 0.5 GB of activations if no stage is frozen
MAX_WORKERS = 4  # parts at once: more would fill the memory of small machines


def freeze(network: Network, stages: int) -> None:
    """Let the stem and the first stages of a network keep their weights: `stages` of them, the stem included.

    They then need no gradients, which on a CPU is half of the work, and hold no activations. All others
    learn; a network without a stem and stages learns whole.
    """
    network.requires_grad_(True)
    backbone: Any = network.backbone
    if stages and all(hasattr(backbone, name) for name in ("conv_stem", "bn1", "blocks")):
        for stage in (backbone.conv_stem, backbone.bn1, *backbone.blocks[: stages - 1]):
            stage.requires_grad_(False)


def photos_of_a_part(network: Network, width: int, height: int) -> int:
    """How many photos of width × height px a core learns from at once.

    Twice as many if stages are frozen: those hold no activations, and a part of four photos takes 0.85 × the
    time of two of two.
    """
    whole = all(weight.requires_grad for weight in network.parameters())
    return max(1, (1 if whole else 2) * PART_PIXELS // (width * height))


def takes_parts(device: str, train_batch_norm: bool) -> bool:
    """Whether the cores of one CPU share each batch: batch norm that learns must see the photos in order."""
    return device == "cpu" and is_single_process() and not train_batch_norm


def worker_count() -> int:
    """How many parts are computed at once."""
    return min(describe_machine().cores, MAX_WORKERS)


def threads_each() -> int:
    """How many threads compute one part."""
    return max(1, describe_machine().cores // worker_count())


@contextmanager
def open_workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that compute gradients; each has its share of the cores, and so has the caller meanwhile.

    With more, the caller's short operations (the optimiser, the running average) wait for OpenMP's threads,
    which find no core and spin: on a busy machine a third of the processor's time.
    """
    each = threads_each()
    with (
        threads(each),
        ThreadPoolExecutor(worker_count(), initializer=torch.set_num_threads, initargs=(each,)) as pool,
    ):
        yield pool


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads in here."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def add_gradients(
    pool: ThreadPoolExecutor,
    network: Network,
    frames: Pixels,
    targets: torch.Tensor,
    smoothing: float,
    precision: Precision,
    scaler: torch.amp.GradScaler | None = None,
) -> torch.Tensor:
    """The losses, float32 (n,), of frames, uint8 RGB (n, height, width, 3); sets the weights' gradients.

    `targets` are float32 (n, labels). The gradients are those of the mean loss, scaled by `scaler` in fp16.
    """
    scale = scaler.scale(torch.ones(())) if scaler else 1.0
    weights = [weight for weight in network.parameters() if weight.requires_grad]

    def part(edges: tuple[int, int]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        begin, end = edges
        with autocast("cpu", precision):
            logits = network(torch.from_numpy(frames[begin:end]))
            losses = nn.functional.cross_entropy(
                logits, targets[begin:end], label_smoothing=smoothing, reduction="none"
            )
        return losses.detach(), torch.autograd.grad(scale * losses.sum() / len(frames), weights)

    size = photos_of_a_part(network, frames.shape[2], frames.shape[1])
    edges = np.linspace(0, len(frames), -(-len(frames) // size) + 1).astype(int).tolist()  # equal parts
    losses = []
    for loss, gradients in pool.map(part, pairwise(edges)):
        losses.append(loss)
        accumulate(weights, gradients)
    return torch.cat(losses).float()


def accumulate(weights: Sequence[nn.Parameter], gradients: Sequence[torch.Tensor]) -> None:
    """Add the gradients of a part of a batch to those that the weights have, if any."""
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
