"""ONNX variants also give the features in front of the head, and their logits do not change by a bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.exporting.onnx_edits import with_embedding
from catflap.exporting.quantise import quantise, to_fp16
from catflap.image import Pixels, read_pixels
from catflap.runtime.engine import run_with_embedding
from catflap.runtime.engine_onnx import EMBEDDING, open_model, open_session, run_session
from catflap.training.network import load_network
from catflap.training.onnx_graph import OUTPUT
from tests.runtime import models


@pytest.fixture(scope="module")
def frames(drawn_dataset: Dataset) -> Pixels:
    photos = drawn_dataset.photos("test")
    return np.stack([read_pixels(photos[n], drawn_dataset.frame) for n in range(len(photos))])


@pytest.fixture(scope="module")
def plain(drawn_graph: bytes, frames: Pixels) -> dict[str, bytes]:
    """The graph of each precision as it is without."""
    careful = quantise(drawn_graph, frames, 100.0)
    return {
        "fp32": drawn_graph,
        "int8": quantise(drawn_graph, frames),
        "careful": careful,
        "fp16": to_fp16(drawn_graph),
    }


@pytest.mark.parametrize("precision", ["fp32", "int8", "careful", "fp16"])
@pytest.mark.parametrize("optimise", [True, False])
def test_the_logits_keep_every_bit(
    precision: str, optimise: bool, plain: dict[str, bytes], frames: Pixels
) -> None:
    before, after = plain[precision], with_embedding(plain[precision])
    assert len(after) < 1.001 * len(before) + 100
    logits = open_model(before, optimise=optimise)(frames)
    session = open_session(after, optimise=optimise)
    assert [end.name for end in session.get_outputs()] == [OUTPUT, EMBEDDING]
    for targets in ([OUTPUT], [OUTPUT, EMBEDDING]):
        assert np.array_equal(run_session(session, {"pixels": frames}, targets)[0], logits)
    assert np.array_equal(open_model(after, optimise=optimise)(frames), logits)
    assert with_embedding(after) == after


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.25)])
def test_it_is_the_checkpoints_features(
    precision: str, near: float, plain: dict[str, bytes], drawn_checkpoint: Checkpoint, frames: Pixels
) -> None:
    import torch

    with torch.inference_mode():
        expected = load_network(drawn_checkpoint).features(torch.from_numpy(frames)).numpy()
    _, found = run_with_embedding(open_model(with_embedding(plain[precision])), frames)
    assert found is not None
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    apart = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert apart.max() < near
    others = np.roll(expected, 1, axis=0)
    assert (np.linalg.norm(found - others, axis=1) > np.linalg.norm(found - expected, axis=1)).all()


def test_every_variant_for_onnx_runtime_has_it(bundle: Bundle) -> None:
    for variant in bundle.variants.values():
        graph = onnx.load_from_string(bytes(bundle.members[variant.file])).graph
        assert [end.name for end in graph.output][:2] == [OUTPUT, EMBEDDING]
        onnx.checker.check_model(onnx.load_from_string(bytes(bundle.members[variant.file])))
        assert open_model(bundle.members[variant.file]).has_embedding


def test_a_graph_without_a_linear_head_stays_as_it_is(frames: Pixels) -> None:
    graph = models.pixels_as_output()
    assert with_embedding(graph) == graph


def test_a_model_without_it_has_none(frames: Pixels) -> None:
    model = open_model(models.colour_model(np.ones((3, 2)), side=64))
    assert not model.has_embedding
    logits, found = run_with_embedding(model, frames)
    assert found is None
    assert np.array_equal(logits, model(frames))
    assert run_with_embedding(lambda given: given, frames)[1] is None  # of a runtime that has none
