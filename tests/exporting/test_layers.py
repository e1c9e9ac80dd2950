"""A refusal names the layer that was spoilt and the photos whose answers changed most."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.cli.main import main
from catflap.exporting.onnx_edits import worst_layer
from catflap.exporting.quantise import to_fp16
from catflap.image import Pixels, read_pixels


@pytest.fixture(scope="module")
def frames(drawn_dataset: Dataset) -> Pixels:
    photos = drawn_dataset.photos("calibration")
    return np.stack([read_pixels(photos[n], drawn_dataset.frame) for n in range(2)])


def spoilt(graph: bytes, tensor: str, factor: float) -> bytes:
    """A graph with one constant multiplied."""
    model = onnx.load_from_string(graph)
    (constant,) = (one for one in model.graph.initializer if one.name == tensor)
    values = numpy_helper.to_array(constant)
    with np.errstate(over="ignore"):
        constant.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("layer", "factor"),
    [
        ("backbone.blocks.1.0.conv_pw", 1.5),
        ("backbone.blocks.3.0.conv_pwl", -1),
        ("backbone.conv_head", 8),
        ("head", 0),
    ],
)
def test_the_layer_whose_scale_was_spoilt_is_named(
    bundle: Bundle, frames: Pixels, layer: str, factor: float
) -> None:
    fp32, int8 = (bytes(bundle.members[f"{name}.onnx"]) for name in ("fp32", "int8"))
    whole, found = (
        worst_layer(fp32, graph, frames) for graph in (int8, spoilt(int8, f"{layer}.weight_scale", factor))
    )
    assert whole
    assert found
    assert found.name == layer
    assert found.decibels < 20 < whole.decibels
    overflowing = spoilt(to_fp16(fp32), f"{layer}.weight", 3e4 if factor else 0)
    assert worst_layer(fp32, overflowing, frames).name == layer  # type: ignore[union-attr]


def test_no_layer_is_named_when_none_can_be_compared(bundle: Bundle, frames: Pixels) -> None:
    fp32 = bytes(bundle.members["fp32.onnx"])
    assert worst_layer(fp32, fp32, frames) is None
    foreign = onnx.load_from_string(fp32)
    for node in foreign.graph.node:
        node.input[:] = [f"{name}_" if name else "" for name in node.input]
        node.output[:] = [f"{name}_" for name in node.output]
    for part in (*foreign.graph.initializer, *foreign.graph.input, *foreign.graph.output):
        part.name += "_"
    del foreign.graph.value_info[:]
    assert worst_layer(fp32, foreign.SerializeToString(), frames) is None


def test_the_refusal_names_the_layer_and_the_photos(
    bundle: Bundle,
    drawn_checkpoint: Checkpoint,
    drawn_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layer = "backbone.blocks.4.0.conv_pw"
    bad = spoilt(bytes(bundle.members["int8.onnx"]), f"{layer}.weight_scale", -1)
    (tmp_path / "bad.onnx").write_bytes(bad)
    words = ["add", bundle.path, "-o", tmp_path / "new.catflap", "--checkpoint", drawn_checkpoint.path]
    words += ["--file", tmp_path / "bad.onnx", "--precision", "fp32", "--json"]
    assert main(["bundle", *map(str, words)]) == 1
    what = json.loads(capsys.readouterr().out)["error"]["what"]
    assert f"The layer that loses most: {layer}, signal-to-noise ratio " in what
    assert what.count("photo ") == 3
    photos = drawn_dataset.photos("test")
    named = {part.split()[0] for part in what.split("photo ")[1:]}
    assert named <= {photo[:12] for photo in photos.ids.tolist()}
    assert len(named) == 3
