"""A .tflite file in fewer bytes answers as before, with weights where LiteRT Micro looks for them; and it
answers as other weights say once they are exchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'")

import flatbuffers
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch.nn.functional import conv2d

from catflap.exporting.targets.to_litert import (
    compact_tflite,
    first_convolutions,
    operators,
    replace_weights,
)
from catflap.exporting.tflite_writer import ALIGNED, IDENTIFIER
from catflap.runtime.engine_litert import open_model

COLOUR = Path(__file__).parent.parent / "runtime" / "colour.tflite"
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def opened(data: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(data, 0)


def with_weights_behind(data: bytes) -> bytes:
    """The same model as the quantiser writes it: the bytes of its buffers after the flatbuffer."""
    model, behind = opened(data), b""
    held = [buffer for buffer in model.buffers if buffer.data is not None and len(buffer.data)]
    contents = [buffer.data.tobytes() for buffer in held]
    for buffer in held:
        buffer.data, buffer.offset, buffer.size = None, 2, 2
    length = len(packed(model))
    for buffer, content in zip(held, contents, strict=True):
        behind += bytes(-(length + len(behind)) % ALIGNED)
        buffer.offset, buffer.size = length + len(behind), len(content)
        behind += content
    front = packed(model)
    assert len(front) == length
    return front + behind


def test_no_answer_changes_and_names_between_the_ends_go() -> None:
    given = COLOUR.read_bytes()
    made = compact_tflite(given)
    assert len(made) < len(given)
    assert compact_tflite(made) == made
    np.testing.assert_array_equal(open_model(made, 1)(FRAMES), open_model(given, 1)(FRAMES))
    (graph,) = opened(made).subgraphs
    names = [tensor.name.decode() for tensor in graph.tensors]
    ends = {*graph.inputs, *graph.outputs}
    assert all(name == str(number) for number, name in enumerate(names) if number not in ends)
    assert names[graph.inputs[0]] == "serving_default_args_0"


def test_weights_behind_the_flatbuffer_come_into_it() -> None:
    given = with_weights_behind(COLOUR.read_bytes())
    assert all(buffer.data is None for buffer in opened(given).buffers)
    np.testing.assert_array_equal(open_model(given, 1)(FRAMES), open_model(COLOUR.read_bytes(), 1)(FRAMES))
    made = compact_tflite(given)
    assert all(buffer.offset == buffer.size == 0 for buffer in opened(made).buffers)
    np.testing.assert_array_equal(open_model(made, 1)(FRAMES), open_model(given, 1)(FRAMES))


def test_weights_begin_where_a_microcontroller_can_read_them() -> None:
    made = compact_tflite(COLOUR.read_bytes())
    starts = []
    model = schema.Model.GetRootAs(made, 0)
    for number in range(model.BuffersLength()):
        if not model.Buffers(number).DataIsNone():
            data = model.Buffers(number)._tab
            starts.append(data.Vector(data.Offset(4)))
    assert len(starts) > 1
    assert all(start % ALIGNED == 0 for start in starts)


def test_equal_vectors_are_written_once() -> None:
    """Zero points of two layers with as many channels are one list of zeros, eight bytes a channel."""
    model = opened(COLOUR.read_bytes())
    plain = len(compact_tflite(packed(model)))
    for tensor in model.subgraphs[0].tensors[:2]:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.full(1000, 0.5, np.float32)
        tensor.quantization.zeroPoint = np.zeros(1000, np.int64)
    shared = len(compact_tflite(packed(model)))
    assert 12_000 < shared - plain < 13_000
    assert len(packed(model)) > 24_000


def test_the_operators_are_named() -> None:
    assert operators(COLOUR.read_bytes()) == ["FULLY_CONNECTED", "MEAN"]


def tensor(name: str, shape: tuple[int, ...], buffer: int) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name, np.array(shape, np.int32), buffer
    made.type, made.hasRank = schema.TensorType.FLOAT32, True
    return made


def two_convolutions(first: np.ndarray, second: np.ndarray) -> bytes:
    """8 x 8 pixels through a convolution (filters, channels, 3, 3) and a depthwise one (filters, 1, 3, 3)."""
    count, channels = first.shape[:2]
    model, graph = schema.ModelT(), schema.SubGraphT()
    contents = [first.transpose(0, 2, 3, 1), second.transpose(1, 2, 3, 0)]
    contents += [np.zeros(count), np.zeros(count)]
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT() for _ in range(5)]
    for buffer, content in zip(model.buffers[1:], contents, strict=True):
        buffer.data = np.frombuffer(content.astype(np.float32).tobytes(), np.uint8)
    weights = [tensor(f"w{n}", content.shape, n + 1) for n, content in enumerate(contents)]
    sizes = [(1, 8, 8, channels), (1, 6, 6, count), (1, 4, 4, count)]
    graph.tensors = [*weights, *(tensor(f"at{n}", size, 0) for n, size in enumerate(sizes))]
    graph.inputs, graph.outputs = np.array([4], np.int32), np.array([6], np.int32)
    model.operatorCodes, graph.operators = [], []
    kinds = (("CONV_2D", schema.Conv2DOptionsT()), ("DEPTHWISE_CONV_2D", schema.DepthwiseConv2DOptionsT()))
    for n, (kind, options) in enumerate(kinds):
        code, step = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        options.padding, options.strideW, options.strideH = schema.Padding.VALID, 1, 1
        step.opcodeIndex, step.builtinOptions = n, options
        step.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        step.inputs, step.outputs = np.array([4 + n, n, 2 + n], np.int32), np.array([5 + n], np.int32)
        model.operatorCodes.append(code)
        graph.operators.append(step)
    return packed(model)


def test_weights_are_exchanged_where_their_values_stand() -> None:
    """Batch norm is folded by another converter, so that values differ in their last digits."""
    generator = np.random.default_rng(0)
    shapes = ((4, 3, 3, 3), (4, 1, 3, 3))
    old, new, unknown = ([generator.normal(size=shape) for shape in shapes] for _ in range(3))
    given = two_convolutions(*old)
    folded = [weights * (1 + 1e-6) for weights in old]
    made = replace_weights(given, [*zip(unknown, old, strict=True), *zip(folded, new, strict=True)])
    pixels = generator.normal(size=(1, 8, 8, 3)).astype(np.float32)
    for data, (first, second) in ((given, old), (made, new), (replace_weights(given, []), old)):
        seen = conv2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).double(), torch.from_numpy(first))
        wanted = conv2d(seen, torch.from_numpy(second), groups=4).permute(0, 2, 3, 1).numpy()
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
        interpreter.invoke()
        got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_convolutions_are_named_in_the_order_they_run() -> None:
    given = two_convolutions(np.ones((4, 3, 3, 3)), np.ones((4, 1, 3, 3)))
    assert first_convolutions(given, 1) == ["at1"]
    assert first_convolutions(given, 5) == ["at1", "at2"]
    assert first_convolutions(COLOUR.read_bytes(), 2) == []
