"""Ranges of activations: what the tensors of a float ONNX graph hold when it looks at calibration photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from catflap.exporting.layers import showing
from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.progress import prefetch
from catflap.runtime.engine_onnx import open_session, run_session

FRAMES_AT_ONCE = 4  # at most: every activation of these is in memory
Floats: TypeAlias = npt.NDArray[np.float32]
Range: TypeAlias = tuple[np.float32, np.float32]


@dataclass(frozen=True)
class _Seen:
    """What a tensor has held: its least and greatest value, and its largest magnitudes, `keep` at most."""

    low: np.float32
    high: np.float32
    largest: Floats
    keep: int

    def joined(self, other: _Seen) -> _Seen:
        largest = _largest(np.concatenate([self.largest, other.largest]), self.keep)
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)  # which keep a NaN
        return _Seen(low, high, largest, self.keep)


def activation_ranges(graph: bytes, frames: Pixels, percentile: float) -> dict[str, Range]:
    """The least and greatest value that each float tensor between the layers of a graph is to hold.

    They are those that it holds for frames, uint8 (n, height, width, 3), n ≥ 1, but in magnitude no more than
    the percentile of its magnitudes; 100 leaves nothing out. Every core looks at frames of its own.
    Raises ValueError for a tensor that is not finite.
    """
    model = onnx.load_from_string(graph)
    outputs = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    session = open_session(showing(model, outputs), threads=1, optimise=False)
    kinds = {end.name: end.type for end in session.get_outputs()}
    names = [name for name in outputs if kinds[name] == "tensor(float)"]
    pixels = session.get_inputs()[0].name
    floors = dict.fromkeys(names, np.float32(-1))  # of the largest magnitudes so far
    found: dict[str, _Seen] = {}

    def look(frame: Pixels) -> list[_Seen]:
        tensors = run_session(session, {pixels: frame[None]}, names)
        return [
            _seen(tensor, floors[name], 1 + int((1 - percentile / 100) * tensor.size * len(frames)))
            for name, tensor in zip(names, tensors, strict=True)
        ]

    for seen in prefetch(look, frames, min(FRAMES_AT_ONCE, describe_machine().cores)):
        for name, one in zip(names, seen, strict=True):
            found[name] = found[name].joined(one) if name in found else one
            if len(found[name].largest) == one.keep:
                floors[name] = found[name].largest.min()
    return {name: _range(name, seen) for name, seen in found.items()}


def _seen(tensor: Floats, floor: np.float32, keep: int) -> _Seen:
    """What one frame shows; of the magnitudes those above the floor. An empty tensor counts as a zero."""
    values = tensor.ravel() if tensor.size else np.zeros(1, np.float32)
    above = np.concatenate([values[values > floor], -values[values < -floor]]) if floor >= 0 else abs(values)
    return _Seen(values.min(), values.max(), _largest(above, keep), keep)


def _largest(values: Floats, count: int) -> Floats:
    return np.partition(values, -count)[-count:] if len(values) > count else values


def _range(name: str, seen: _Seen) -> Range:
    if not np.isfinite((seen.low, seen.high)).all():
        raise ValueError(f"the tensor {name} is not finite")
    most = seen.largest.min()
    return max(seen.low, -most), min(seen.high, most)
