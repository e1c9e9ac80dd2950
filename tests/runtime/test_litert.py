"""Variants for LiteRT run on its interpreter, in verify, predict and evaluate as any other.

colour.tflite is `pixels.mean((1, 2)) @ weights` of tests/artifacts/samples.py at 1 × 32 × 32 × 3,
written by litert_torch 0.10. colour_micro.tflite is the same in int8 from end to end: `_write_int8` of
exporting/targets/litert.py made it of twelve frames, with a range of ±56 for the answer.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from catflap.cli.main import main
from catflap.errors import BadArtifact
from catflap.exporting.golden_cases import scene
from catflap.image import encode
from catflap.runtime.classifier import Classifier
from catflap.verification.verify import verify
from tests.artifacts.samples import with_litert

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'")
COLOUR = Path(__file__).with_name("colour.tflite")
MICRO = Path(__file__).with_name("colour_micro.tflite")
STEP = 56 / 127.5  # of an answer in int8
WEIGHTS = np.array([[-0.2, 0.2], [0, 0], [0.2, -0.2]], np.float32)


@pytest.fixture
def both(tiny_bundle: Path, tmp_path: Path) -> Path:
    return with_litert(tiny_bundle, tmp_path / "both.catflap", COLOUR.read_bytes())


def test_what_the_library_tells_is_left_out_and_what_others_write_is_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from catflap.runtime.engine_litert import _quiet

    with _quiet():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        os.write(2, b"ERROR: no such kernel\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "ERROR: no such kernel\nafterwards\n"


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_it_answers_as_numpy_does(threads: int | None) -> None:
    from catflap.runtime.engine_litert import open_model

    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    logits = open_model(COLOUR.read_bytes(), threads)(frames)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, frames.mean((1, 2)) @ WEIGHTS, atol=1e-3)


def test_threads_that_share_a_model_get_their_own_answers() -> None:
    from catflap.runtime.engine_litert import open_model

    model = open_model(COLOUR.read_bytes(), 1)
    frames = np.random.default_rng(1).integers(0, 256, (40, 1, 32, 32, 3), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(model, frames))
    np.testing.assert_allclose(np.concatenate(answers), frames[:, 0].mean((1, 2)) @ WEIGHTS, atol=1e-3)


def test_verify_runs_it_and_predict_answers_with_it(
    both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = verify(both)
    assert verdict.passed
    assert "golden:litert-fp32" in [check.name for check in verdict.checks]
    photo = encode(scene(3, 80, 60), "PNG")
    as_onnx, as_litert = Classifier(both, "fp32")(photo), Classifier(both, "litert-fp32")(photo)
    assert as_litert.probability == pytest.approx(as_onnx.probability, abs=1e-4)
    (tmp_path / "photo.png").write_bytes(photo)
    assert (
        main(["predict", str(both), str(tmp_path / "photo.png"), "--variant", "litert-fp32", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["label"] == as_onnx.label


def test_what_is_no_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    from catflap.runtime.engine_litert import open_model

    whole = COLOUR.read_bytes()
    for damaged in (b"", b"no model", whole[: len(whole) // 2], bytes(len(whole))):
        with pytest.raises(BadArtifact, match="LiteRT refuses the model"):
            open_model(damaged)
    verdict = verify(with_litert(tiny_bundle, tmp_path / "bad.catflap", b"no model"))
    assert [check.name for check in verdict.checks if not check.passed] == ["golden:litert-fp32"]


def test_a_damaged_name_in_a_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = COLOUR.read_bytes()
    name = b"serving_default_args_0"
    damaged = whole.replace(name, b"\xff" * len(name))
    assert damaged != whole
    path = with_litert(tiny_bundle, tmp_path / "bad.catflap", damaged)
    checks = {check.name: check for check in verify(path).checks}
    assert not checks["golden:litert-fp32"].passed
    assert "LiteRT refuses the model: 'utf-8' codec" in str(checks["golden:litert-fp32"].value)


def test_frames_of_another_size_are_refused() -> None:
    from catflap.runtime.engine_litert import open_model

    with pytest.raises(BadArtifact, match="takes frames of shape"):
        open_model(COLOUR.read_bytes())(np.zeros((1, 31, 32, 3), np.uint8))


def test_int8_ends_answer_within_a_step() -> None:
    from catflap.runtime.engine_litert import open_micro_model

    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    frames[0], frames[1] = (255, 0, 0), (0, 0, 255)
    logits = open_micro_model(MICRO.read_bytes(), 1)(frames)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, frames.mean((1, 2)) @ WEIGHTS, atol=2 * STEP)
    np.testing.assert_allclose(logits / STEP, np.rint(logits / STEP), atol=1e-3)  # whole steps


def test_a_pixel_becomes_a_level_without_loss() -> None:
    from catflap.runtime.engine_litert import Quantisation, open_interpreter, quantised_pixels

    levels = quantised_pixels(open_interpreter(MICRO.read_bytes(), np.int8).input)
    assert (levels == np.arange(256) - 128).all()
    clipped = quantised_pixels(Quantisation(0.5, -128))  # clipped, never wrapped
    assert clipped[[0, 127, 255]].tolist() == [-128, 126, 127]


def test_a_model_with_other_ends_is_refused() -> None:
    from catflap.runtime.engine_litert import open_micro_model, open_model

    with pytest.raises(BadArtifact, match="does not map int8 frames"):
        open_micro_model(COLOUR.read_bytes())
    with pytest.raises(BadArtifact, match="does not map float32 frames"):
        open_model(MICRO.read_bytes())
    with pytest.raises(BadArtifact, match="takes frames of shape"):
        open_micro_model(MICRO.read_bytes())(np.zeros((1, 31, 32, 3), np.uint8))
