"""What is in a Bundle is what was measured, and nothing that differs from the Checkpoint gets in one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import ROLES, Dataset, load_dataset
from catflap.artifacts.golden import read_golden
from catflap.cli.main import main
from catflap.errors import CatflapError, Refused
from catflap.evaluation.calibration import fit_temperature
from catflap.evaluation.conformal import ERROR_RATES, choose_error_rate
from catflap.evaluation.metrics import measure
from catflap.exporting.export import export
from catflap.exporting.golden_cases import drawn_photos
from catflap.exporting.judging import Workspace, _error_share, judge, load_source
from catflap.exporting.quantise import quantise
from catflap.exporting.repack import name_of
from catflap.exporting.target import form_of
from catflap.image import read_pixels
from catflap.runtime.decisions import decide, decision_rule, softmax
from catflap.runtime.engine_onnx import open_model
from catflap.training.network import open_checkpoint
from catflap.verification.verify import verify
from tests.tiny import Exported


def frames_of_role(dataset: Dataset, role: str) -> np.ndarray:
    photos = dataset.photos(role)
    return np.stack([read_pixels(photos[n], dataset.frame) for n in range(len(photos))])


def numbers(value: Any, place: str = "") -> dict[str, float]:
    """Every number in a JSON value by its place."""
    if isinstance(value, dict):
        items = [(f"{place}.{name}", item) for name, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{place}.{n}", item) for n, item in enumerate(value)]
    else:
        return {place: value} if isinstance(value, int | float) else {}
    return {key: number for name, item in items for key, number in numbers(item, name).items()}


@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_metrics_are_those_of_the_variant_from_raw_bytes(
    bundle: Bundle, drawn_dataset: Dataset, variant: str
) -> None:
    about = bundle.variant(variant)
    photos = drawn_dataset.photos("test")
    logits = open_model(bundle.members[about.file])(frames_of_role(drawn_dataset, "test"))
    again = measure(softmax(logits, about.temperature), photos.labels, photos.groups, bundle.labels)
    assert numbers(about.metrics) == pytest.approx(numbers(again), abs=1e-6)
    assert about.metrics["photos"] == len(photos) == drawn_dataset.roles["test"]


@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_flips_are_counted_against_the_checkpoint(
    bundle: Bundle, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, variant: str
) -> None:
    about, frames = bundle.variant(variant), frames_of_role(drawn_dataset, "test")
    reference, logits = (
        open_checkpoint(drawn_checkpoint)(frames),
        open_model(bundle.members[about.file])(frames),
    )
    before, after = softmax(reference, about.temperature), softmax(logits, about.temperature)
    assert about.fidelity["flips"] == (before.argmax(1) != after.argmax(1)).sum()
    assert about.fidelity["max_probability_difference"] == pytest.approx(
        np.abs(before - after).max(), abs=1e-6
    )


@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_the_promise_of_the_decision_holds_on_calibration(
    bundle: Bundle, drawn_dataset: Dataset, variant: str
) -> None:
    about, photos = bundle.variant(variant), drawn_dataset.photos("calibration")
    logits = open_model(bundle.members[about.file])(frames_of_role(drawn_dataset, "calibration"))
    decisions = decide(softmax(logits, about.temperature), bundle.labels, decision_rule(about.decision))
    wrong = [
        d not in ("unsure", bundle.labels[label]) for d, label in zip(decisions, photos.labels, strict=True)
    ]
    assert np.mean(wrong) <= about.decision["error_rate"]
    assert about.decision["photos"] == len(photos)


def test_the_bundle_has_a_curve_of_error_rates_and_takes_the_smallest_that_is_seldom_unsure(
    bundle: Bundle,
) -> None:
    for variant in bundle.variants.values():
        decision = variant.decision
        rates = [point["error_rate"] for point in decision["curve"]]
        assert rates == [rate for rate in ERROR_RATES if rate >= 1 / (decision["groups"] + 1)]
        assert decision["error_rate"] == choose_error_rate(decision["curve"])
        assert decision_rule(decision).top


@pytest.mark.slow
def test_an_error_rate_can_be_stated(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stated.catflap"
    words = ["export", str(drawn_checkpoint.path), "-o", str(out), "--variants", "fp32"]
    assert main([*words, "--error-rate", "0.234"]) == 0
    assert "23 %" in capsys.readouterr().out
    opened = load_bundle(out)
    assert opened.variant().decision["error_rate"] == 0.234
    assert 0.234 in [point["error_rate"] for point in opened.variant().decision["curve"]]
    assert "at most 23 %" in bytes(opened.members["card.md"]).decode()
    assert main([*words, "--error-rate", "0.0001", "--json"]) == 1
    assert "cannot promise an error rate of 0.0001" in json.loads(capsys.readouterr().out)["error"]["what"]
    assert main([*words, "--error-rate", "3", "--json"]) == 2


def test_fp32_is_the_checkpoint(bundle: Bundle, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> None:
    frames = frames_of_role(drawn_dataset, "test")
    difference = open_checkpoint(drawn_checkpoint)(frames) - open_model(bundle.members["fp32.onnx"])(frames)
    assert np.abs(difference).max() < 1e-4


def test_int8_is_small_and_its_logits_are_float(bundle: Bundle) -> None:
    model = onnx.load_from_string(bytes(bundle.members["int8.onnx"]))
    (last,) = (node for node in model.graph.node if model.graph.output[0].name in node.output)
    assert last.op_type == "Gemm"
    assert len(bundle.members["int8.onnx"]) < 0.5 * len(bundle.members["fp32.onnx"])


@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_golden_answers_hold_where_int8_is_emulated(bundle: Bundle, variant: str) -> None:
    golden, about = read_golden(bundle), bundle.variant(variant)
    emulated = open_model(bundle.members[about.file], optimise=False)(golden.frames)
    assert np.abs(emulated - golden.logits[variant]).max() <= about.tolerance


def test_golden_photos_are_drawn_and_nothing_of_the_users(bundle: Bundle, drawn_dataset: Dataset) -> None:
    golden = read_golden(bundle)
    assert golden.photos == drawn_photos(bundle.frame)
    whole = bundle.path.read_bytes()
    for role in ROLES:
        photos = drawn_dataset.photos(role)
        for number, frame in enumerate(frames_of_role(drawn_dataset, role)):
            middle = len(photos[number]) // 2
            assert photos[number][middle : middle + 64] not in whole
            assert np.abs(golden.frames.astype(int) - frame).mean((1, 2, 3)).min() > 5


def test_a_head_stays_as_sure_as_more_photos_have_shown(
    bundle: Bundle, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    """Ten calibration photos without a mistake would leave one in twelve to be wrong."""
    assert drawn_checkpoint.is_calibrated
    assert not replace(drawn_checkpoint, recipe="finetune").is_calibrated
    assert not replace(drawn_checkpoint, history=[]).is_calibrated
    calibration = drawn_dataset.photos("calibration")
    logits = open_checkpoint(drawn_checkpoint)(frames_of_role(drawn_dataset, "calibration"))
    assert fit_temperature(logits, calibration.labels) > 1.5
    assert bundle.variant("fp32").temperature == 1.0


def test_a_burst_of_calibration_photos_makes_no_variant_surer(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    source = load_source(replace(drawn_checkpoint, history=[]), drawn_dataset)
    photos = source.calibration
    burst = replace(source, calibration=replace(photos, groups=photos.labels))
    sure = 20 * np.eye(2, dtype=np.float32)[photos.labels]
    stated = 1 - softmax(sure, burst.temperature(sure)).max(axis=1)
    assert stated.mean() == pytest.approx(1 / (2 + 2)), "a burst of each label"


def test_a_bundle_says_nothing_of_the_machine(bundle: Bundle, repo: Path, drawn_dataset: Dataset) -> None:
    whole = bundle.path.read_bytes()
    for place in (str(repo), "site-packages", str(drawn_dataset.path), 'File "', "stack_trace"):
        assert whole.find(place.encode()) == -1, place


def test_a_bundle_says_how_to_run_it(bundle: Bundle) -> None:
    lines = bundle.head["run"]
    assert set(lines) == {"python", "page", "c", "format"}  # android needs a LiteRT variant
    assert "int8.onnx" in lines["c"]
    card = bytes(bundle.members["card.md"]).decode()
    assert all(line in card for line in lines.values())


def test_the_card_tells_what_was_measured(bundle: Bundle) -> None:
    card = bytes(bundle.members["card.md"]).decode()
    for variant in bundle.variants.values():
        assert f"| {variant.name} | {variant.metrics['accuracy']['value']:.4f} (" in card
    assert "cat, other" in card
    assert bundle.head["ancestors"]["dataset"][:12] in card


def test_a_variant_that_differs_is_refused(
    bundle: Bundle, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    """The ranges of a model that has only seen grey cut off what it sees in colour."""
    source = load_source(drawn_checkpoint, drawn_dataset)
    fp32 = bytes(bundle.members["fp32.onnx"])
    grey = quantise(fp32, np.full((8, 64, 64, 3), 128, np.uint8))

    def judged(name: str, graph: bytes) -> dict[str, Any]:
        model = open_model(graph)
        answers = source.run_on_calibration(model, name)
        return judge(form_of(name).as_variant(name), model, source, answers)

    with pytest.raises(Refused, match="int8 differs too much from the checkpoint"):
        judged("int8", grey)
    assert judged("fp32", fp32)["fidelity"]["flips"] == 0


def test_validation_photos_say_too_how_often_a_checkpoint_errs(drawn_checkpoint: Checkpoint) -> None:
    """Of 50 test photos one set had 5 mistakes, of 51 validation photos 8; three flips are then no fault."""
    mistaken = np.arange(50) < 5
    known, unknown = (
        replace(drawn_checkpoint, metrics={"accuracy": {"value": value}, "photos": 51})
        for value in (43 / 51, None)
    )
    assert _error_share(known, mistaken) == pytest.approx(13 / 101)
    assert 0.5 * _error_share(known, mistaken) > 3 / 50
    assert _error_share(unknown, mistaken) == 0.1


def test_what_a_graph_answered_while_it_was_written_is_not_asked_again(
    bundle: Bundle, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    reported = list[str]()
    source = load_source(drawn_checkpoint, drawn_dataset, lambda step, *_: reported.append(step))
    graph = bytes(bundle.members["int8.onnx"])
    variant, model = form_of("int8").as_variant("int8"), open_model(graph)
    answered = source.calibration_answers(graph)
    assert source.calibration_answers(bytes(bytearray(graph))) is answered
    assert reported.count("calibration") == len(source.calibration) // 16 + 2
    entry = judge(variant, model, source, answered)
    assert entry == judge(variant, model, source, source.run_on_calibration(model, "again"))


@pytest.mark.slow
def test_nothing_is_written_when_a_variant_is_refused(
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    drawn_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ranges of activations are those of grey photos, as above."""
    grey = np.full((8, 64, 64, 3), 128, np.uint8)
    monkeypatch.setattr(
        "catflap.exporting.quantise.quantise", lambda graph, _, percentile: quantise(graph, grey, percentile)
    )
    older = drawn_bundle.path.read_bytes()
    out = tmp_path / "older.catflap"
    out.write_bytes(older)
    with pytest.raises(Refused, match="differs too much from the checkpoint"):
        export(drawn_checkpoint, drawn_dataset, out)
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == older


@pytest.mark.slow
def test_the_same_line_elsewhere_gives_the_same_bytes(drawn_bundle: Exported, tmp_path: Path) -> None:
    home = drawn_bundle.path.parent
    for name in ("dataset", "checkpoint"):
        shutil.copytree(home / name, tmp_path / name)
    dataset, checkpoint = load_dataset(tmp_path / "dataset"), load_checkpoint(tmp_path / "checkpoint")
    export(checkpoint, dataset, tmp_path / "tiny.catflap")
    assert (tmp_path / "tiny.catflap").read_bytes() == drawn_bundle.path.read_bytes()


@pytest.mark.slow
def test_one_variant_with_photos_of_the_users_own(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    photo = drawn_dataset.photos("test")[0]
    answer = export(
        drawn_checkpoint, drawn_dataset, tmp_path / "x.catflap", variants=("fp32",), golden_photos=(photo,)
    )
    assert list(answer["variants"]) == ["fp32"]
    assert read_golden(load_bundle(tmp_path / "x.catflap")).photos[-1] == photo
    assert verify(tmp_path / "x.catflap").passed


def test_a_golden_photo_that_is_none_is_named_before_any_work(
    drawn_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.jpg").write_bytes(b"")
    words = [
        str(drawn_checkpoint.path),
        "-o",
        str(tmp_path / "x.catflap"),
        "--golden",
        str(tmp_path / "b.jpg"),
    ]
    assert main(["export", *words]) == 2
    assert f"{tmp_path / 'b.jpg'}: The photo has no bytes." in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused_at_once(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, drawn_bundle: Exported, tmp_path: Path
) -> None:
    out = tmp_path / "x.catflap"
    with pytest.raises(CatflapError, match="no variant 'int4'"):
        export(drawn_checkpoint, drawn_dataset, out, variants=("int8", "int4"))
    with pytest.raises(CatflapError, match="name ends with"):
        export(drawn_checkpoint, drawn_dataset, tmp_path / "x")
    other = Dataset(**{**vars(drawn_dataset), "sha256": "0" * 64})
    with pytest.raises(CatflapError, match="was not trained on"):
        export(drawn_checkpoint, other, out)
    assert list(tmp_path.iterdir()) == []
    out.write_bytes(b"somebody's photo")
    with pytest.raises(CatflapError, match="is not a bundle"):
        export(drawn_checkpoint, drawn_dataset, out)
    assert out.read_bytes() == b"somebody's photo"


@pytest.mark.parametrize(
    ("count", "size", "what"),
    [
        (968, 0, "There would be 1001 golden cases with the drawn ones, 1000 at most. .*--golden"),
        (300, 1 << 20, "their frames would have 30[0-9.]* MiB, 256 at most. .*--golden"),
    ],
)
def test_golden_photos_that_no_bundle_may_hold_are_refused_before_any_work(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, count: int, size: int, what: str
) -> None:
    photo, reported = drawn_dataset.photos("test")[0] + bytes(size), list[str]()
    with pytest.raises(CatflapError, match=what):
        export(
            drawn_checkpoint,
            drawn_dataset,
            tmp_path / "x.catflap",
            golden_photos=(photo,) * count,
            progress=lambda step, *_: reported.append(step),
        )
    assert reported == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [("cat", "cat"), ("my cat", "my-cat"), ("Kätzchen", "K-tzchen"), ("猫", "bundle"), ("-x.1-", "x.1")],
)
def test_any_file_name_makes_a_name_that_a_bundle_may_have(file: str, name: str) -> None:
    assert name_of(Path(f"{file}.catflap")) == name


def test_a_stopped_export_continues_and_gives_the_same_bytes(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    out, first, second = tmp_path / drawn_bundle.path.name, list[str](), list[str]()

    def stop(step: str, *_: int) -> None:
        first.append(step)
        if step == "fp32 on test":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(drawn_checkpoint, drawn_dataset, out, progress=stop)
    assert "write int8" in first
    assert not out.exists()
    (kept,) = (path for path in tmp_path.glob(".*.export/int8-*.npz") if "graph" not in path.name)
    export(drawn_checkpoint, drawn_dataset, out, progress=lambda step, *_: second.append(step))
    assert "write fp32" in second
    assert "write int8" not in second, "it was finished"
    assert out.read_bytes() == drawn_bundle.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert not kept.exists()


def test_a_damaged_step_of_a_stopped_export_is_done_again(tmp_path: Path) -> None:
    workspace, made = Workspace(tmp_path), list[int]()

    def make() -> dict[str, Any]:
        made.append(1)
        return {"rows": np.arange(3)}

    for _ in range(2):
        assert workspace.arrays("step", make)["rows"].tolist() == [0, 1, 2]
    assert len(made) == 1
    (path,) = tmp_path.glob("*.npz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert workspace.arrays("step", make)["rows"].tolist() == [0, 1, 2]
    assert len(made) == 2
