"""Injected defects are noticed by the golden cases; so are edits of what decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import HEAD, Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.golden import read_golden
from catflap.exporting.defects import (
    ENGINE_DEFECTS,
    FRAME_DEFECTS,
    GRAPH_DEFECTS,
    VISIBLE,
    answer_visibility,
    choose_cases,
    graph_visibility,
)
from catflap.exporting.export import PIXEL_TOLERANCE
from catflap.exporting.golden_cases import drawn_cases, exif_orientation
from catflap.exporting.repack import write_verified
from catflap.image import Frame, read_pixels
from catflap.runtime.decisions import softmax
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.golden_checks import check_bundle, threshold_probes
from tests.artifacts.samples import write_bundle

DECODING = (
    *(f"EXIF orientation {turn} ignored" for turn in range(2, 9)),
    "CMYK inverted", "ICC profile ignored", "alpha dropped", "low byte of 16 bits",
)  # fmt: skip


def test_a_bundle_says_how_visible_each_of_25_defects_is(bundle: Bundle) -> None:
    defects = bundle.head["golden"]["defects"]
    assert set(defects) == {*DECODING, *FRAME_DEFECTS, *ENGINE_DEFECTS}
    assert len(defects) == 25
    assert {name: effect for name, effect in defects.items() if effect < VISIBLE} == {}


@pytest.mark.parametrize("name", ENGINE_DEFECTS)
def test_a_runtime_with_a_defect_fails_the_golden_cases(bundle: Bundle, name: str) -> None:
    golden, model = read_golden(bundle), open_model(bytes(bundle.members["int8.onnx"]))
    frames = np.stack([ENGINE_DEFECTS[name](one) for one in golden.frames])
    moved = np.abs(model(np.ascontiguousarray(frames)) - golden.logits["int8"]).max()
    assert moved > bundle.variant("int8").tolerance


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_a_client_with_a_defect_makes_other_frames(fit: str) -> None:
    frame = Frame(64, 48, fit=fit)
    for name, change in FRAME_DEFECTS.items():
        apart = [
            np.abs(change(case.photo, frame).astype(int) - read_pixels(case.photo, frame)).max()
            for case in drawn_cases(frame)
        ]
        assert max(apart) >= VISIBLE * PIXEL_TOLERANCE, name


def test_weights_that_are_not_the_checkpoints_are_visible(bundle: Bundle) -> None:
    graph, frames = bytes(bundle.members["fp32.onnx"]), read_golden(bundle).frames
    effects = graph_visibility(graph, frames, bundle.variant("fp32").tolerance)
    assert set(effects) == set(GRAPH_DEFECTS)
    assert min(effects.values()) >= VISIBLE


def test_cases_are_drawn_until_a_defect_is_visible() -> None:
    """A model that looks at green alone hardly notices BGR, until a case has a green that differs."""
    frame = Frame(32, 32)

    def red(frames: Any) -> Any:
        level = frames[..., 0].astype(np.float32).mean((1, 2)) / 50
        return np.stack([level, -level], 1)

    few, before = choose_cases(frame, red, PIXEL_TOLERANCE, extra=0)
    more, after = choose_cases(frame, red, PIXEL_TOLERANCE, extra=40)
    assert more[: len(few)] == few
    assert all(after[name] >= effect for name, effect in before.items())


def test_all_eight_turns_are_there(bundle: Bundle) -> None:
    photos = read_golden(bundle).photos
    assert all(any(exif_orientation(turn) in photo for photo in photos) for turn in range(1, 9))


def edited(bundle: Bundle, out: Path, **fields: Any) -> Path:
    """The Bundle with other fields in each variant, hashes and all, as somebody could write it."""
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    head["variants"] = {name: {**entry, **fields} for name, entry in head["variants"].items()}
    files = {name: bytes(data) for name, data in bundle.members.items() if name != HEAD}
    write_bundle(out, head, files)
    return out


def failed(path: Path) -> set[str]:
    return {check.name for check in check_bundle(load_bundle(path)) if not check.passed}


def test_an_edit_of_what_decides_fails_the_golden_cases(bundle: Bundle, tmp_path: Path) -> None:
    """A bundle that decides from 0.8 on; the drawn one always decides, whatever lower threshold it has."""
    decision = {**bundle.variant("int8").decision, "threshold": 0.8}
    del decision["curve"]
    path = edited(bundle, tmp_path / "base.catflap", decision=decision)
    base = load_bundle(path)
    head = {name: value for name, value in base.head.items() if name != "files"}
    files = {name: bytes(data) for name, data in base.members.items() if name not in (HEAD, "golden.npz")}
    write_verified(path, head, files, replace(read_golden(bundle), probes={}, probabilities={}, decisions={}))
    base, both = load_bundle(path), {"decisions:int8", "decisions:fp32"}
    assert failed(path) == set()
    for threshold in (0.0, 0.5, 0.78, 0.82, 1.0):
        changed = {**decision, "threshold": threshold}
        assert failed(edited(base, tmp_path / "a.catflap", decision=changed)) == both, threshold
    warmer = 1.1 * base.variant("int8").temperature
    assert failed(edited(base, tmp_path / "b.catflap", temperature=warmer)) == both
    only = {name: value for name, value in decision.items() if name != "rule"}
    assert failed(edited(base, tmp_path / "c.catflap", decision={**only, "threshold": 0.01})) == both


@pytest.mark.parametrize(
    ("labels", "threshold", "sides"),
    [(2, 0.9, [True, False]), (2, 0.50025, [True, False]), (5, 0.201, [True, False]), (2, 0.5, [True, True])],
)
def test_probes_stand_on_both_sides_of_any_threshold_that_has_two(
    labels: int, threshold: float, sides: list[bool]
) -> None:
    rows = threshold_probes(labels, 0.7, {"threshold": threshold, "error_rate": 0.02, "rule": "top"})
    tops = softmax(rows, 0.7).max(axis=1)
    assert (tops >= threshold).tolist() == sides
    assert (np.abs(tops - threshold) > 1e-5).all(), "float32 tells them apart"


def test_a_bundle_without_recorded_decisions_is_still_checked(bundle: Bundle, tmp_path: Path) -> None:
    from catflap.artifacts.golden import encode_golden

    golden = replace(read_golden(bundle), probes={}, probabilities={}, decisions={})
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    files = {name: bytes(data) for name, data in bundle.members.items() if name != HEAD}
    write_bundle(tmp_path / "old.catflap", head, {**files, "golden.npz": encode_golden(golden)})
    checks = check_bundle(load_bundle(tmp_path / "old.catflap"))
    assert all(check.passed for check in checks)
    assert {check.name for check in checks} == {"pixels", "golden:int8", "golden:fp32"}


def test_answers_that_are_computed_wrongly_are_visible(bundle: Bundle, drawn_checkpoint: Checkpoint) -> None:
    """Softmax twice and permuted labels move a recorded probability; so does a temperature that is not 1."""
    logits = read_golden(bundle).logits["fp32"]
    effects = answer_visibility(logits, 0.5, 1e-4)
    assert set(effects) == {"softmax twice", "temperature dropped", "labels permuted"}
    assert min(effects.values()) >= VISIBLE
