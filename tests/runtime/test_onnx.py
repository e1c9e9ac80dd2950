"""Models that a Bundle must not hold are refused when they are opened, or when they answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from catflap.errors import BadArtifact, CatflapError
from catflap.runtime.engine import embedding_width
from catflap.runtime.engine_onnx import open_model
from tests.runtime import models

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
WEIGHTS = np.array([[-0.2, 0.2], [0, 0], [0.2, -0.2]])


def test_a_model_answers_what_its_graph_says() -> None:
    logits = open_model(models.colour_model(WEIGHTS))(FRAMES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, FRAMES.mean((1, 2)) @ WEIGHTS, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_answers_depend_on_neither_threads_nor_batch(threads: int | None) -> None:
    expected = open_model(models.colour_model(WEIGHTS), 1)(FRAMES)
    model = open_model(models.colour_model(WEIGHTS), threads)
    assert np.array_equal(np.concatenate([model(FRAMES[n : n + 1]) for n in range(5)]), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.colour_model(WEIGHTS, source=models.FLOAT),
        lambda: models.colour_model(WEIGHTS, source=models.INT64),
        models.two_outputs,
        models.integer_output,
        models.sequence_output,
    ],
    ids=["float input", "int64 input", "two outputs", "integer output", "sequence output"],
)
def test_a_foreign_model_is_refused_when_it_is_opened(make: Callable[[], bytes]) -> None:
    with pytest.raises(BadArtifact, match="does not map uint8 frames to float32 logits"):
        open_model(make())


@pytest.mark.parametrize(
    ("make", "frames"),
    [
        (models.pixels_as_output, FRAMES),
        (lambda: models.colour_model(WEIGHTS, side=64), FRAMES),
        (lambda: models.colour_model(WEIGHTS), FRAMES.astype(np.float32)),
    ],
    ids=["answers in the shape of pixels", "wants other frames", "is given floats"],
)
def test_a_model_that_cannot_answer_is_refused(make: Callable[[], bytes], frames: np.ndarray) -> None:
    with pytest.raises(BadArtifact):
        open_model(make())(frames)


@pytest.mark.parametrize("data", [b"", b"no model", bytes(1000)], ids=["empty", "text", "zeros"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(BadArtifact, match="ONNX Runtime refuses the model"):
        open_model(data)


def test_a_cut_model_is_refused_or_cannot_answer() -> None:
    whole = models.colour_model(WEIGHTS)
    for length in range(0, len(whole), 7):
        with pytest.raises(BadArtifact):
            open_model(whole[:length])(FRAMES)


def test_external_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look for it
    plain = models.with_external_data(tmp_path / "secret")
    longer = plain.replace(b"\x0a\x08location", b"\x8a\x00\x88\x00location")
    for data in (plain, longer):
        with pytest.raises(BadArtifact, match="stores tensors in other files"):
            open_model(data)


@pytest.mark.parametrize("threads", [0, -1, 10_000, 1.5, "2"])
def test_impossible_threads_are_refused(threads: int) -> None:
    with pytest.raises(CatflapError, match="threads is"):
        open_model(models.colour_model(WEIGHTS), threads)


@pytest.mark.parametrize("order", [("logits", "embedding"), ("embedding", "logits")])
def test_an_output_is_asked_for_by_its_name(order: tuple[str, str]) -> None:
    model = open_model(models.with_embedding(*order), output="logits")
    logits, embedding = model.with_embedding(FRAMES)
    np.testing.assert_allclose(logits, FRAMES.mean((1, 2)), atol=1e-4)
    assert np.array_equal(model(FRAMES), logits)
    assert np.array_equal(embedding, 2 * logits)


def test_a_model_without_the_output_that_is_named_is_refused() -> None:
    with pytest.raises(BadArtifact, match="has no output 'nope'"):
        open_model(models.colour_model(WEIGHTS), output="nope")


def test_a_model_without_the_input_that_is_named_is_refused() -> None:
    assert open_model(models.colour_model(WEIGHTS), source="pixels")(FRAMES).shape == (5, 2)
    with pytest.raises(BadArtifact, match="has no input 'nope'"):
        open_model(models.colour_model(WEIGHTS), source="nope")


def test_a_model_says_how_wide_its_embedding_is() -> None:
    assert embedding_width(open_model(models.with_embedding("logits", "embedding"), output="logits")) == 3
    assert embedding_width(open_model(models.colour_model(WEIGHTS))) is None
