"""The graph with the Frame inside makes of any photo what image.py makes of it, to a grey level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.exporting.export import write_and_judge
from catflap.exporting.golden_cases import scene
from catflap.exporting.judging import load_source
from catflap.exporting.target import form_of
from catflap.exporting.targets.to_onnx_frame import TEMPERATURE, framed, with_temperature
from catflap.image import Frame, read_pixels
from tests.runtime.models import model

FRAMES = (
    Frame(96, 96),
    Frame(64, 64, "crop"),
    Frame(96, 56, "crop", "bicubic"),
    Frame(56, 96, "crop"),
    Frame(64, 64, "squash", "bicubic"),
)
SIZES = ((500, 375), (375, 500), (501, 37), (11, 700), (40, 50), (96, 96), (1, 1))


def pixels_model(frame: Frame) -> bytes:
    """Logits are the frame's own pixels."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["logits"], axis=1),
    ]
    count = frame.height * frame.width * 3
    source = {"pixels": (TensorProto.UINT8, ["n", frame.height, frame.width, 3])}
    return model(nodes, source, {"logits": (TensorProto.FLOAT, ["n", count])})


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: f"{frame.fit}-{frame.filter}-{frame.width}")
def test_it_makes_the_pixels_of_the_frame(frame: Frame) -> None:
    session = ort.InferenceSession(framed(pixels_model(frame), frame))
    for number, (width, height) in enumerate(SIZES):
        photo = scene(number, width, height)
        noise = np.random.default_rng(number).integers(0, 256, photo.shape, np.uint8)
        for picture in (photo, noise):
            (got,) = session.run(["logits"], {"photo": picture})
            expected = read_pixels(picture, frame).astype(np.float32)
            assert np.abs(got.reshape(expected.shape) - expected).max() <= 1, (width, height)


def test_its_probabilities_are_calibrated() -> None:
    frame = Frame(8, 8)
    session = ort.InferenceSession(with_temperature(framed(pixels_model(frame), frame), 50.0))
    logits, probabilities = session.run(["logits", "probabilities"], {"photo": scene(0, 30, 20)})
    powers = np.exp((logits - logits.max()) / 50.0)
    np.testing.assert_allclose(probabilities, powers / powers.sum(), rtol=1e-4)


def test_its_temperature_is_that_of_its_own_answers(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    """Its pixels are a level off, so the answers of the float graph have another."""
    source = load_source(replace(drawn_checkpoint, history=[]), drawn_dataset)
    form, frames = form_of("onnx-frame"), np.stack([scene(n, 64, 64) for n in range(3)])
    judged = write_and_judge("onnx-frame", form, source, frames)
    held = onnx.load_from_string(judged.files[form.file]).graph.initializer
    (baked,) = (numpy_helper.to_array(tensor) for tensor in held if tensor.name == TEMPERATURE)
    assert baked == np.float32(judged.entry["temperature"])
    assert baked != np.float32(source.reference_temperature)
