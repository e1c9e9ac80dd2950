"""A .tflite file without what a runtime does not read: the one file that owns flatbuffers."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
ALIGNED = 16  # bytes; where weights begin, so that a microcontroller can read them in place


def compact(model_bytes: bytes) -> bytes:
    """The same model in fewer bytes: no answer changes.

    Zero points of int8 weights are all zero, eight bytes for each channel of each layer: those of the same
    length become one. Tensors between the ends lose their names, paths through torch modules of a hundred
    letters. Weights that lay behind the flatbuffer go into it, aligned, as LiteRT Micro wants them.
    """
    model = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 mean that there is none
            where = slice(buffer.offset, buffer.offset + buffer.size)
            buffer.data = np.frombuffer(model_bytes[where], np.uint8)
        buffer.offset = buffer.size = 0
    for graph in model.subgraphs:
        ends = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            if number not in ends:
                tensor.name = str(number)
    builder = _Sharing(len(model_bytes))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


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


def operators(model_bytes: bytes) -> list[str]:
    """The names of the operators that a model uses, sorted."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model: Any = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
    return sorted({names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes})
