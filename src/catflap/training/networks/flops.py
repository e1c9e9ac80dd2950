"""How many floating-point operations one photo costs."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from catflap.image import Frame
from catflap.training.networks.network import Network


def count_flops(network: Network, frame: Frame) -> tuple[int, int]:
    """FLOPs of one photo, forward and backward (every weight trained); a multiply-add counts as two."""
    device = network.head.weight.device
    frames = torch.zeros(1, frame.height, frame.width, 3, dtype=torch.uint8, device=device)
    known = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        logits = network(frames)
        forward = counter.get_total_flops()
        logits.sum().backward()
    network.zero_grad(set_to_none=True)
    return forward, counter.get_total_flops() - forward


def _convolution_backward(
    gradient: Any, frames: Any, weight: Any, *given: Any, out_shape: Any = None, **named: Any
) -> int:
    """Torch's own count takes a depthwise convolution for a dense one, 20 to 40 times too many in all.

    The gradients of a convolution's input and of its weights cost what it does, each where it is wanted.
    """
    wanted = given[-1]  # of input, weight and bias
    one: int = 2 * prod(gradient) * prod(weight[1:])
    return one * (bool(wanted[0]) + bool(wanted[1]))
