"""An int8 graph in fewer bytes gives the very same answers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.dataset import Dataset
from catflap.exporting import quantise as room
from catflap.exporting.onnx_edits import compact
from catflap.exporting.quantise import FLOAT_LAYERS
from catflap.image import Pixels, read_pixels
from catflap.runtime.engine_onnx import open_model
from tests.tiny import Exported


@pytest.fixture(scope="module")
def frames(drawn_dataset: Dataset) -> Pixels:
    photos = drawn_dataset.photos("calibration")
    return np.stack([read_pixels(photos[n], drawn_dataset.frame) for n in range(4)])


@pytest.fixture(scope="module")
def whole(drawn_graph: bytes, frames: Pixels) -> bytes:
    """The int8 graph as the quantiser writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "compact", lambda graph: graph)
        return room.quantise(drawn_graph, frames)


@pytest.mark.parametrize("optimise", [True, False])
def test_no_answer_changes(whole: bytes, frames: Pixels, optimise: bool) -> None:
    smaller = compact(whole)
    assert len(smaller) < 0.96 * len(whole)
    assert (
        open_model(smaller, optimise=optimise)(frames) == open_model(whole, optimise=optimise)(frames)
    ).all()
    assert compact(smaller) == smaller


def test_what_is_left_out_is_what_can_be_worked_out(drawn_bundle: Exported) -> None:
    graph = onnx.load_from_string(bytes(load_bundle(drawn_bundle.path).members["int8.onnx"])).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.output[0] for node in graph.node if node.op_type == "Mul" and node.input[0] in held}
    made = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"][FLOAT_LAYERS:]
    assert all(made[node.input[2]].input[1] in products for node in convolutions)
    assert all(len(made[node.input[1]].input) == 2 for node in convolutions)
    assert not graph.value_info
