"""An ONNX graph, float or int8 (QDQ), as a LiteRT file, operator by operator, without a converter or torch.

The int8 file has the same int8 weights, scales and zero points: uint8 activations with zero point z become
int8 with z - 128, which is the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from catflap.errors import CatflapError
from catflap.runtime.engine_onnx import CAM

Array: TypeAlias = npt.NDArray[Any]
IDENTIFIER = b"TFL3"
MAPPED_LABELS = 20  # with more, activation maps cost time that nobody asked for
ALIGNED = 16  # bytes; where weights begin, so that a microcontroller can read them in place
RELU6 = (0.0, 6.0)
ALIASES = ("Cast", "Identity", "Reshape", "Gather", "Squeeze", "Flatten")  # of what has one row a frame


class UnknownOperator(CatflapError):
    """The graph has an operator that this writer does not know."""


@dataclass(frozen=True)
class Quantised:
    """An int8 constant: its values, the scale of each channel (or one), and the axis of the channels."""

    values: Array
    scale: Array
    zero: int
    axis: int

    def floats(self) -> Array:
        """The float32 values that it stands for."""
        shape = [1] * self.values.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        return ((self.values.astype(np.float32) - self.zero) * self.scale.reshape(shape)).astype(np.float32)


def write_tflite(graph: bytes, *, embedding: bool = False) -> bytes:
    """The LiteRT file of a graph that takes uint8 frames (n, height, width, 3) and gives logits first.

    It takes one frame as float32, 0 to 255, and answers float32 logits; with `embedding` the graph's second
    output, the features before the head, is one of the file, too, after the logits. Where the graph has
    activation maps of at most 20 labels, they are the last output, float32 (1, h, w, labels): the head as a
    convolution of the last feature map. Raises UnknownOperator where the graph holds more than convolutions,
    additions, clipping, a mean and a linear head.
    """
    given = onnx.load_from_string(graph).graph
    mapped = any(one.name == CAM for one in given.output)
    kept = [node for node in given.node if not all(name.split(".")[0] == CAM for name in node.output)]
    outputs = [one for one in given.output if one.name != CAM]
    del given.node[:], given.output[:]
    given.node.extend(kept)
    given.output.extend(outputs)
    return _Writer(given).write(embedding, mapped)


class _Writer:
    """The file as it grows: `tensors`, `buffers` and `operators` of the one subgraph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.graph = graph
        self.constants: dict[str, Array | Quantised] = {
            one.name: numpy_helper.to_array(one) for one in graph.initializer
        }
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: dict[tuple[int, int], int] = {}
        self.places: dict[str, int] = {}  # of ONNX values that are tensors here
        self.floats: dict[int, int] = {}  # of an int8 tensor its float twin
        self.waiting: dict[str, Callable[[int], None]] = {}  # writes the operator into the int8 tensor given
        self.shapes: dict[str, list[int]] = {}  # of what waits
        self.pooled = -1  # the last feature map, in floats, of which the head reads the mean
        self.head: list[int] = []  # weights and bias

    def write(self, embedding: bool, mapped: bool) -> bytes:
        pixels, logits = self.graph.input[0], self.graph.output[0].name
        shape = [1, *(dim.dim_value for dim in pixels.type.tensor_type.shape.dim[1:])]
        self.places[pixels.name] = start = self.tensor("args_0", shape, self.schema.TensorType.FLOAT32)
        for node in self.graph.node:
            if node.op_type == "Transpose" and list(_attributes(node)["perm"]) == [0, 3, 1, 2]:
                self.places[node.output[0]] = self.places[node.input[0]]  # LiteRT keeps channels last
            elif all(name in self.constants for name in node.input if name):
                self.fold(node)
            elif node.op_type in ALIASES and node.input[0] in self.places:
                self.places[node.output[0]] = self.places[node.input[0]]
            elif node.op_type == "Shape" or not self.holds(node):
                continue  # of the batch's size, which is 1 here
            elif node.op_type in HANDLERS:
                HANDLERS[node.op_type](self, node)
            else:
                raise _unknown(node)
        end = self.float_of(logits)
        ends = [end, *(self.float_of(one.name) for one in self.graph.output[1:] if embedding)]
        if mapped and self.pooled >= 0 and int(self.tensors[end].shape[1]) <= MAPPED_LABELS:
            ends.append(self.activation_maps())
        for number, place in enumerate(ends):
            self.tensors[place].name = f"output_{number}"
        return self.finish(start, ends)

    def holds(self, node: onnx.NodeProto) -> bool:
        """Whether the node reads pixels or what was made of them, not only shapes."""
        return any(name in self.places or name in self.waiting for name in node.input)

    def fold(self, node: onnx.NodeProto) -> None:
        """Compute what depends on constants only."""
        values = [self.constants[name] for name in node.input if name]
        if node.op_type == "DequantizeLinear":
            scale = np.atleast_1d(np.asarray(values[1], np.float32))
            zero = np.unique(np.asarray(values[2])) if len(values) > 2 else np.zeros(1, np.int8)
            if zero.size != 1:
                raise _unknown(node)
            axis = _attributes(node).get("axis", 1)
            folded: Array | Quantised = Quantised(np.asarray(values[0]), scale, int(zero[0]), axis)
        elif node.op_type == "Mul":
            folded = np.asarray(values[0]) * np.asarray(values[1])
        elif node.op_type == "Constant":
            folded = numpy_helper.to_array(_attributes(node)["value"])
        else:
            return  # of a shape, which nothing here asks for
        self.constants[node.output[0]] = folded

    # what the operators of ONNX become

    def dequantize(self, node: onnx.NodeProto) -> None:
        self.places[node.output[0]] = self.places[node.input[0]]

    def quantize(self, node: onnx.NodeProto) -> None:
        """An int8 tensor: the result of the operator before, or of QUANTIZE where that gave floats."""
        source = node.input[0]
        scale = np.asarray(self.constants[node.input[1]], np.float32).reshape(-1)
        zero = int(np.asarray(self.constants[node.input[2]]).reshape(-1)[0]) - 128
        write = self.waiting.pop(source, None)
        shape = self.shape_of(source)
        made = self.tensor(source, shape, self.schema.TensorType.INT8, scale, zero)
        if write is not None:
            write(made)
        elif self.is_int8(self.places[source]):
            raise _unknown(node)
        else:
            self.operator("QUANTIZE", [self.places[source]], made)
        self.places[node.output[0]] = made

    def convolution(self, node: onnx.NodeProto) -> None:
        settings, weights = _attributes(node), self.constants[node.input[1]]
        place = self.places[node.input[0]]
        _, height, width, channels = self.tensors[place].shape
        exact = not isinstance(weights, Quantised)  # floats, before and after
        values = np.asarray(weights) if exact else weights.values  # type: ignore[union-attr]
        filters, per_group, *kernel = values.shape
        groups, strides = settings.get("group", 1), settings.get("strides", [1, 1])
        depthwise = groups == channels and per_group == 1 and groups > 1
        if (groups > 1 and not depthwise) or set(settings.get("dilations", [1, 1])) != {1}:
            raise _unknown(node)
        if not exact and not self.is_int8(place):
            raise _unknown(node)
        pads = list(settings.get("pads", [0, 0, 0, 0]))
        size = [
            (length + before + after - extent) // stride + 1
            for length, before, after, extent, stride in zip(
                (height, width), pads[:2], pads[2:], kernel, strides, strict=True
            )
        ]
        same = _same_pads((height, width), kernel, strides)
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        data = np.ascontiguousarray(values.transpose(order))
        bias = self.floats_of(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(filters)

        def write(out: int) -> None:
            given = place if not exact else self.float_at(place)
            kind = self.schema.TensorType
            if isinstance(weights, Quantised):
                scale = np.broadcast_to(weights.scale, filters).astype(np.float32)
                kernel_at = self.tensor("", data.shape, kind.INT8, scale, 0, data, 3 if depthwise else 0)
                per = scale.astype(np.float64) * self.scale_of(given)
                whole = np.rint(bias / per).astype(np.int32)
                bias_at = self.tensor("", [filters], kind.INT32, per.astype(np.float32), 0, whole)
            else:
                kernel_at = self.tensor("", data.shape, kind.FLOAT32, data=data.astype(np.float32))
                bias_at = self.tensor("", [filters], kind.FLOAT32, data=bias.astype(np.float32))
            if pads not in (same, [0, 0, 0, 0]):
                given = self.padded(given, pads)
            options = self.schema.DepthwiseConv2DOptionsT() if depthwise else self.schema.Conv2DOptionsT()
            padding = self.schema.Padding
            options.padding = padding.SAME if pads == same else padding.VALID
            options.strideH, options.strideW = strides
            options.dilationHFactor = options.dilationWFactor = 1
            if depthwise:
                options.depthMultiplier = filters // channels
            options.fusedActivationFunction = self.activation(node)
            name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
            self.operator(name, [given, kernel_at, bias_at], out, options, version=3)

        self.later(node, [1, *size, filters], write, exact)

    def arithmetic(self, node: onnx.NodeProto) -> None:
        """A constant for each channel is subtracted, added or multiplied with: how pixels are normalised."""
        value, constant = node.input
        if constant not in self.constants:
            return self.addition(node) if node.op_type == "Add" else self.refuse(node)
        data, given = self.floats_of(constant), self.float_of(value)
        if data.size != 1 and data.shape != (1, self.tensors[given].shape[3], 1, 1):
            raise _unknown(node)
        kind = self.schema.TensorType.FLOAT32
        data = data.reshape(1, 1, 1, -1).astype(np.float32)
        out = self.tensor(node.output[0], list(self.tensors[given].shape), kind)
        options = getattr(self.schema, f"{node.op_type}OptionsT")()
        self.operator(
            node.op_type.upper(), [given, self.tensor("", data.shape, kind, data=data)], out, options
        )
        self.places[node.output[0]] = out
        return None

    def refuse(self, node: onnx.NodeProto) -> None:
        raise _unknown(node)

    def addition(self, node: onnx.NodeProto) -> None:
        """The sum of two branches."""
        first, second = (self.places[name] for name in node.input)
        exact = not (self.is_int8(first) and self.is_int8(second))
        if list(self.tensors[first].shape) != list(self.tensors[second].shape):
            raise _unknown(node)

        def write(out: int) -> None:
            given = [self.float_at(place) if exact else place for place in (first, second)]
            options = self.schema.AddOptionsT()
            options.fusedActivationFunction = self.activation(node)
            self.operator("ADD", given, out, options, version=2)

        self.later(node, list(self.tensors[first].shape), write, exact)

    def clip(self, node: onnx.NodeProto) -> None:
        """Its operator before has it as an activation: `activation` says which."""
        source, out = node.input[0], node.output[0]
        if source in self.waiting:
            self.waiting[out] = self.waiting.pop(source)
            self.shapes[out] = self.shapes[source]
        else:
            self.places[out] = self.places[source]

    def mean(self, node: onnx.NodeProto) -> None:
        axes = node.input[1] if len(node.input) > 1 else ""
        found = np.asarray(self.constants[axes]).tolist() if axes else list(_attributes(node)["axes"])
        given = self.float_of(node.input[0])
        if sorted(axis % 4 for axis in found) != [2, 3]:
            raise _unknown(node)
        kind = self.schema.TensorType
        where = self.tensor("", [2], kind.INT32, data=np.array([1, 2], np.int32))
        out = self.tensor(node.output[0], [1, int(self.tensors[given].shape[3])], kind.FLOAT32)
        options = self.schema.ReducerOptionsT()
        options.keepDims = False
        self.operator("MEAN", [given, where], out, options)
        self.places[node.output[0]], self.pooled = out, given

    def linear(self, node: onnx.NodeProto) -> None:
        """The head, in floats, so that no logit is clipped: its weights are those that int8 stands for."""
        settings = _attributes(node)
        weights, kind = self.floats_of(node.input[1]), self.schema.TensorType
        if settings.get("transA", 0) or settings.get("alpha", 1.0) != 1 or settings.get("beta", 1.0) != 1:
            raise _unknown(node)
        weights = np.ascontiguousarray(weights if settings.get("transB", 0) else weights.T)
        bias = self.floats_of(node.input[2]) if len(node.input) > 2 else np.zeros(len(weights))
        options = self.schema.FullyConnectedOptionsT()
        inputs = [
            self.float_of(node.input[0]),
            self.tensor("", weights.shape, kind.FLOAT32, data=weights.astype(np.float32)),
            self.tensor("", bias.shape, kind.FLOAT32, data=bias.astype(np.float32)),
        ]
        out = self.tensor(node.output[0], [1, len(weights)], kind.FLOAT32)
        self.operator("FULLY_CONNECTED", inputs, out, options)
        self.places[node.output[0]], self.head = out, inputs[1:]

    def activation_maps(self) -> int:
        """The head at each place of the last feature map: a convolution with its weights, stored once."""
        weights, bias = (self.tensors[place] for place in self.head)
        labels, width = (int(side) for side in weights.shape)
        _, height, across, _ = (int(side) for side in self.tensors[self.pooled].shape)
        kind = self.schema.TensorType.FLOAT32
        kernel = self.tensor("", [labels, 1, 1, width], kind)
        self.tensors[kernel].buffer = weights.buffer
        shift = self.tensor("", bias.shape, kind)
        self.tensors[shift].buffer = bias.buffer
        out = self.tensor("", [1, height, across, labels], kind)
        options = self.schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = self.schema.Padding.VALID, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        self.operator("CONV_2D", [self.pooled, kernel, shift], out, options, version=3)
        return out

    # helpers

    def later(
        self, node: onnx.NodeProto, shape: list[int], write: Callable[[int], None], exact: bool
    ) -> None:
        """Write the operator now, as floats, or once QuantizeLinear gives the scale of its int8 result."""
        out = node.output[0]
        if exact:
            self.places[out] = made = self.tensor(out, shape, self.schema.TensorType.FLOAT32)
            write(made)
            return
        last = self.clipped(out)
        if [one.op_type for one in self.consumers.get(last, [])] != ["QuantizeLinear"]:
            raise _unknown(node)
        self.waiting[out], self.shapes[out] = write, shape

    def clipped(self, name: str) -> str:
        """The value after the Clip or Relu that alone reads this one; else the value itself."""
        after = self.consumers.get(name, [])
        return str(after[0].output[0]) if len(after) == 1 and after[0].op_type in ("Clip", "Relu") else name

    def activation(self, node: onnx.NodeProto) -> int:
        """The activation of the node after this one, where it alone reads this one's result."""
        kinds, after = self.schema.ActivationFunctionType, self.consumers.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type not in ("Clip", "Relu"):
            return int(kinds.NONE)
        if after[0].op_type == "Relu":
            return int(kinds.RELU)
        limits = tuple(float(self.floats_of(name)) for name in after[0].input[1:])
        if limits != RELU6:
            raise _unknown(after[0])
        return int(kinds.RELU6)

    def shape_of(self, name: str) -> Sequence[int]:
        return self.shapes[name] if name in self.shapes else list(self.tensors[self.places[name]].shape)

    def floats_of(self, name: str) -> Array:
        """A constant as float32 values."""
        if name not in self.constants:
            raise UnknownOperator(f"{name[:80]} is computed, not constant.", FIX)
        value = self.constants[name]
        return value.floats() if isinstance(value, Quantised) else np.asarray(value)

    def is_int8(self, place: int) -> bool:
        return bool(self.tensors[place].type == self.schema.TensorType.INT8)

    def scale_of(self, place: int) -> float:
        return float(self.tensors[place].quantization.scale[0])

    def float_of(self, name: str) -> int:
        return self.float_at(self.places[name])

    def float_at(self, place: int) -> int:
        """The tensor, or the one that DEQUANTIZE makes of it."""
        if not self.is_int8(place):
            return place
        if place not in self.floats:
            shape = list(self.tensors[place].shape)
            self.floats[place] = self.tensor("", shape, self.schema.TensorType.FLOAT32)
            self.operator("DEQUANTIZE", [place], self.floats[place], version=2)
        return self.floats[place]

    def padded(self, place: int, pads: Sequence[int]) -> int:
        top, left, bottom, right = pads
        source, kind = self.tensors[place], self.schema.TensorType
        _, height, width, channels = source.shape
        around = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        amounts = self.tensor("", [4, 2], kind.INT32, data=around)
        shape = [1, int(height) + top + bottom, int(width) + left + right, int(channels)]
        scale = source.quantization.scale if self.is_int8(place) else None
        zero = int(source.quantization.zeroPoint[0]) if self.is_int8(place) else 0
        out = self.tensor("", shape, source.type, scale, zero)
        self.operator("PAD", [place, amounts], out, self.schema.PadOptionsT(), version=2)
        return out

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: int,
        scale: Array | None = None,
        zero: int = 0,
        data: Array | None = None,
        axis: int = 0,
    ) -> int:
        """A new tensor and its number; `data` makes it a constant."""
        made = self.schema.TensorT()
        made.name, made.shape = name or str(len(self.tensors)), np.array(shape, np.int32)
        made.type, made.buffer, made.hasRank = kind, 0, True
        if scale is not None:
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = np.asarray(scale, np.float32)
            made.quantization.zeroPoint = np.full(len(scale), zero, np.int64)
            made.quantization.quantizedDimension = axis
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(made)
        return len(self.tensors) - 1

    def operator(
        self, name: str, inputs: Sequence[int], output: int, options: Any = None, version: int = 1
    ) -> None:
        made, code = self.schema.OperatorT(), int(getattr(self.schema.BuiltinOperator, name))
        made.opcodeIndex = self.codes.setdefault((code, version), len(self.codes))
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            made.builtinOptions = options
        self.operators.append(made)

    def finish(self, start: int, ends: Sequence[int]) -> bytes:
        schema = self.schema
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, "main"
        graph.inputs, graph.outputs = np.array([start], np.int32), np.array(ends, np.int32)
        model.version, model.description = 3, "catflap"
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self.buffers, []
        for code, version in self.codes:
            made = schema.OperatorCodeT()
            made.builtinCode, made.deprecatedBuiltinCode, made.version = code, min(code, 127), version
            model.operatorCodes.append(made)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        named = {"inputs": [("args_0", start)]}
        named["outputs"] = [(f"output_{number}", place) for number, place in enumerate(ends)]
        for side, tensors in named.items():
            maps = []
            for name, place in tensors:
                of = schema.TensorMapT()
                of.name, of.tensorIndex = name, place
                maps.append(of)
            setattr(signature, side, maps)
        model.signatureDefs = [signature]
        return pack(model)


HANDLERS: Mapping[str, Callable[[_Writer, onnx.NodeProto], None]] = {
    "DequantizeLinear": _Writer.dequantize,
    "QuantizeLinear": _Writer.quantize,
    "Conv": _Writer.convolution,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _Writer.arithmetic),
    "Clip": _Writer.clip,
    "Relu": _Writer.clip,
    "ReduceMean": _Writer.mean,
    "Gemm": _Writer.linear,
}
FIX = "Install catflap[litert], whose converter knows more, or export without litert-int8."


def _unknown(node: onnx.NodeProto) -> UnknownOperator:
    return UnknownOperator(f"The graph has a {node.op_type} that is not written for LiteRT.", FIX)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _same_pads(size: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The pads of LiteRT's SAME in ONNX's order: top, left, bottom, right."""
    total = [
        max((-(-length // stride) - 1) * stride + extent - length, 0)
        for length, extent, stride in zip(size, kernel, strides, strict=True)
    ]
    return [*(one // 2 for one in total), *(one - one // 2 for one in total)]


def pack(model: Any) -> bytes:
    """The bytes of a model, with equal vectors written once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
        """Writes equal vectors once; bytes begin at multiples of 16."""

        def __init__(self) -> None:
            super().__init__(1 << 20)
            self.written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                if x.dtype == np.uint8:
                    self.Prep(ALIGNED, len(x))
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
