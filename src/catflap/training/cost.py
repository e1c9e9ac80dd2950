"""The cost of a training: seconds, photos, FLOPs, memory and joules."""

from __future__ import annotations

from math import prod
from time import perf_counter
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from catflap.image import Frame
from catflap.machine import peak_memory_mb
from catflap.progress import Progress
from catflap.runtime.bench import EnergyMeter
from catflap.training.network import Network


class CostMeter:
    """The cost of a training, counted from now on.

    `computed` and `cached` count photos whose features this run computed or read from the cache, `learnt`
    photos that every weight learnt from in this run, `learnt_before` in the stopped run that it resumes.
    """

    def __init__(self) -> None:
        self.start = perf_counter()
        self.computed = self.cached = self.learnt = self.learnt_before = 0
        self._energy = EnergyMeter()

    def metered(self, progress: Progress) -> Progress:
        """The same progress; each call also reads the energy meter, so that no overflow of it is missed."""

        def report(step: str, done: int, total: int) -> None:
            self._energy.joules()
            progress(step, done, total)

        return report

    def to_json(self, network: Network, frame: Frame, device: str) -> dict[str, Any]:
        """The field `cost` of `checkpoint.json`; FLOPs are of one photo."""
        seconds = perf_counter() - self.start
        forward, backward = count_flops(network, frame)
        learnt = self.learnt + self.learnt_before
        return {
            "seconds": seconds,
            "photo_passes": self.computed + self.learnt,
            "cached_photos": self.cached + self.learnt_before,
            "learnt_photos": learnt,
            "photos_per_second": (self.computed + self.learnt) / seconds,
            "peak_memory_mb": peak_memory_mb(),
            "device": device,
            "threads": torch.get_num_threads(),
            "flops_forward": forward,
            "flops_backward": backward if learnt else 0,
            "joules": self._energy.joules(),
        }


def count_flops(network: Network, frame: Frame) -> tuple[int, int]:
    """FLOPs of one photo, forward and backward (every weight trained); a multiply-add counts as two."""
    device = network.head.weight.device
    frames = torch.zeros(1, frame.height, frame.width, 3, dtype=torch.uint8, device=device)
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        logits = network(frames)
        forward = counter.get_total_flops()
        logits.sum().backward()
    network.zero_grad(set_to_none=True)
    return forward, counter.get_total_flops() - forward


def _convolution_backward(
    gradient: Any, frames: Any, weight: Any, *rest: Any, out_shape: Any = None, **named: Any
) -> int:
    """FLOPs of a convolution's gradients; torch's own formula takes depthwise ones for dense."""
    mask = rest[-1]  # of input, weight and bias
    one: int = 2 * prod(gradient) * prod(weight[1:])
    return one * (bool(mask[0]) + bool(mask[1]))
