"""LiteRT files written from ONNX graphs: the answers of the graph, and what is done where that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'")

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.exporting import export as exporting
from catflap.exporting.export import export
from catflap.exporting.judging import ExportSource, load_source
from catflap.exporting.onnx_edits import with_embedding, with_side_outputs
from catflap.exporting.target import convert
from catflap.exporting.targets.to_onnx import int8_graph
from catflap.exporting.tflite_writer import UnknownOperator, write_tflite
from catflap.runtime.engine_litert import open_model
from catflap.runtime.engine_onnx import open_model as open_onnx


@pytest.fixture(scope="module")
def source(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> ExportSource:
    return load_source(drawn_checkpoint, drawn_dataset)


def test_the_float_file_answers_as_its_graph(source: ExportSource) -> None:
    (written,) = convert("litert-fp32", source).values()
    expected = open_onnx(source.onnx)(source.frames)
    np.testing.assert_allclose(open_model(written, 1)(source.frames), expected, atol=1e-4)


def test_the_int8_file_answers_as_the_int8_graph(source: ExportSource) -> None:
    """Both hold the same integers; runtimes round a tie either way."""
    graph = int8_graph(source)
    expected = open_onnx(graph)(source.frames)
    found = open_model(write_tflite(graph), 1)(source.frames)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    assert np.abs(found - open_onnx(source.onnx)(source.frames)).max() > 0  # it is not the float graph
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_activation_maps_are_the_last_output_and_logits_keep_every_bit(
    source: ExportSource, precision: str, embedding: bool
) -> None:
    plain = with_embedding(source.onnx) if precision == "fp32" else without_cam(int8_graph(source))
    graph = with_side_outputs(plain)
    before, after = (write_tflite(one, embedding=embedding) for one in (plain, graph))
    assert 0 < len(after) - len(before) < 1500, "the head's weights are stored once"
    old, new = open_model(before, 1), open_model(after, 1)
    assert (old.has_cam, new.has_cam, new.has_embedding) == (False, True, embedding)
    expected = old(source.frames)
    logits, maps = new.with_cam(source.frames)
    for found in (new(source.frames), logits):
        assert np.array_equal(found, expected)
    if embedding:
        for ours, theirs in zip(
            new.with_embedding(source.frames), old.with_embedding(source.frames), strict=True
        ):
            assert np.array_equal(ours, theirs)
    theirs = open_onnx(graph).with_cam(source.frames)[1]
    assert maps.shape == theirs.shape
    assert np.abs(maps - theirs).max() <= 0.1 * np.abs(theirs).max()  # int8 rounds a tie either way
    near = 1e-4 if precision == "fp32" else 0.01  # LiteRT takes the mean of int8
    assert np.abs(maps.mean(axis=(2, 3)) - logits).max() <= near * np.abs(logits).max()


def without_cam(graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    nodes = [node for node in model.graph.node if not node.output[0].startswith("cam")]
    outputs = [one for one in model.graph.output if one.name != "cam"]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(outputs)
    return bytes(model.SerializeToString())


def test_the_embedding_is_an_output(source: ExportSource) -> None:
    graph = with_side_outputs(int8_graph(source))
    assert [one.name for one in onnx.load_from_string(graph).graph.output] == ["logits", "embedding", "cam"]
    expected = open_onnx(graph).with_embedding(source.frames)
    found = open_model(write_tflite(graph, embedding=True), 1).with_embedding(source.frames)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()


def test_the_int8_file_has_int8_weights(source: ExportSource) -> None:
    whole = write_tflite(source.onnx)
    assert len(write_tflite(int8_graph(source))) < 0.5 * len(whole)


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 1, 1), (2, 0, 0, 1)])
@pytest.mark.parametrize("groups", [1, 4])
def test_any_padding_of_a_convolution_is_kept(pads: tuple[int, ...], groups: int) -> None:
    """With stride 2 LiteRT's own SAME pads after the picture, other pads need an operator of their own."""
    random = np.random.default_rng(3)
    stem = random.normal(size=(4, 3, 1, 1)).astype(np.float32)
    kernel = random.normal(size=(4, 4 // groups, 3, 3)).astype(np.float32)
    head = random.normal(size=(2, 4)).astype(np.float32)
    constants = {"stem": stem, "kernel": kernel, "head": head, "zero": np.zeros(2, np.float32)}
    constants["axes"], constants["flat"] = np.array([2, 3]), np.array([-1, 4])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "stem"], ["four"]),
        helper.make_node("Conv", ["four", "kernel"], ["conv"], strides=[2, 2], pads=pads, group=groups),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("ReduceMean", ["relu", "axes"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "flat"], ["rows"]),
        helper.make_node("Gemm", ["rows", "head", "zero"], ["logits"], transB=1),
    ]
    graph = built(nodes, constants)
    frames = random.integers(0, 256, (2, 9, 12, 3), np.uint8)
    expected = open_onnx(graph)(frames)
    np.testing.assert_allclose(open_model(write_tflite(graph), 1)(frames), expected, rtol=1e-4, atol=1e-2)


def test_an_operator_that_is_not_known_is_named() -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=1),
        helper.make_node("Erf", ["cast"], ["logits"]),
    ]
    with pytest.raises(UnknownOperator, match="Erf"):
        write_tflite(built(nodes, {}))


@pytest.mark.slow
def test_a_default_export_has_the_variant_for_phones_unless_it_cannot(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "WRITTEN_FOR_MOBILE", drawn_checkpoint.backbone)
    answer = export(drawn_checkpoint, drawn_dataset, tmp_path / "with.catflap")
    assert set(load_bundle(tmp_path / "with.catflap").variants) == {"int8", "fp32", "litert-int8"}
    assert "targets/litert/int8.tflite" in load_bundle(tmp_path / "with.catflap").head["run"]["android"]
    assert "left_out" not in answer

    def refuse(graph: bytes, **_: bool) -> bytes:
        raise UnknownOperator("The graph has a Zap.", "Leave it out.")

    monkeypatch.setattr("catflap.exporting.targets.to_litert.write_tflite", refuse)
    answer = export(drawn_checkpoint, drawn_dataset, tmp_path / "without.catflap")
    assert set(load_bundle(tmp_path / "without.catflap").variants) == {"int8", "fp32"}
    assert answer["left_out"] == {"litert-int8": "The graph has a Zap. Leave it out."}
    with pytest.raises(UnknownOperator):
        export(drawn_checkpoint, drawn_dataset, tmp_path / "asked.catflap", variants=("int8", "litert-int8"))


def built(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> bytes:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 9, 12, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
