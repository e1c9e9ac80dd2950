"""int8 layers give the sums that their whole numbers have, also where fast kernels would cut them off."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.golden import read_golden
from catflap.machine import describe_machine
from catflap.runtime.engine_onnx import _PAIR, _options, int8_sums_saturate, open_model
from tests.runtime import models

FRAMES = np.random.default_rng(0).integers(200, 256, (5, 4, 4, 3), dtype=np.uint8)
WEIGHTS = np.random.default_rng(1).integers(100, 128, (48, 2)).astype(np.int8)


def int8_model() -> bytes:
    """Pixels times WEIGHTS, in QDQ form: all products of one sign, and large."""
    nodes = [
        helper.make_node("Reshape", ["pixels", "rows"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "one", "dark"], ["floats"]),
        helper.make_node("DequantizeLinear", ["weights", "one", "zero"], ["factors"]),
        helper.make_node("MatMul", ["floats", "factors"], ["logits"]),
    ]
    return models.model(
        nodes,
        {"pixels": (TensorProto.UINT8, ["n", 4, 4, 3])},
        {"logits": (TensorProto.FLOAT, ["n", 2])},
        rows=np.array([0, 48]),
        one=np.float32(1),
        dark=np.uint8(0),
        zero=np.int8(0),
        weights=WEIGHTS,
    )


def test_large_sums_are_exact() -> None:
    """Without the option this fails on x86-64 without VNNI, where ONNX Runtime cuts off sums of pairs."""
    expected = FRAMES.reshape(5, 48).astype(np.int64) @ WEIGHTS.astype(np.int64)
    assert np.array_equal(open_model(int8_model(), 1)(FRAMES), expected)
    assert np.array_equal(open_model(int8_model(), 1, optimise=False)(FRAMES), expected)


def test_the_sum_that_is_asked_for_would_be_cut_off() -> None:
    graph = onnx.load_from_string(_PAIR)
    onnx.checker.check_model(graph, full_check=True)
    (node,), (pair,) = graph.graph.node, graph.graph.initializer
    assert (node.op_type, list(node.input)) == ("MatMulInteger", ["a", "b"])
    assert onnx.numpy_helper.to_array(pair).tolist() == [[127], [127]]
    assert np.iinfo(np.int16).max < 2 * 255 * 127


def test_only_processors_that_cut_off_pay_for_exact_sums() -> None:
    about = describe_machine()
    if about.architecture not in ("aarch64", "arm64") and "vnni" not in about.instructions:
        pytest.skip("this processor may need exact sums")
    assert not int8_sums_saturate()


@pytest.mark.parametrize("exact", [False, True])
def test_a_session_takes_the_option_and_gives_the_same_answers(exact: bool) -> None:
    options, bundle = _options(1, exact=exact), load_bundle("cat")
    if exact:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    golden, file = read_golden(bundle), bundle.variant("int8").file
    session = ort.InferenceSession(bytes(bundle.members[file]), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": golden.frames})
    if int8_sums_saturate() and not exact:
        pytest.skip("the processor cuts off sums without the option")
    assert np.array_equal(logits, open_model(bundle.members[file], 1)(golden.frames))
