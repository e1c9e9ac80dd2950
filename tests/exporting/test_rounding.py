"""Rounded weights lie on the int8 grid, stay there when quantised, and lose less than nearest ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from catflap.artifacts.dataset import Dataset
from catflap.exporting import rounding as room
from catflap.exporting.quantise import FLOAT_LAYERS, quantise
from catflap.exporting.rounding import LARGEST, Convolution, round_weights
from catflap.image import Pixels
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import frames_of
from catflap.training.onnx_graph import INPUT, OUTPUT


@pytest.fixture(scope="module")
def frames(drawn_dataset: Dataset) -> Pixels:
    return np.concatenate(list(frames_of(drawn_dataset.photos("train"), drawn_dataset.frame)))[:24]


@pytest.fixture(scope="module")
def graph(drawn_graph: bytes) -> bytes:
    return drawn_graph


@pytest.fixture(scope="module")
def rounded(graph: bytes, frames: Pixels) -> bytes:
    return round_weights(graph, frames[:8])


def tensors(graph: bytes) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(graph).graph.initializer}


def convolutions(graph: bytes) -> list[str]:
    return [node.input[1] for node in onnx.load_from_string(graph).graph.node if node.op_type == "Conv"]


def nearest(graph: bytes) -> bytes:
    """Every weight of a convolution at the step that is nearest to it."""
    model = onnx.load_from_string(graph)
    names = convolutions(graph)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            weights = numpy_helper.to_array(tensor)
            steps = np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True), 1e-12) / LARGEST
            tensor.CopyFrom(numpy_helper.from_array(np.rint(weights / steps) * steps, tensor.name))
    return bytes(model.SerializeToString())


def test_every_weight_is_a_whole_number_of_steps(graph: bytes, rounded: bytes) -> None:
    before, after = tensors(graph), tensors(rounded)
    for name in convolutions(graph):
        largest = np.abs(before[name]).max(axis=(1, 2, 3), keepdims=True)
        np.testing.assert_array_equal(np.abs(after[name]).max(axis=(1, 2, 3), keepdims=True), largest)
        steps = after[name] / np.maximum(largest, 1e-12) * LARGEST
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    others = before.keys() - set(convolutions(graph))
    assert all((before[name] == after[name]).all() for name in others)


def test_photos_that_it_has_not_seen_change_less_than_with_nearest_steps(
    graph: bytes, rounded: bytes, frames: Pixels
) -> None:
    exact, near, ours = (open_model(one)(frames[8:]) for one in (graph, nearest(graph), rounded))
    assert np.square(ours - exact).sum() < 0.5 * np.square(near - exact).sum()


def test_the_quantiser_keeps_them(rounded: bytes, frames: Pixels) -> None:
    wanted, made = tensors(rounded), tensors(quantise(rounded, frames[:4]))
    kept = []
    for name in convolutions(rounded)[FLOAT_LAYERS:]:
        steps = made[f"{name}_scale"].reshape(-1, 1, 1, 1)
        close = np.abs(made[f"{name}_quantized"] * steps - wanted[name]) < 1e-3 * steps
        kept.append(close.all(axis=(1, 2, 3)).mean())
    assert np.mean(kept) > 0.95, "the others have so large a bias that the quantiser takes larger steps"


def test_the_first_layers_stay_float(rounded: bytes, frames: Pixels) -> None:
    made = tensors(quantise(rounded, frames[:4]))
    names = convolutions(rounded)
    assert [f"{name}_quantized" in made for name in names[: FLOAT_LAYERS + 1]] == [False, False, True]


@pytest.mark.parametrize(
    ("group", "kernel", "strides", "pads"),
    [
        (1, 1, (2, 2), (0, 0, 0, 0)),
        (1, 3, (1, 2), (0, 1, 2, 1)),
        (6, 5, (1, 1), (2, 2, 2, 2)),
        (2, 3, (2, 2), (1, 1, 1, 1)),
    ],
)
def test_patches_are_what_a_convolution_sees(
    group: int, kernel: int, strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> None:
    given, weights = torch.randn(1, 6, 12, 9), torch.randn(12, 6 // group, kernel, kernel)
    seen = Convolution("", "", (kernel, kernel), group, strides, pads).patches(given)
    padded = torch.nn.functional.pad(given, (pads[1], pads[3], pads[0], pads[2]))
    expected = torch.nn.functional.conv2d(padded, weights, stride=strides, groups=group).flatten(2)[0]
    answers = (weights.view(group, 12 // group, -1) @ seen).flatten(0, 1)
    torch.testing.assert_close(answers, expected, atol=1e-4, rtol=1e-4)


def test_of_many_positions_it_takes_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "POSITIONS", 100)
    given = torch.randn(1, 3, 64, 64)
    assert Convolution("", "", (1, 1), 1, (1, 1), (0,) * 4).patches(given).shape == (1, 3, 11 * 11)
    assert Convolution("", "", (3, 3), 3, (1, 1), (1,) * 4).patches(given).shape == (3, 9, 11 * 11)


def test_what_it_cannot_follow_it_leaves_alone() -> None:
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype("f"), "w")
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w"], ["seen"], dilations=[2, 2]),
        helper.make_node("ReduceMean", ["seen"], [OUTPUT], axes=[2, 3], keepdims=0),
    ]
    ends = (
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["n", 2])],
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(helper.make_graph(nodes, "dilated", *ends, [weights]), opset_imports=opset)
    graph = bytes(model.SerializeToString())
    frames = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    assert round_weights(graph, frames) == graph
