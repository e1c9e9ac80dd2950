"""Inside a .tflite file: its weights, its operators, and less of it; the one file that owns flatbuffers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
ALIGNED = 16  # bytes; where weights begin, so that a microcontroller can read them in place
CONVOLUTION = schema.BuiltinOperator.CONV_2D
DEPTHWISE = schema.BuiltinOperator.DEPTHWISE_CONV_2D
CLOSE = 1e-3  # of the largest: two converters fold batch norm into weights in another order of sums

Weights: TypeAlias = npt.NDArray[np.float32]


def compact(model_bytes: bytes) -> bytes:
    """The same model in fewer bytes: no answer changes.

    Zero points of int8 weights are all zero, eight bytes for each channel of each layer: those of the same
    length become one. Tensors between the ends lose their names, paths through torch modules of a hundred
    letters. Weights that lay behind the flatbuffer go into it, aligned, as LiteRT Micro wants them.
    """
    model = _opened(model_bytes)
    for graph in model.subgraphs:
        ends = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            if number not in ends:
                tensor.name = str(number)
    return _packed(model)


def with_weights(model_bytes: bytes, exchanged: Iterable[tuple[Weights, Weights]]) -> bytes:
    """The same float model with other weights: in its convolutions the first of a pair becomes the second.

    Weights are float32 (filters, channels of a group, height, width), as ONNX has them, and are found by
    their values. A convolution that has none of them stays as it is.
    """
    model, pairs = _opened(model_bytes), list(exchanged)
    for code, operator, tensors in _convolutions(model):
        tensor = tensors[operator.inputs[1]]
        buffer = model.buffers[tensor.buffer]
        if tensor.type != schema.TensorType.FLOAT32 or buffer.data is None:
            continue
        found = np.frombuffer(buffer.data.tobytes(), np.float32).reshape(tensor.shape)
        for before, after in pairs:
            known = _laid_out(before, code)
            if known.shape == found.shape and np.abs(known - found).max() <= CLOSE * np.abs(known).max():
                buffer.data = np.frombuffer(_laid_out(after, code).tobytes(), np.uint8)
                break
    return _packed(model)


def first_convolutions(model_bytes: bytes, count: int) -> list[str]:
    """The names of what the first convolutions of a model give."""
    found = _convolutions(_opened(model_bytes))[:count]
    return [tensors[operator.outputs[0]].name.decode("utf-8") for _, operator, tensors in found]


def operators(model_bytes: bytes) -> list[str]:
    """The names of the operators that a model uses, sorted."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return sorted({names[_code(code)] for code in _opened(model_bytes).operatorCodes})


def _opened(model_bytes: bytes) -> Any:
    """The model as objects of the schema, with weights that lay behind the flatbuffer in their buffers."""
    model = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 mean that there is none
            where = slice(buffer.offset, buffer.offset + buffer.size)
            buffer.data = np.frombuffer(model_bytes[where], np.uint8)
        buffer.offset = buffer.size = 0
    return model


def _packed(model: Any) -> bytes:
    builder = _Sharing(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _convolutions(model: Any) -> list[tuple[int, Any, Any]]:
    """The code of each convolution, the operator, and the tensors of its graph, in the order they run."""
    codes = [_code(code) for code in model.operatorCodes]
    return [
        (codes[operator.opcodeIndex], operator, graph.tensors)
        for graph in model.subgraphs
        for operator in graph.operators
        if codes[operator.opcodeIndex] in (CONVOLUTION, DEPTHWISE)
    ]


def _code(code: Any) -> int:
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _laid_out(weights: Weights, code: int) -> Weights:
    """Weights of ONNX in the order of a LiteRT operator: (filters, height, width, channels), or, when each
    filter has a channel of its own, (1, height, width, filters).
    """
    order = (1, 2, 3, 0) if code == DEPTHWISE else (0, 2, 3, 1)
    return np.ascontiguousarray(weights.transpose(order), dtype=np.float32)


class _Sharing(flatbuffers.Builder):  # type: ignore[misc]
    """Writes each vector once, however often it is asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        """Where a vector stands: bytes begin at multiples of 16."""
        key = (x.dtype.str, x.tobytes())
        if key not in self.written:
            if x.dtype == np.uint8:
                self.Prep(ALIGNED, len(x))
            self.written[key] = super().CreateNumpyVector(x)
        return self.written[key]
