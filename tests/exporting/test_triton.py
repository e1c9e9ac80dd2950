"""A Triton model repository that says of each graph what the graph itself says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.golden import read_golden
from catflap.cli.main import main
from catflap.exporting.targets.to_onnx_frame import framed
from catflap.exporting.targets.to_triton import config
from catflap.runtime.engine_onnx import open_model
from tests.artifacts.samples import write_bundle
from tests.runtime.models import model, reworked
from tests.tiny import Exported

KINDS = {onnx.TensorProto.UINT8: 2, onnx.TensorProto.FLOAT: 11}  # to Triton's DataType


def parsed(text: str) -> Any:
    """The text as Triton's own message; a field that it does not know is an error."""
    messages = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="pip install 'tritonclient[grpc]'"
    )
    from google.protobuf import text_format

    return text_format.Parse(text, messages.ModelConfig())


@pytest.fixture(scope="module")
def repository(drawn_bundle: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    assert main(["bundle", "unpack", str(drawn_bundle.path), "--triton", "-o", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_the_config_is_that_of_the_graph(repository: Path, drawn_bundle: Exported, variant: str) -> None:
    model = repository / f"tiny-{variant}"
    reported = parsed((model / "config.pbtxt").read_text())
    assert (reported.name, reported.backend) == (model.name, "onnxruntime")
    assert reported.max_batch_size == 64
    assert reported.HasField("dynamic_batching")
    graph = onnx.load(model / "1" / "model.onnx").graph
    for ends, values in ((reported.input, graph.input), (reported.output, graph.output)):
        assert [end.name for end in ends] == [value.name for value in values]
        for end, value in zip(ends, values, strict=True):
            tensor = value.type.tensor_type
            assert end.data_type == KINDS[tensor.elem_type]
            sizes = [size.dim_value or -1 for size in tensor.shape.dim]  # -1: any size
            assert list(end.dims) == sizes[1:]
            assert sizes[0] == -1  # any number of frames
    about = load_bundle(drawn_bundle.path).variant(variant)
    assert float(reported.parameters["catflap_temperature"].string_value) == about.temperature
    assert float(reported.parameters["catflap_threshold"].string_value) == about.decision["threshold"]


def test_the_models_answer_as_the_bundle(repository: Path, drawn_bundle: Exported) -> None:
    bundle = load_bundle(drawn_bundle.path)
    golden = read_golden(bundle)
    for name, variant in bundle.variants.items():
        answers = open_model((repository / f"tiny-{name}" / "1" / "model.onnx").read_bytes())(golden.frames)
        assert np.abs(answers - golden.logits[name]).max() <= variant.tolerance
        assert (repository / f"tiny-{name}" / "labels.txt").read_text().splitlines() == list(bundle.labels)
        assert json.loads((repository / f"tiny-{name}" / HEAD).read_text())["frame"] == bundle.frame.to_json()


def test_tensorrt_is_one_uncommented_block_away(repository: Path) -> None:
    text = (repository / "tiny-fp32" / "config.pbtxt").read_text()
    assert not parsed(text).HasField("optimization")
    head, _, block = text.partition("# optimization")
    reported = parsed(head + ("# optimization" + block).replace("\n#", "\n").removeprefix("#"))
    (accelerator,) = reported.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert "tensorrt" not in (repository / "tiny-int8" / "config.pbtxt").read_text()


def test_a_graph_that_takes_whole_photos_is_not_batched(drawn_bundle: Exported) -> None:
    bundle = load_bundle(drawn_bundle.path)
    graph = framed(bytes(bundle.members["fp32.onnx"]), bundle.frame)
    variant = replace(bundle.variant("fp32"), file="frame.onnx", runtime="onnxruntime-frame")
    reported = parsed(config(replace(bundle, members={"frame.onnx": memoryview(graph)}), variant))
    assert reported.max_batch_size == 0
    assert not reported.HasField("dynamic_batching")
    assert [list(end.dims) for end in reported.input] == [[-1, -1, 3]]
    assert {end.name: list(end.dims) for end in reported.output} == {
        "logits": [1, 2],
        "probabilities": [1, 2],
        "embedding": [1, 128],
    }


def test_other_models_of_the_repository_stay(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "models" / "mine"
    foreign = tmp_path / "models" / "tiny-fp32"
    for folder in (mine, foreign):
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text("mine")
    words = ["bundle", "unpack", str(drawn_bundle.path), "--triton", "-o", str(tmp_path / "models"), "--json"]
    assert main(words) == 2
    assert "tiny-fp32 exists" in json.loads(capsys.readouterr().out)["error"]["what"]
    assert (foreign / "config.pbtxt").read_text() == "mine"
    (foreign / "config.pbtxt").unlink()
    for _ in range(2):  # a newer version takes the place of our own
        assert main(words) == 0
    reported = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert reported["models"] == ["tiny-fp32", "tiny-int8"]
    assert all((tmp_path / "models" / file).is_file() for file in reported["files"])
    assert (mine / "config.pbtxt").read_text() == "mine"


HOSTILE = 'x" data_type: TYPE_UINT8 dims: [1] } ] model_operations { op_library_filename: "/tmp/x.so" } #'


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        (HOSTILE, onnx.TensorProto.FLOAT, ["n", 32, 32, 3]),
        ("pixels", onnx.TensorProto.FLOAT16, ["n", 32, 32, 3]),
        ("pixels", onnx.TensorProto.FLOAT, None),
    ],
    ids=["name", "type", "shape"],
)
def test_a_graph_with_odd_ends_gets_a_sentence(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: int,
    shape: list[str | int] | None,
) -> None:
    nodes = [
        helper.make_node("Cast", [name], ["cast"], to=kind),
        helper.make_node("Squeeze", ["cast"], ["logits"]),  # of which nobody can tell the shape beforehand
    ]
    source = {name: (onnx.TensorProto.UINT8, ["n", 32, 32, 3])}
    graph = model(nodes, source, {"logits": (kind, shape)})
    bundle = load_bundle(reworked(tiny_bundle, tmp_path / "other.catflap", graph))
    head = {field: value for field, value in bundle.head.items() if field != "files"}
    head["input"] = {**head["input"], "name": name}  # a bundle.json that agrees with its graph
    path = tmp_path / "x.catflap"
    write_bundle(path, head, {file: bytes(data) for file, data in bundle.members.items() if file != HEAD})
    assert main(["bundle", "unpack", str(path), "--triton", "-o", str(tmp_path / "m"), "--json"]) == 2
    what = json.loads(capsys.readouterr().out)["error"]["what"]
    assert "no plain name" in what or "does not map uint8 frames" in what
    assert not list(tmp_path.glob("m/*"))


def test_a_bundle_without_a_graph_for_it_gets_a_sentence(drawn_bundle: Exported, tmp_path: Path) -> None:
    bundle = load_bundle(drawn_bundle.path)
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    head["variants"] = {"fp32": {**head["variants"]["fp32"], "runtime": "abacus"}}
    files = {name: bytes(data) for name, data in bundle.members.items() if name != HEAD}
    write_bundle(tmp_path / "x.catflap", {**head, "default_variant": "fp32"}, files)
    assert main(["bundle", "unpack", str(tmp_path / "x.catflap"), "--triton", "-o", str(tmp_path / "m")]) == 2
    assert not (tmp_path / "m").exists()
