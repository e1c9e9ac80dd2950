"""Batch norm that does not learn is a scale and a shift, and free when folded into the convolution before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from catflap.image import Frame
from catflap.training.networks.convolution import QuickConvolution, limits_of
from catflap.training.networks.network import Network

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextmanager
def folded(network: Network, frame: Frame) -> Iterator[int]:
    """Let a network in eval mode compute each convolution, the batch norm and ReLU after it as one step.

    Gradients of all weights, the batch norm's too, are the same sums (Jacob et al. 2018, section 3.2), and
    names and values of the tensors stay as they are. Gives how many pairs are folded: none where the
    answer to a drawn frame would be another one.
    """
    drawn = np.random.default_rng(0).integers(0, 256, (1, frame.height, frame.width, 3), np.uint8)
    example = torch.from_numpy(drawn).to(network.mean.device)
    with torch.no_grad():
        wanted, pairs = network(example), _pairs(network, example)
        for pair in pairs:
            _fold(*pair)
        same = torch.allclose(network(example), wanted, rtol=1e-3, atol=1e-3)
    if not same:
        _unfold(pairs)
        pairs = []
    try:
        yield len(pairs)
    finally:
        _unfold(pairs)


def _pairs(network: nn.Module, example: torch.Tensor) -> list[Pair]:
    """Convolutions whose output is what a batch norm takes, found while the network looks at the example."""
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs: list[Pair] = []

    def remember(convolution: Any, _: Any, output: torch.Tensor) -> None:
        made[id(output)] = convolution, output  # kept, so that no other tensor gets its id

    def look_up(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], norm))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember))
        elif isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(look_up))
    network(example)
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(convolution: Any, norm: Any) -> None:
    plain = copy(convolution)  # shares the weights, but keeps its forward
    rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]  # timm has them inside
    limits = limits_of(rest[-1]) if rest else None
    if limits:
        del rest[-1]

    def convolve(pixels: torch.Tensor) -> torch.Tensor:
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if convolution.bias is not None:
            shift = shift + convolution.bias * scale
        tensors = {"weight": convolution.weight * scale.view(-1, 1, 1, 1), "bias": shift}
        with QuickConvolution(limits):
            return functional_call(plain, tensors, (pixels,))  # type: ignore[no-any-return]

    convolution.forward = convolve
    norm.forward = nn.Sequential(*rest).forward


def _unfold(pairs: list[Pair]) -> None:
    for pair in pairs:
        for part in pair:
            del part.forward
