"""A .tflite file in fewer bytes answers as before; its weights lie where LiteRT Micro looks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from catflap.exporting.targets.litert_compact import ALIGNED, IDENTIFIER, compact, operators
from catflap.runtime.litert import open_model

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
    made = compact(given)
    assert len(made) < len(given)
    assert compact(made) == made
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
    made = compact(given)
    assert all(buffer.offset == buffer.size == 0 for buffer in opened(made).buffers)
    np.testing.assert_array_equal(open_model(made, 1)(FRAMES), open_model(given, 1)(FRAMES))


def test_weights_begin_where_a_microcontroller_can_read_them() -> None:
    made = compact(COLOUR.read_bytes())
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
    plain = len(compact(packed(model)))
    for tensor in model.subgraphs[0].tensors[:2]:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.full(1000, 0.5, np.float32)
        tensor.quantization.zeroPoint = np.zeros(1000, np.int64)
    shared = len(compact(packed(model)))
    assert 12_000 < shared - plain < 13_000
    assert len(packed(model)) > 24_000


def test_the_operators_are_named() -> None:
    assert operators(COLOUR.read_bytes()) == ["FULLY_CONNECTED", "MEAN"]
