"""The layer at which a variant's graph leaves the float one: what a refusal names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engine_onnx import open_session, run_session

FRAMES = 4
KINDS = {"tensor(float)": onnx.TensorProto.FLOAT, "tensor(float16)": onnx.TensorProto.FLOAT16}
LEAST = 1e-10  # a share of noise under which two tensors count as equal
EXACT = ".exact"  # what the float graph's tensor is called where it enters the variant's


@dataclass(frozen=True)
class Layer:
    """A layer by the name of its weights, and its own signal to noise in dB, −100 to 100."""

    name: str
    decibels: float

    def __str__(self) -> str:
        return f"{self.name}, signal to noise {self.decibels:.0f} dB when its inputs are exact"


def worst_layer(float_graph: bytes, variant_graph: bytes, frames: Pixels) -> Layer | None:
    """The layer of an ONNX variant that adds most noise to what the float graph computes.

    Frames uint8 (n, height, width, 3), n ≥ 1; the first 4 count. Tensors are compared by their names, as
    the next layer reads them: after quantisation where there is one. Every layer gets the float graph's
    own inputs, so that none is blamed for what an earlier one lost. The noise is the variant's tensor
    minus the float one, not finite counting as nothing but noise. None when the graphs share no
    names or nothing differs.
    """
    graph, variant = onnx.load_from_string(float_graph), onnx.load_from_string(variant_graph)
    try:
        shares = _shares(graph, variant, frames[:FRAMES])
    except BadArtifact:  # another tool's graph, whose tensors of the same names are others
        return None
    worst = max(shares, key=lambda name: shares[name], default="")
    if shares.get(worst, 0.0) <= LEAST:
        return None
    share = min(shares[worst], 1 - LEAST)
    return Layer(_name(graph.graph, worst), float(10 * np.log10((1 - share) / share)))


def _shares(graph: onnx.ModelProto, variant: onnx.ModelProto, frames: Pixels) -> dict[str, float]:
    """The share noise / (signal + noise) in each float tensor, 0 to 1; 1 when it is not finite."""
    ours = {name for node in graph.graph.node for name in node.output}
    read = {name: place for name, place in _as_read(variant.graph).items() if name in ours}
    inner = open_session(showing(variant, read.values())).get_outputs()
    kinds = {end.name: KINDS[end.type] for end in inner if end.type in KINDS}
    read = {name: place for name, place in read.items() if place in kinds}
    if not read:
        return {}
    exact = open_session(showing(graph, read))
    apart = open_session(_apart(variant, {read[name]: kinds[read[name]] for name in read}))
    fed = {end.name for end in apart.get_inputs()}
    pixels = exact.get_inputs()[0].name
    signal, noise = np.zeros(len(read)), np.zeros(len(read))
    with np.errstate(over="ignore", invalid="ignore"):
        for frame in frames:
            tensors = run_session(exact, {pixels: frame[None]}, list(read))
            inputs = {
                place + EXACT: tensor.astype(onnx.helper.tensor_dtype_to_np_dtype(kinds[place]))
                for place, tensor in zip(read.values(), tensors, strict=True)
            }
            inputs[variant.graph.input[0].name] = frame[None]
            given = {name: tensor for name, tensor in inputs.items() if name in fed}
            for n, got in enumerate(run_session(apart, given, list(read.values()))):
                signal[n] += np.square(tensors[n], dtype=np.float64).sum()
                noise[n] += np.square(tensors[n].astype(np.float64) - got).sum()
        shares = np.nan_to_num(noise / np.maximum(signal + noise, 1e-300), nan=1.0)
    return dict(zip(read, shares.tolist(), strict=True))


def _as_read(graph: onnx.GraphProto) -> dict[str, str]:
    """Each tensor of a graph -> the one that the next layer reads in its place."""
    quantised = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    restored = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    outputs = (name for node in graph.node for name in node.output if name)
    return {name: restored.get(quantised.get(name, ""), name) for name in outputs}


def showing(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """A model that also answers with some of its inner tensors."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return bytes(shown.SerializeToString())


def _apart(model: onnx.ModelProto, kinds: Mapping[str, int]) -> bytes:
    """A model in which these tensors are answers, and whoever reads one reads an input NAME.exact instead."""
    shown = onnx.load_from_string(showing(model, kinds))
    for node in shown.graph.node:
        for n, name in enumerate(node.input):
            if name in kinds:
                node.input[n] = name + EXACT
    used = {name for node in shown.graph.node for name in node.input}
    shown.graph.input.extend(
        onnx.helper.make_tensor_value_info(name + EXACT, kind, None)
        for name, kind in kinds.items()
        if name + EXACT in used
    )
    return bytes(shown.SerializeToString())


def _name(graph: onnx.GraphProto, tensor: str) -> str:
    """The name of the weights behind a tensor of the float graph; of its own node when there are none."""
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    waiting = [tensor]
    for name in waiting:
        if name in weights:
            return name.removesuffix(".weight")
        node = producers.get(name)
        waiting.extend(source for source in (node.input if node else ()) if source not in waiting)
    return str(producers[tensor].name)
