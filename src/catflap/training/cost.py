"""What a training costs: seconds, photos, FLOPs, memory and joules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch

from catflap.machine import peak_memory_mb
from catflap.progress import Progress
from catflap.runtime.bench import EnergyMeter
from catflap.training.networks.flops import count_flops
from catflap.training.recipes import Trained
from catflap.training.search.halving import Pick


class CostMeter:
    """The cost of a training, counted from now on.

    `learnt`: photos that every weight learnt from in this run; `learnt_before`: in an earlier run, which was
    stopped; `tried`: those of both that were trials of a search.
    """

    def __init__(self) -> None:
        self.start = perf_counter()
        self.learnt = self.learnt_before = self.tried = 0.0
        self._meter = EnergyMeter()

    def metered(self, progress: Progress) -> Progress:
        """The same progress; each call also reads the energy meter, so that no overflow of it is missed."""

        def tell(step: str, done: int, total: int) -> None:
            self._meter.joules()
            progress(step, done, total)

        return tell

    @contextmanager
    def learning(self, photos: float, trial: bool, progress: Progress) -> Iterator[Progress]:
        """The same progress for one run of the loop over so many photos; each call of it counts as a step."""
        share = 0.0

        def tell(step: str, done: int, total: int) -> None:
            nonlocal share
            share += 1 / total
            progress(step, done, total)

        yield tell
        self.learnt += share * photos
        self.learnt_before += (1 - share) * photos
        self.tried += trial * photos

    def to_json(self, trained: Trained, chosen: Pick, device: str) -> dict[str, Any]:
        """The field `cost` of `checkpoint.json`, the search included.

        `photo_passes`: photos whose features this run worked out, and those that every weight learnt from;
        `cached_photos`: those that did in an earlier one; `learnt_photos`: those of both that went backward,
        too. FLOPs are of one photo.
        """
        seconds = perf_counter() - self.start
        forward, backward = count_flops(trained.network, trained.frame)
        learnt_before = self.learnt_before + chosen.learnt - self.tried  # trials that it had finished, too
        passes = trained.passes[0] + chosen.passes + round(self.learnt)
        known = trained.passes[1] - chosen.known + chosen.before + round(learnt_before)
        learnt = round(self.learnt + learnt_before)
        return {
            "seconds": seconds,
            "photo_passes": passes,
            "cached_photos": known,
            "learnt_photos": learnt,
            "photos_per_second": passes / seconds,
            "peak_memory_mb": peak_memory_mb(),
            "device": device,
            "threads": torch.get_num_threads(),
            "flops_forward": forward,
            "flops_backward": backward if learnt else 0,
            "joules": self._meter.joules(),
        }
