"""How many floating-point operations one photo costs."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from catflap.image import Frame
from catflap.training.networks.network import Network


def count_flops(network: Network, frame: Frame) -> tuple[int, int]:
    """FLOPs of one photo, forward and backward (every weight trained); a multiply-add counts as two."""
    device = network.head.weight.device
    frames = torch.zeros(1, frame.height, frame.width, 3, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        logits = network(frames)
        forward = counter.get_total_flops()
        logits.sum().backward()
    network.zero_grad(set_to_none=True)
    return forward, counter.get_total_flops() - forward
