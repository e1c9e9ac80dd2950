"""For Core ML: iOS, macOS; the one file that owns coremltools.

The model, a neural network in one .mlmodel file, takes one frame as float32, 0 to 255, and answers with
float32 logits, and with the embedding where photos may be unknown. Core ML runs on Apple's systems only, so
what is written here was not run by it. Instead torch computes the layers that the file states, one by one,
and they must give what the Checkpoint gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catflap.exporting.target import Argument, Form, Target, run_converter

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource

CHECKPOINT, FRAMES, WRITTEN = "checkpoint", "frames.npy", "written.mlmodel"
EMBEDDED = "embedded"  # where the features before the head are a second output
CHECKED = 4  # frames
LIMIT = 1e-3  # of a logit, and of a number in an embedding


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The .mlmodel file of the only precision that is written: fp32."""
    embedded = {EMBEDDED: ""} if source.may_be_unknown else {}
    given: dict[str, Argument] = {CHECKPOINT: source.checkpoint.path, FRAMES: source.frames[:CHECKED]}
    return run_converter(__name__, given | embedded, (WRITTEN,))


def work(folder: Path) -> None:
    """In the other process: a Core ML model from the torch module, if its layers answer like that one."""
    import coremltools
    import torch

    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.runtime.engine_onnx import EMBEDDING
    from catflap.training.network import TwoOutputNetwork, load_network
    from catflap.training.onnx_graph import INPUT, OUTPUT

    opened = load_checkpoint(folder / CHECKPOINT)
    network, names = load_network(opened), [OUTPUT]
    module: torch.nn.Module = network
    if (folder / EMBEDDED).exists():
        module, names = TwoOutputNetwork(network), [OUTPUT, EMBEDDING]
    module.eval()
    shape = (1, opened.frame.height, opened.frame.width, 3)
    program = torch.export.export(module, (torch.zeros(shape),)).run_decompositions({})
    model = coremltools.convert(
        program,
        inputs=[coremltools.TensorType(name=INPUT, shape=shape, dtype=np.float32)],
        outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in names],
        convert_to="neuralnetwork",  # an ML program would be a folder with a random name in it
        skip_model_load=True,
    )
    spec = model.get_spec()
    spec.description.metadata.userDefined.clear()  # the day on which it was written
    with torch.inference_mode():
        for frame in torch.from_numpy(np.load(folder / FRAMES)).float():
            answers, expected = layer_by_layer(spec, frame[None]), module(frame[None])
            for name, one in zip(names, expected if len(names) > 1 else [expected], strict=True):
                off = float((answers[name] - one).abs().max())
                if not off <= LIMIT:
                    raise ValueError(f"the {name} of the file's layers differ by {off:.3g}")
    for end in spec.description.output:
        end.type.multiArrayType.shape.extend(answers[end.name].shape)
    (folder / WRITTEN).write_bytes(spec.SerializeToString(deterministic=True))


def layer_by_layer(spec: Any, pixels: Any) -> dict[str, Any]:
    """The outputs by name that a neural network of Core ML states for one frame, torch float32 (1, …) each.

    Layers as in Apple's specification of the format, NeuralNetwork.proto. ValueError for a layer that
    none of our backbones has.
    """
    values = {spec.description.input[0].name: pixels}
    for layer in spec.neuralNetwork.layers:
        kind = layer.WhichOneof("layer")
        if kind not in LAYERS:
            raise ValueError(f"it has a layer {kind} that is not supported here")
        values[layer.output[0]] = LAYERS[kind](getattr(layer, kind), *(values[name] for name in layer.input))
    return {end.name: values[end.name] for end in spec.description.output}


def _weights(tensor: Any, *shape: int) -> Any:
    import torch

    return torch.tensor(np.asarray(tensor.floatValue, np.float32)).reshape(shape)


def _edges(amounts: Any) -> list[int]:
    """Left, right, top, bottom, as torch pads."""
    (down, across) = [(edge.startEdgeSize, edge.endEdgeSize) for edge in amounts.borderAmounts]
    return [*across, *down]


def _convolution(about: Any, x: Any) -> Any:
    from torch.nn.functional import conv2d, pad

    size = (about.outputChannels, about.kernelChannels, *about.kernelSize)
    bias = _weights(about.bias, about.outputChannels) if about.hasBias else None
    if about.WhichOneof("ConvolutionPaddingType") != "valid" or about.isDeconvolution:
        raise ValueError("it has a convolution that is not supported here")
    return conv2d(
        pad(x, _edges(about.valid.paddingAmounts)),
        _weights(about.weights, *size),
        bias,
        tuple(about.stride),
        0,
        tuple(about.dilationFactor),
        about.nGroups,
    )


def _padding(about: Any, x: Any) -> Any:
    from torch.nn.functional import pad

    if about.WhichOneof("PaddingType") != "constant":
        raise ValueError("it has a padding that is not supported here")
    return pad(x, _edges(about.paddingAmounts), value=about.constant.value)


def _pooling(about: Any, x: Any) -> Any:
    if not about.globalPooling or about.type != about.AVERAGE:
        raise ValueError("it has a pooling that is not supported here")
    return x.mean((2, 3), keepdim=True)


def _activation(about: Any, x: Any) -> Any:
    kind = about.WhichOneof("NonlinearityType")
    if kind == "linear":
        return x * about.linear.alpha + about.linear.beta
    if kind == "ReLU":
        return x.relu()
    raise ValueError(f"it has an activation {kind} that is not supported here")


def _inner_product(about: Any, x: Any) -> Any:
    product = x @ _weights(about.weights, about.outputChannels, about.inputChannels).T
    return product + _weights(about.bias, about.outputChannels) if about.hasBias else product


LAYERS: Mapping[str, Callable[..., Any]] = {
    "transpose": lambda about, x: x.permute(*about.axes),
    "loadConstantND": lambda about: _weights(about.data, *about.shape),
    "activation": _activation,
    "add": lambda about, x, y=None: x + (about.alpha if y is None else y),
    "multiply": lambda about, x, y=None: x * (about.alpha if y is None else y),
    "padding": _padding,
    "convolution": _convolution,
    "clip": lambda about, x: x.clamp(about.minVal, about.maxVal),
    "pooling": _pooling,
    "reshapeStatic": lambda about, x: x.reshape(*about.targetShape),
    "innerProduct": _inner_product,
}
TARGET = Target(
    "coreml",
    {"coreml-fp32": Form("coreml", "fp32", "targets/coreml/fp32.mlmodel")},
    convert,
    packages=("coremltools",),
)
