"""An EfficientNet made smaller without training: cut off early, or one block fewer and a narrower neck.

Two of its layers follow each other with nothing but batch norm between them: the projection that ends
the last block, and the 1 × 1 convolution before pooling. Together they are one linear map, and photos of
one kind use few of its directions.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn

CUT = 4  # the stage of which a tiny network keeps the first block, and nothing after it
SHORTENED = 5  # the stage; but for its first block, each adds to what it is given
Moments: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def shorten(network: Any) -> None:
    """Take away the last block of the sixth stage: without it heads are better (docs/concepts/recipes.md)."""
    del network.blocks[SHORTENED][-1]


def cut(network: Any) -> None:
    """Keep the stem, four stages and the first block of the fifth: 112 features of 0.36 million weights."""
    network.blocks = network.blocks[: CUT + 1]
    network.blocks[CUT] = network.blocks[CUT][:1]
    network.conv_head, network.bn2 = nn.Identity(), nn.Identity()


def neck(network: Any) -> nn.Module:
    """The layer for which `project` needs the mean and covariance of what it receives."""
    return network.blocks[-1][-1].conv_pwl  # type: ignore[no-any-return]


def narrow(network: Any, rank: int) -> None:
    """Replace the last two layers by a pair with `rank` channels between, whose weights are random."""
    last = network.blocks[-1][-1]
    last.conv_pwl, last.bn3 = nn.Conv2d(last.conv_pwl.in_channels, rank, 1, bias=False), nn.Identity()
    network.conv_head = nn.Conv2d(rank, network.conv_head.out_channels, 1)
    network.bn2 = network.bn2.act


@torch.no_grad()
def project(network: Any, rank: int, moments: Moments) -> None:
    """Make the last two layers the pair of `rank` that comes nearest to them on photos.

    `moments` are mean (wide,) and covariance (wide, wide), float64, of what `neck` receives. Among all
    maps of that rank this one has the least squared error before the last activation (reduced-rank
    regression, Izenman 1975).
    """
    last = network.blocks[-1][-1]
    inner, inner_shift = _with_norm(last.conv_pwl, last.bn3)
    outer, outer_shift = _with_norm(network.conv_head, network.bn2)
    whole, shift = outer @ inner, outer @ inner_shift + outer_shift
    mean, covariance = moments
    values, vectors = torch.linalg.eigh(covariance)
    spread = values.clamp(min=1e-9 * float(values.max())).sqrt()
    left, strength, right = torch.linalg.svd(whole @ (vectors * spread) @ vectors.T, full_matrices=False)
    up, down = left[:, :rank] * strength[:rank], right[:rank] @ (vectors / spread) @ vectors.T
    narrow(network, rank)
    last.conv_pwl.weight.copy_(down[..., None, None])
    network.conv_head.weight.copy_(up[..., None, None])
    network.conv_head.bias.copy_(shift + (whole - up @ down) @ mean)


def _with_norm(convolution: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A 1 × 1 convolution and its batch norm as one map: weights (out, in) and shift (out,), float64."""
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return (
        convolution.weight.double().flatten(1) * gain[:, None],
        norm.bias.double() - norm.running_mean.double() * gain,
    )
