"""GPTQ: convolution weights rounded to the int8 grid so that layer outputs on photos change least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

from catflap.exporting.onnx_edits import with_outputs
from catflap.image import Pixels
from catflap.machine import keep_memory
from catflap.runtime.engine_onnx import open_session, run_session
from catflap.training.onnx_graph import INPUT

LARGEST = 127
DAMPING = 0.01  # of the mean square input, added to the diagonal
FRAMES = 24
POSITIONS = 800  # per frame, about
BLOCK = 64  # columns whose errors are passed on together


@dataclass(frozen=True)
class Convolution:
    """A convolution of a float graph: names of its input and weights, kernel, groups, strides and padding."""

    source: str
    weights: str
    kernel: tuple[int, int]
    group: int
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    def patches(self, given: torch.Tensor) -> torch.Tensor:
        """The patches of an input (1, channels, h, w): (group, inputs of a filter, positions).

        Many positions are thinned to a coarser grid.
        """
        top, left, bottom, right = self.pads
        padded = functional.pad(given, (left, right, top, bottom))
        counts = [(size - self.kernel[n]) // self.strides[n] + 1 for n, size in enumerate(padded.shape[2:])]
        sparse = max(1, math.isqrt(counts[0] * counts[1] // POSITIONS))
        strides = (self.strides[0] * sparse, self.strides[1] * sparse)
        if self.kernel == (1, 1):
            rows = padded[:, :, :: strides[0], :: strides[1]].flatten(2)
        else:
            rows = functional.unfold(padded, self.kernel, stride=strides)
        return rows.view(self.group, -1, rows.shape[-1])


def round_weights(onnx_bytes: bytes, frames: Pixels) -> bytes:
    """The same float graph with the weights of its convolutions rounded to int8 steps, as ONNX bytes.

    The grid of an output channel is symmetric with its largest weight at ±127, so a quantiser with such
    grids keeps every weight. Weights are rounded one by one, and the later ones compensate each error, by the
    correlation of their inputs on frames, uint8 (n, height, width, 3), n ≥ 1 (GPTQ, Frantar et al. 2022).
    Dilated convolutions are not changed.
    """
    keep_memory()
    model = onnx.load_from_string(onnx_bytes)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in initializers]
    found = (_read(node, tuple(initializers[node.input[1]].dims[2:])) for node in nodes)
    convolutions = [one for one in found if one is not None]
    if not convolutions:
        return onnx_bytes
    grams = _gram_matrices(model, convolutions, frames[:FRAMES])
    for one in convolutions:
        weights = torch.from_numpy(numpy_helper.to_array(initializers[one.weights]).astype(np.float64))
        rows = weights.view(one.group, len(weights) // one.group, -1)
        rounded = _rounded(rows, grams[one.weights]).view(weights.shape).numpy().astype(np.float32)
        initializers[one.weights].CopyFrom(numpy_helper.from_array(rounded, one.weights))
    return bytes(model.SerializeToString())


def convolution_weights(onnx_bytes: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of a graph's convolutions by their names, (filters, channels of a group, height, width)."""
    graph = onnx.load_from_string(onnx_bytes).graph
    read = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    return {
        initializers.name: numpy_helper.to_array(initializers)
        for initializers in graph.initializer
        if initializers.name in read
    }


def _read(node: onnx.NodeProto, kernel: tuple[int, ...]) -> Convolution | None:
    """A Conv node as a Convolution; None for dilated ones and automatic padding."""
    attributes: dict[str, Any] = {
        entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute
    }
    strides = tuple(attributes.get("strides", (1, 1)))
    if (
        not len(kernel) == len(strides) == 2
        or any(step != 1 for step in attributes.get("dilations", ()))
        or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return None
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    size = (kernel[0], kernel[1])
    return Convolution(node.input[0], node.input[1], size, attributes.get("group", 1), strides, pads)


def _gram_matrices(
    model: onnx.ModelProto, convolutions: list[Convolution], frames: Pixels
) -> dict[str, torch.Tensor]:
    """The Gram matrix of each convolution's inputs over all positions, (group, inputs, inputs)."""
    sources = list(dict.fromkeys(one.source for one in convolutions))
    session = open_session(with_outputs(model, sources))
    sums: dict[str, torch.Tensor] = {}
    for number, frame in enumerate(frames):
        tensors = dict(zip(sources, run_session(session, {INPUT: frame[None]}, sources), strict=True))
        for one in convolutions:
            seen = one.patches(torch.from_numpy(tensors[one.source]))
            product = torch.bmm(seen, seen.mT).double()
            sums[one.weights] = product + sums[one.weights] if number else product
    return sums


def _rounded(rows: torch.Tensor, grams: torch.Tensor) -> torch.Tensor:
    """Filters (group, filters, inputs) on their grids, float64, for inputs with these Gram matrices."""
    steps = rows.abs().amax(-1).clamp(min=1e-12) / LARGEST
    largest = rows.abs().argmax(-1)
    order = grams.diagonal(dim1=-2, dim2=-1).sum(0).argsort(descending=True)
    left = rows[..., order].clone()
    known = grams[:, order][:, :, order]
    level = DAMPING * known.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    known = known + level[:, None, None] * torch.eye(len(order), dtype=known.dtype)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(known)), upper=True)
    done, count = torch.empty_like(left), len(order)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        losses = torch.zeros_like(left[..., start:end])
        for place in range(start, end):
            wanted, column = left[..., place], int(order[place])
            chosen = (wanted / steps).round().clamp(-LARGEST, LARGEST)
            chosen = torch.where(largest == column, rows[..., column].sign() * LARGEST, chosen) * steps
            done[..., column] = chosen
            lost = (wanted - chosen) / factor[:, place, place, None]
            left[..., place:end] -= lost[..., None] * factor[:, None, place, place:end]
            losses[..., place - start] = lost
        left[..., end:] -= losses @ factor[:, start:end, end:]
    return done
