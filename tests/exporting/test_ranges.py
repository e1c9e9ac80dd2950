"""Ranges of activations are what sorting every magnitude would give, however many cores look."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from catflap.artifacts.bundle import Bundle
from catflap.errors import CatflapError
from catflap.exporting import quantise as room
from catflap.exporting.quantise import activation_ranges, quantise
from catflap.image import Pixels
from catflap.training.onnx_graph import INPUT, OUTPUT
from tests.runtime.models import model

SIDE = 8


@pytest.fixture
def frames() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3)).astype(np.uint8)


def graph(scale: float = 0.25) -> bytes:
    """Pixels less a half more than 127, times a scale, and the same cut off below."""
    held = {"half": np.float32(127.5), "scale": np.float32(scale)}
    nodes = [
        helper.make_node("Cast", [INPUT], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["values", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Relu", ["scaled"], [OUTPUT]),
    ]
    shape = ["n", SIDE, SIDE, 3]
    ends = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape)]
    answers = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)]
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in held.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "graph", ends, answers, tensors),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("percentile", [100.0, 99.9, 90.0])
def test_no_range_is_wider_than_the_percentile_of_all_magnitudes(frames: Pixels, percentile: float) -> None:
    scaled = (frames.astype(np.float32) - 127.5) * 0.25
    tensors = {"values": frames.astype(np.float32), "scaled": scaled, OUTPUT: np.maximum(scaled, 0)}
    found = activation_ranges(graph(), frames, percentile)
    for name, tensor in tensors.items():
        magnitudes = np.sort(np.abs(tensor).ravel())
        most = magnitudes[math.ceil(len(magnitudes) * percentile / 100) - 1]
        assert found[name] == (max(tensor.min(), -most), min(tensor.max(), most))
    assert found.keys() == {*tensors, "centred"}


def test_how_many_cores_look_and_in_which_order_changes_nothing(
    frames: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = activation_ranges(graph(), frames, 99.0)
    monkeypatch.setattr(room, "FRAMES_AT_ONCE", 1)
    assert activation_ranges(graph(), frames[::-1], 99.0) == together


def test_a_tensor_that_is_not_finite_is_named(frames: Pixels) -> None:
    with pytest.raises(ValueError, match="scaled is not finite"):
        activation_ranges(graph(float("inf")), frames, 99.9)
    with pytest.raises(CatflapError, match="cannot be quantised: the tensor scaled is not finite"):
        quantise(graph(float("nan")), frames)


def test_what_is_not_a_number_in_a_later_frame_only_is_seen() -> None:
    """A quotient of nothing and nothing, where pixels are black."""
    shape = ["n", SIDE, SIDE, 3]
    nodes = [
        helper.make_node("Cast", [INPUT], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["values", "values"], [OUTPUT]),
    ]
    made = model(nodes, {INPUT: (TensorProto.UINT8, shape)}, {OUTPUT: (TensorProto.FLOAT, shape)})
    bright = np.full((2, SIDE, SIDE, 3), 255, np.uint8)
    assert activation_ranges(made, bright, 100.0)[OUTPUT] == (1, 1)
    for percentile in (100.0, 50.0):
        with pytest.raises(ValueError, match=f"{OUTPUT} is not finite"):
            activation_ranges(made, np.concatenate([bright, np.zeros_like(bright)]), percentile)


def test_pixels_are_not_rounded_in_front_of_the_first_convolutions(bundle: Bundle) -> None:
    """Halves between the 256 steps of pixels would all be rounded to the even one, and a bit be lost."""
    graph = onnx.load_from_string(bytes(bundle.members["int8.onnx"])).graph
    made = {name: node for node in graph.node for name in node.output}
    waiting = [next(node for node in graph.node if node.op_type == "Conv").input[0]]
    above = []
    while waiting:
        node = made.get(waiting.pop())
        if node is not None:
            above.append(node.op_type)
            waiting.extend(node.input)
    assert {"Cast", "Mul"} <= set(above)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(above)


def test_a_full_disk_is_not_told_as_a_fault_of_the_model(
    frames: Pixels, mount_small: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = mount_small("4k")
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    for held in (0, 5000):
        (small / "held").write_bytes(bytes(min(held, 4096)))
        with pytest.raises(CatflapError, match=f"{small} cannot be written: No space left") as reported:
            quantise(graph(), frames)
        assert "TMPDIR" in reported.value.fix
    assert [path.name for path in small.iterdir()] == ["held"]
