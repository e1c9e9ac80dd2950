"""A slim backbone gets its last layers from the photos that it is going to see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from catflap.artifacts.dataset import Photos, no_photos
from catflap.image import Frame
from catflap.machine import keep_memory
from catflap.progress import Progress, silent
from catflap.runtime.scoring import frames_of
from catflap.training.networks.backbone import Backbone, digest_tensors
from catflap.training.networks.narrow import Moments, neck, project
from catflap.training.networks.network import Network

SAMPLE = 400  # photos, each with a hundred positions; twice as many gave as many errors


def slimmed(
    backbone: Backbone, photos: Photos, frame: Frame, *, device: str = "cpu", progress: Progress = silent
) -> Backbone:
    """The backbone with its last two layers at its rank, as near to them on these photos as that can be.

    No label is looked at. A backbone without a rank is given back as it is.
    """
    if not backbone.rank:
        return backbone
    if not len(photos):
        raise no_photos("train")
    sample = photos.take(np.argsort(photos.ids)[:SAMPLE])  # hashes, so as good as drawn
    moments = _moments(Network(backbone, 1).eval().to(device), sample, frame, progress)
    project(backbone.network.cpu(), backbone.rank, moments)
    return replace(backbone, rank=0, sha256=digest_tensors(backbone.network.state_dict()))


@torch.no_grad()
def _moments(network: Network, photos: Photos, frame: Frame, progress: Progress) -> Moments:
    """Mean (wide,) and covariance (wide, wide) of what the neck receives, float64."""
    keep_memory()
    sums: list[Any] = [0, 0.0, 0.0]

    def add(_: torch.nn.Module, received: tuple[torch.Tensor, ...]) -> None:
        rows = received[0].movedim(1, -1).flatten(0, -2)
        squares = (rows.T @ rows).cpu().double()  # Apple's GPUs have no float64
        sums[0], sums[1], sums[2] = (
            sums[0] + len(rows),
            sums[1] + rows.cpu().double().sum(0),
            sums[2] + squares,
        )

    device = network.head.weight.device
    network.to(memory_format=torch.channels_last)
    hook = neck(network.backbone).register_forward_pre_hook(add)
    done = 0
    for frames in frames_of(photos, frame, batch=16):
        network.features(torch.from_numpy(frames).to(device))
        done += len(frames)
        progress("last layers", done, len(photos))
    hook.remove()
    network.to(memory_format=torch.contiguous_format)
    count, total, squares = sums
    mean = total / count
    return mean, squares / count - torch.outer(mean, mean)
