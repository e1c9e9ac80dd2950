"""Self-supervised warm-up: a backbone learns, without labels, to recognise a photo in two changed views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils import clip_grad_norm_
from torchvision.transforms import v2

from catflap.image import Frame, Pixels
from catflap.machine import keep_memory
from catflap.progress import Progress, prefetch, silent
from catflap.training.backbones import Backbone, digest_tensors
from catflap.training.depthwise import fast_depthwise
from catflap.training.distributed import Precision, autocast
from catflap.training.gradients import accumulate, freeze, open_workers, takes_parts
from catflap.training.network import Network

EPOCHS, MOST_PHOTOS = 5, 4000  # a warm-up learns from so many photos at most, counted in each epoch
VIEW_FLOPS = 6e8  # of the slim Lite2 at 160 px: larger networks see fewer views
SIDE, MARGIN = 160, 1.2  # px of a view, whose crops are taken from a frame that is larger
PART, PARTS = 32, 2  # photos that are contrasted with each other, and how many such parts a step has
FROZEN = 3  # stages, as in fine-tuning
RATE, MAX_NORM, TEMPERATURE = 1e-4, 5.0, 0.2
WIDTH, OUTPUT = 512, 128  # of the projection, which is thrown away afterwards


def epochs_for(photos: int, flops: float) -> float:
    """Epochs of the warm-up for so many photos, by a network whose forward pass of a view takes so much."""
    return min(EPOCHS, MOST_PHOTOS / max(1, photos)) * min(1.0, VIEW_FLOPS / flops)


def view_of(frame: Frame, margin: float = 1.0) -> Frame:
    """The frame of a view: that of the classifier at SIDE px, if it is not smaller."""
    scale = min(1.0, SIDE / (frame.width * frame.height) ** 0.5) * margin
    width, height = (max(1, round(scale * side)) for side in (frame.width, frame.height))
    return replace(frame, width=width, height=height)


def warmed_up(
    backbone: Backbone,
    pixels: Pixels,
    frame: Frame,
    *,
    epochs: float,
    mirror: bool = True,
    seed: int = 0,
    device: str = "cpu",
    precision: Precision = "32-true",
    progress: Progress = silent,
) -> Backbone:
    """A copy of the backbone that has learnt from photos without labels; batch norm is as before.

    `pixels`, uint8 (n, height, width, 3), are the photos in `view_of(frame, MARGIN)`. Of each photo two
    random crops, changed in colour and mirrored at random, are to have features more alike than those of
    other photos (SimCLR, Chen et al. 2020). Others are those of the same part of a batch, so that the sums do
    not depend on how many cores there are.
    """
    keep_memory()
    total = max(1, round(epochs * len(pixels) / (PART * PARTS)))
    copy = replace(backbone, network=deepcopy(backbone.network))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(copy, 1).eval().to(device)
        projection = nn.Sequential(
            nn.Linear(backbone.features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUTPUT)
        ).to(device)
        freeze(network, FROZEN)
        weights = [each for each in network.backbone.parameters() if each.requires_grad]
        weights += projection.parameters()
        optimiser = torch.optim.AdamW(weights, RATE)
        step = partial(_gradients, network, projection, weights, device, precision)
        spread = takes_parts(device, train_batch_norm=False)
        views = partial(_views, torch.from_numpy(pixels), _random_change(view_of(frame), mirror))
        steps = prefetch(views, _steps(len(pixels), total, seed), workers=1)  # one, for the order of draws
        with fast_depthwise(network), open_workers() if spread else nullcontext() as pool:
            for done, parts in enumerate(steps, 1):
                optimiser.zero_grad()
                for gradients in pool.map(step, parts) if pool else map(step, parts):
                    accumulate(weights, gradients)
                norm = clip_grad_norm_(weights, MAX_NORM)
                if torch.isfinite(norm):
                    optimiser.step()
                progress("warm up", done, total)
    network.cpu().requires_grad_(True)
    return replace(copy, sha256=digest_tensors(copy.network.state_dict()))


def _gradients(
    network: Network,
    projection: nn.Module,
    weights: list[nn.Parameter],
    device: str,
    precision: Precision,
    views: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """The gradients of a part: its first half are views of the same photos as its second half."""
    with autocast(device, precision):
        found = normalize(projection(network.features(views.to(device))).float())
    alike = (found @ found.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(views), device=alike.device).roll(len(views) // 2)
    return torch.autograd.grad(cross_entropy(alike, partner) / PARTS, weights)


def _steps(photos: int, total: int, seed: int) -> Iterator[list[list[int]]]:
    """For each step the photos of its parts, shuffled anew each epoch."""
    generator, size = np.random.default_rng(seed), min(PART, photos)
    order: list[int] = []
    for _ in range(total):
        parts = []
        for _ in range(PARTS):
            if len(order) < size:
                order = generator.permutation(photos).tolist()
            parts.append(order[:size])
            order = order[size:]
        yield parts


def _random_change(frame: Frame, mirror: bool) -> Any:
    """The random crop, mirroring and colours that make a view of a photo, uint8 (3, height, width)."""
    return v2.Compose(
        [
            v2.RandomResizedCrop((frame.height, frame.width), (0.3, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5 if mirror else 0.0),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
        ]
    )


def _views(photos: torch.Tensor, change: Any, parts: list[list[int]]) -> list[torch.Tensor]:
    """Two views of each photo of each part, uint8 (2 × photos, height, width, 3)."""
    return [
        torch.stack([change(photos[one].permute(2, 0, 1)) for one in [*some, *some]]).permute(0, 2, 3, 1)
        for some in parts
    ]
