"""The slim backbone's surgery: its last two layers become a low-rank pair, fitted to the user's photos.

Between the projection that ends the last block and the 1 × 1 convolution before pooling there is nothing but
batch norm. Together they are one linear map, and photos of one domain use few of its directions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch

from catflap.artifacts.dataset import Photos, no_photos
from catflap.image import Frame
from catflap.machine import keep_memory
from catflap.progress import Progress, silent
from catflap.runtime.scoring import frames_of
from catflap.training.backbones import Backbone, digest_tensors, narrow
from catflap.training.network import Network

ROOMY, LEAST_RANK = 60, 32  # labels for which the rank leaves room within 4 MB in int8; the rank of very many
SAMPLE = 400  # photos, each with a hundred positions; twice as many gave as many errors
Moments: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def slimmed(
    backbone: Backbone, photos: Photos, frame: Frame, *, device: str = "cpu", progress: Progress = silent
) -> Backbone:
    """The backbone with its last two layers reduced to its rank, as accurately on these photos as possible.

    Of the labels only their number counts: the head of many takes its room from the rank (`rank_for`). A
    backbone without a rank is returned unchanged.
    """
    if not backbone.rank:
        return backbone
    if not len(photos):
        raise no_photos("train")
    sample = photos.take(np.argsort(photos.ids)[:SAMPLE])  # ids are hashes: a random sample
    moments = _moments(Network(backbone, 1).eval().to(device), sample, frame, progress)
    project(backbone.network.cpu(), rank_for(backbone, int(photos.labels.max()) + 1), moments)
    return replace(backbone, rank=0, sha256=digest_tensors(backbone.network.state_dict()))


def rank_for(backbone: Backbone, labels: int) -> int:
    """The rank that leaves as many bytes as the head of more than ROOMY labels needs, LEAST_RANK at least."""
    network: Any = backbone.network
    of_rank = int(network.blocks[-1][-1].conv_pwl.in_channels) + backbone.features
    taken = -(-max(0, labels - ROOMY) * backbone.features // of_rank)
    return max(LEAST_RANK, backbone.rank - taken)


@torch.no_grad()
def _moments(network: Network, photos: Photos, frame: Frame, progress: Progress) -> Moments:
    """Mean (width,) and covariance (width, width) of the last projection's input, float64."""
    keep_memory()
    sums: list[Any] = [0, 0.0, 0.0]

    def accumulate(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].movedim(1, -1).flatten(0, -2)
        squares = (rows.T @ rows).cpu().double()  # Apple's GPUs have no float64
        sums[0], sums[1], sums[2] = (
            sums[0] + len(rows),
            sums[1] + rows.cpu().double().sum(0),
            sums[2] + squares,
        )

    device = network.head.weight.device
    backbone: Any = network.backbone
    network.to(memory_format=torch.channels_last)
    hook = backbone.blocks[-1][-1].conv_pwl.register_forward_pre_hook(accumulate)
    done = 0
    for frames in frames_of(photos, frame, batch=16):
        network.features(torch.from_numpy(frames).to(device))
        done += len(frames)
        progress("slim backbone", done, len(photos))
    hook.remove()
    network.to(memory_format=torch.contiguous_format)
    count, total, squares = sums
    mean = total / count
    return mean, squares / count - torch.outer(mean, mean)


@torch.no_grad()
def project(network: Any, rank: int, moments: Moments) -> None:
    """Replace the last two layers by the best approximation of this rank.

    `moments` are mean (width,) and covariance (width, width), float64, of the last projection's input. Among
    all maps of that rank this one has the least squared error before the last activation (reduced-rank
    regression, Izenman 1975).
    """
    last = network.blocks[-1][-1]
    inner, inner_shift = _with_norm(last.conv_pwl, last.bn3)
    outer, outer_shift = _with_norm(network.conv_head, network.bn2)
    full, shift = outer @ inner, outer @ inner_shift + outer_shift
    mean, covariance = moments
    values, vectors = torch.linalg.eigh(covariance)
    spread = values.clamp(min=1e-9 * float(values.max())).sqrt()
    left, singular, right = torch.linalg.svd(full @ (vectors * spread) @ vectors.T, full_matrices=False)
    up, down = left[:, :rank] * singular[:rank], right[:rank] @ (vectors / spread) @ vectors.T
    narrow(network, rank)
    last.conv_pwl.weight.copy_(down[..., None, None])
    network.conv_head.weight.copy_(up[..., None, None])
    network.conv_head.bias.copy_(shift + (full - up @ down) @ mean)


def _with_norm(convolution: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A 1 × 1 convolution and its batch norm as one map: weights (out, in) and shift (out,), float64."""
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return (
        convolution.weight.double().flatten(1) * gain[:, None],
        norm.bias.double() - norm.running_mean.double() * gain,
    )
