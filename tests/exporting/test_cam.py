"""Activation maps in the ONNX variants: exact, tiny, and the logits do not change by a bit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from catflap.artifacts.bundle import SHIPPED, load_bundle
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.golden import read_golden
from catflap.cli.main import main
from catflap.exporting import onnx_edits
from catflap.exporting.onnx_edits import with_cam, with_embedding
from catflap.exporting.quantise import quantise, to_fp16
from catflap.image import Frame, Pixels, encode, highlight, read_pixels
from catflap.runtime.activation_maps import activation_map
from catflap.runtime.engine import open_variant
from catflap.runtime.engine_onnx import CAM, EMBEDDING, _options, open_model
from catflap.training.onnx_graph import OUTPUT
from tests.runtime import models
from tests.tiny import Exported, drawn


@pytest.fixture(scope="module")
def frames(drawn_dataset: Dataset) -> Pixels:
    photos = drawn_dataset.photos("test")
    return np.stack([read_pixels(photos[n], drawn_dataset.frame) for n in range(len(photos))])


@pytest.fixture(scope="module")
def graphs(drawn_graph: bytes, frames: Pixels) -> dict[str, bytes]:
    plain = {"fp32": drawn_graph, "int8": quantise(drawn_graph, frames), "fp16": to_fp16(drawn_graph)}
    return {name: with_embedding(one) for name, one in plain.items()}


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("int8", 0.1)])
def test_the_mean_of_a_map_is_the_logit_and_logits_keep_every_bit(
    precision: str, near: float, optimise: bool, graphs: dict[str, bytes], frames: Pixels
) -> None:
    before, after = graphs[precision], with_cam(graphs[precision])
    assert 0 < len(after) - len(before) < 1500
    onnx.checker.check_model(onnx.load_from_string(after))
    plain, model = open_model(before, optimise=optimise), open_model(after, optimise=optimise)
    assert (plain.has_cam, model.has_cam, model.has_embedding) == (False, True, True)
    expected = plain(frames)
    assert np.array_equal(model(frames), expected)
    assert np.array_equal(model.with_embedding(frames)[0], expected)
    logits, maps = model.with_cam(frames)
    assert np.array_equal(logits, expected)
    assert maps.shape[:2] == logits.shape
    assert min(maps.shape[2:]) > 1
    assert np.abs(maps.mean(axis=(2, 3)) - logits).max() <= near * np.abs(logits).max()
    assert with_cam(after) == after


def test_a_processor_whose_int8_sums_saturate_takes_it(graphs: dict[str, bytes], frames: Pixels) -> None:
    """ONNX Runtime rewrites the quantized weights for it, and fails where two nodes share them."""
    after = ort.InferenceSession(with_cam(graphs["int8"]), _options(1, exact=True))
    before = ort.InferenceSession(graphs["int8"], _options(1, exact=True))
    logits, maps = after.run([OUTPUT, CAM], {"pixels": frames})
    assert np.array_equal(logits, before.run([OUTPUT], {"pixels": frames})[0])
    assert maps.shape[:2] == logits.shape


def test_int8_copies_no_weights_of_many_labels(
    monkeypatch: pytest.MonkeyPatch, graphs: dict[str, bytes]
) -> None:
    monkeypatch.setattr(onnx_edits, "MAX_COPIED", 1)
    assert with_cam(graphs["int8"]) == graphs["int8"]
    assert CAM in [output.name for output in onnx.load_from_string(with_cam(graphs["fp32"])).graph.output]


def test_a_head_on_anything_but_a_mean_has_no_map(frames: Pixels, graphs: dict[str, bytes]) -> None:
    assert with_cam(models.pixels_as_output()) == models.pixels_as_output()
    model = onnx.load_from_string(graphs["fp32"])
    pool = next(node for node in model.graph.node if node.op_type in ("ReduceMean", "GlobalAveragePool"))
    pool.op_type = "ReduceMax" if pool.op_type == "ReduceMean" else "GlobalMaxPool"
    changed = bytes(model.SerializeToString())
    assert with_cam(changed) == changed
    assert with_cam(graphs["fp16"]) == graphs["fp16"]


def test_every_onnx_variant_of_a_bundle_has_it(drawn_bundle: Exported) -> None:
    bundle = load_bundle(drawn_bundle.path)
    for variant in bundle.variants.values():
        graph = onnx.load_from_string(bytes(bundle.members[variant.file])).graph
        assert [end.name for end in graph.output] == [OUTPUT, EMBEDDING, CAM]


@pytest.mark.parametrize("name", ["int8", "litert-int8"])
def test_every_variant_of_the_shipped_bundle_has_it(name: str) -> None:
    if name == "litert-int8":
        pytest.importorskip(
            "ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'"
        )
    bundle = load_bundle(SHIPPED / "cat.catflap")
    model, golden = open_variant(bundle, bundle.variant(name)), read_golden(bundle)
    logits, maps = model.with_cam(golden.frames[:2])  # type: ignore[attr-defined]
    assert np.array_equal(logits, model(golden.frames[:2]))
    assert maps.shape == (2, 2, 10, 10)
    assert np.abs(maps.mean(axis=(2, 3)) - logits).max() <= 0.02 * np.abs(logits).max()


def test_evidence_lies_where_the_label_is(drawn_bundle: Exported) -> None:
    bundle = load_bundle(drawn_bundle.path)
    both = drawn("other", 1).copy()
    both[:, :80] = drawn("cat", 1)[:, :80]
    photo = encode(both, "PNG")
    model = open_model(bundle.members["fp32.onnx"])
    for label in ("cat", "other"):
        heat = activation_map(model, photo, bundle.frame, bundle.labels.index(label))
        assert heat is not None
        assert (heat.min(), heat.max()) == (0, 1)
        left, right = np.array_split(heat, 2, axis=1)
        assert (left.mean() > right.mean()) == (label == "cat")
    assert activation_map(lambda given: given, photo, bundle.frame, 0) is None


def test_the_picture_keeps_the_shape_of_the_photo() -> None:
    photo, heat = encode(drawn("cat", 0), "JPEG"), np.zeros((3, 4), np.float32)
    assert highlight(photo, heat, Frame(64, 64)).shape == (120, 160, 3)
    assert highlight(photo, heat, Frame(64, 64), 80).shape == (60, 80, 3)
    large = encode(np.zeros((700, 1400, 3), np.uint8), "PNG")
    assert highlight(large, heat, Frame(64, 64)).shape == (320, 640, 3)
    assert highlight(photo, heat, Frame(64, 64, fit="crop")).shape == (64, 64, 3)
    heat[:, :2] = 1
    shown = highlight(photo, heat, Frame(64, 64)).astype(int)
    assert shown[:, :60].mean() > shown[:, 100:].mean()


def test_predict_writes_a_picture_for_each_photo(
    drawn_bundle: Exported, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = drawn_bundle.path.with_name("photos")
    paths = [str(photos / "cat" / "00.jpg"), str(photos / "other" / "00.jpg")]
    line = ["predict", str(drawn_bundle.path), *paths, "--explain", str(tmp_path / "out"), "--json"]
    assert main(line) == 0
    written = [json.loads(answer)["explanation"] for answer in capsys.readouterr().out.splitlines()]
    assert [Path(name).name for name in written] == ["00001-00.png", "00002-00.png"]
    assert Image.open(io.BytesIO(Path(written[0]).read_bytes())).size == (160, 120)
    assert main(line) == 2  # never over what is there
    assert "is not empty" in capsys.readouterr().out
    assert main(["predict", str(tiny_bundle), *paths, "--explain", str(tmp_path / "other")]) == 2
    assert "cannot show where it looked" in capsys.readouterr().err
