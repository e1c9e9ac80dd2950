"""The gradients of a batch, in as many parts as the memory of the device asks for."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from catflap.image import Pixels
from catflap.training.processes import out_of_memory_forgiven, too_little_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def scaler_of(fabric: Fabric) -> torch.amp.GradScaler | None:
    """What scales losses in fp16, in which small gradients would else be 0 (Micikevicius et al. 2018)."""
    scaler: torch.amp.GradScaler | None = getattr(fabric.strategy.precision, "scaler", None)
    return scaler


def draw_alike(seed: int, step: int, rank: int) -> None:
    """Let what a step of a process leaves out by chance be the same in every run, and in no other process."""
    drawn = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0]))


def backward(
    fabric: Fabric,
    model: Any,
    frames: Pixels,
    targets: torch.Tensor,
    smoothing: float,
    at_once: int,
) -> tuple[torch.Tensor, int]:
    """Gradients of a batch in parts of `at_once` photos: the losses, float32 (n,), and the size that fitted.

    A GPU that runs out of memory gets half as many, again and again, which is told; the gradients are the
    same sums, but batch norm that learns sees the parts. Of many processes none could halve alone.
    Raises CatflapError where one photo is too many, or processes would have to halve.
    """
    while True:
        with out_of_memory_forgiven():
            return _in_parts(fabric, model, frames, targets, smoothing, at_once), at_once
        model.zero_grad()
        tried = min(at_once, len(frames))
        if tried == 1 or fabric.world_size > 1:
            raise too_little_memory(fabric.device, tried)
        at_once = (tried + 1) // 2
        logging.getLogger(__name__).warning(
            "%s has too little memory for %d photos at once: %d are taken, and gradients are added up.",
            fabric.device, tried, at_once,
        )  # fmt: skip


def _in_parts(
    fabric: Fabric, model: Any, frames: Pixels, targets: torch.Tensor, smoothing: float, at_once: int
) -> torch.Tensor:
    losses = []
    edges = np.linspace(0, len(frames), -(-len(frames) // at_once) + 1).astype(int).tolist()
    for begin, end in pairwise(edges):  # as large as each other: none is a photo alone
        part = slice(begin, end)
        with fabric.no_backward_sync(model, enabled=end < len(frames)):
            logits = model(torch.from_numpy(frames[part]).to(fabric.device))
            wanted = targets[part].to(fabric.device)
            loss = nn.functional.cross_entropy(logits, wanted, label_smoothing=smoothing, reduction="none")
            fabric.backward(loss.sum() / len(frames))
        losses.append(loss.detach())
    return torch.cat(losses)
