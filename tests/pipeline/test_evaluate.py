"""Evaluate measures a Checkpoint or a Bundle from raw bytes, on a Dataset or any folder; trace names them."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import encode_bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.golden import FILE as GOLDEN
from catflap.artifacts.golden import Golden, encode_golden, read_golden
from catflap.artifacts.manifest import load_manifest
from catflap.artifacts.report import load_report
from catflap.artifacts.schema import digest_file
from catflap.cli.main import main
from catflap.curation.review import apply_review
from catflap.data.prepare import prepare
from catflap.errors import BadArtifact, CatflapError
from catflap.image import Frame, Pixels, read_pixels
from catflap.pipeline.evaluate import evaluate
from catflap.pipeline.trace import trace
from tests.tiny import Exported, draw_photos, make_checkpoint


def test_a_bundle_on_its_dataset_gives_what_export_measured(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    report = evaluate(drawn_bundle.path, drawn_dataset.path, tmp_path / "report")
    assert set(report.variants) == {"int8", "fp32"}
    assert report.learning == {}
    assert "<h2>Training" not in report.page.read_text("utf-8")
    for name, variant in load_bundle(drawn_bundle.path).variants.items():
        assert report.variants[name]["accuracy"] == variant.metrics["accuracy"]
        assert report.variants[name]["confusion_matrix"] == variant.metrics["confusion_matrix"]
    assert load_report(tmp_path / "report").sha256 == report.sha256
    assert report.ancestors["dataset"] == drawn_dataset.sha256


def test_a_checkpoint_finds_its_dataset(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    report = evaluate(drawn_checkpoint.path, None, tmp_path / "report", role="calibration")
    assert report.variants["checkpoint"]["photos"] == drawn_dataset.roles["calibration"]
    (heads,) = {len(path["c"]) for path in report.learning["heads"]}
    tried = [entry for entry in drawn_checkpoint.history if entry["step"] == "head"]
    assert heads * len(report.learning["heads"]) == len(tried)
    assert "<h2>Training" in report.page.read_text("utf-8")


def test_a_report_says_what_the_model_had_to_do_with_the_photos(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    words = {
        "learnt": "that it learnt from,",
        "no": "that it did not learn from,",
        "chosen": "that it was chosen by or learnt from,",
        "calibrated": "that it was calibrated by,",
    }
    of_checkpoint = {"train": "learnt", "validation": "learnt", "calibration": "learnt", "test": "no"}
    of_bundle = {"train": "learnt", "validation": "chosen", "calibration": "calibrated", "test": "no"}
    for model, expected in ((drawn_checkpoint, of_checkpoint), (drawn_bundle, of_bundle)):
        for role, seen in expected.items():
            report = evaluate(model.path, drawn_dataset.path, tmp_path / "report", role=role)
            assert (report.role, report.seen) == (role, seen)
            assert load_report(report.path).to_json()["seen"] == seen
            lead = f"on {drawn_dataset.roles[role]} {role} photos {words[seen]}"
            assert lead in report.page.read_text("utf-8")


def test_the_command_says_on_which_photos(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(drawn_checkpoint.path), "-o", str(tmp_path / "report"), "--role", "train"]
    assert main(line) == 0
    assert f" on {drawn_dataset.roles['train']} train photos that it learnt from\n" in capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["role"], answer["seen"]) == ("train", "learnt")


def test_a_folder_of_new_photos(drawn_bundle: Exported, tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", count=3)
    (photos / "cat" / "bad.jpg").write_bytes(b"no photo")
    report = evaluate(drawn_bundle.path, photos, tmp_path / "report")
    assert set(report.variants) == {"int8", "fp32"}
    assert report.variants["int8"]["photos"] == 6
    assert (report.role, report.seen) == ("", "unknown")
    assert "on 6 photos that it may or may not have learnt from, in" in report.page.read_text("utf-8")
    assert report.variants["int8"]["accuracy"]["value"] == 1.0


@pytest.mark.slow
def test_of_split_folders_one_role_is_judged(drawn_bundle: Exported, tmp_path: Path) -> None:
    """Else the photos that it learnt from would count."""
    drawn, split = draw_photos(tmp_path / "drawn", count=10), tmp_path / "split"

    def move(role: str, numbers: range) -> None:
        for label in ("cat", "other"):
            (split / role / label).mkdir(parents=True)
            for number in numbers:
                (drawn / label / f"{number:02}.jpg").rename(split / role / label / f"{number}.jpg")

    move("train", range(5))
    move("val", range(5, 7))
    with pytest.raises(CatflapError, match=r"no photos of the role test\. Name one that it has: train, val"):
        evaluate(drawn_bundle.path, split, tmp_path / "report")
    move("test", range(7, 10))
    for asked, role, photos in ((None, "test", 6), ("validation", "validation", 4)):
        report = evaluate(drawn_bundle.path, split, tmp_path / "report", role=asked)
        assert (report.role, report.variants["int8"]["photos"]) == (role, photos)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_report(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    """kill -9 after two of three batches of each variant: no batch that was kept is scored again."""
    expected = evaluate(drawn_bundle.path, drawn_dataset.path, tmp_path / "undisturbed", role="train")
    line = [sys.executable, "-m", "tests.pipeline.evaluated"]
    asked = [str(drawn_bundle.path), str(drawn_dataset.path), str(tmp_path / "report")]
    for variant in ("int8", "fp32"):
        killed = subprocess.run([*line, *asked, f"evaluate {variant}", "2"], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "report").exists()
    reported = list[tuple[str, int, int]]()
    report = evaluate(
        drawn_bundle.path, drawn_dataset.path, tmp_path / "report", role="train", part=16,
        progress=lambda *about: reported.append(about),
    )  # fmt: skip
    assert [(step, done) for step, done, _ in reported if step.startswith("evaluate ")] == [
        (f"evaluate {variant}", done) for variant in ("int8", "fp32") for done in (2, 3)
    ]
    assert report.sha256 == expected.sha256
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


@pytest.mark.slow
def test_what_was_kept_of_other_photos_is_left(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    expected = evaluate(drawn_bundle.path, drawn_dataset.path, tmp_path / "undisturbed", role="train")

    def stopped(step: str, done: int, total: int) -> None:
        if (step, done) == ("evaluate int8", 2):
            raise KeyboardInterrupt

    photos, out = draw_photos(tmp_path / "photos", count=40), tmp_path / "report"
    with pytest.raises(KeyboardInterrupt):
        evaluate(drawn_bundle.path, photos, out, part=16, progress=stopped)
    assert list(tmp_path.glob(".report.scored/*/*.npy"))
    report = evaluate(drawn_bundle.path, drawn_dataset.path, out, role="train", part=16)
    assert report.sha256 == expected.sha256


def test_permuted_labels_fail_and_are_named(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, swapped = draw_photos(tmp_path / "photos", count=30), tmp_path / "swapped"
    swapped.mkdir()
    (photos / "cat").rename(swapped / "other")
    (photos / "other").rename(swapped / "cat")
    line = ["evaluate", str(drawn_bundle.path), str(swapped), "-o", str(tmp_path / "report")]
    assert main([*line, "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert not verdict["pass"]
    kinds = {one["kind"]: one for one in verdict["variants"]["int8"]["explanations"]}
    assert kinds["permuted labels"]["permutation"] == {"cat": "other", "other": "cat"}
    assert kinds["permuted labels"]["accuracy"] == 1.0
    page = load_report(tmp_path / "report").page.read_text("utf-8")
    assert "not as the bundle promises" in page
    assert "if cat is other, other is cat" in page


def test_any_folder_gets_a_verdict(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negatives only, no labels at all, labels that the bundle does not know, and a file that is no photo."""
    photos = draw_photos(tmp_path / "photos", count=30)
    (photos / "cat").rename(tmp_path / "flat")
    report = evaluate(drawn_bundle.path, photos, tmp_path / "negatives")
    assert report.passed
    names = [check["name"] for check in report.verdict["variants"]["int8"]["checks"]]
    assert "recall:other" in names
    assert "recall:cat" not in names
    (tmp_path / "flat" / "bad.jpg").write_bytes(b"no photo")
    line = ["evaluate", str(drawn_bundle.path), str(tmp_path / "flat"), "-o", str(tmp_path / "unlabelled")]
    assert main(line) == 0
    reported = capsys.readouterr().out
    assert "No photo has a label that it knows" in reported
    assert "accuracy" not in reported
    report = load_report(tmp_path / "unlabelled")
    assert report.passed
    assert report.variants["int8"]["photos"] == 0
    assert report.verdict["photos"] == {"judged": 30, "labelled": 0, "unlabelled": 30, "unreadable": 1}
    assert "bad.jpg" in report.page.read_text("utf-8")
    (tmp_path / "flat" / "bad.jpg").unlink()
    (photos / "Katze").mkdir()
    for photo in (tmp_path / "flat").iterdir():
        photo.rename(photos / "Katze" / photo.name)
    report = evaluate(drawn_bundle.path, photos, tmp_path / "foreign")
    (foreign,) = report.verdict["variants"]["int8"]["unknown_labels"]
    assert (foreign["label"], foreign["photos"]) == ("Katze", 30)
    assert report.verdict["photos"]["labelled"] == 30


def test_a_bundle_of_an_earlier_version_is_judged_and_what_it_lacks_is_named(
    drawn_bundle: Exported, tmp_path: Path
) -> None:
    opened = load_bundle(drawn_bundle.path)
    head = {name: value for name, value in opened.head.items() if name not in ("files", "catflap_bundle")}
    kept = ("file", "runtime", "precision", "temperature", "tolerance", "metrics", "fidelity", "decision")
    head["variants"] = {
        name: {key: entry[key] for key in kept} for name, entry in opened.head["variants"].items()
    }
    golden = read_golden(opened)
    former = Golden(golden.photos, golden.frames, golden.logits)
    files = {
        name: bytes(data) for name, data in opened.members.items() if name not in ("bundle.json", GOLDEN)
    }
    older = tmp_path / "older.catflap"
    older.write_bytes(encode_bundle(older, head, {**files, GOLDEN: encode_golden(former)}))
    report = evaluate(older, draw_photos(tmp_path / "photos", count=30), tmp_path / "report")
    assert report.passed
    assert report.variants["int8"]["decisions"]["counts"]["right"] == 60
    assert "The bundle does not state how often it decides: not compared." in report.page.read_text("utf-8")


def test_equal_probabilities_are_judged_like_others(
    drawn_bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "catflap.pipeline.evaluate.open_variant",
        lambda *_: lambda frames: np.zeros((len(frames), 2), np.float32),
    )
    report = evaluate(drawn_bundle.path, draw_photos(tmp_path / "photos", count=30), tmp_path / "report")
    assert not report.passed
    metrics = report.variants["int8"]
    assert metrics["roc_auc"]["value"] == 0.5
    assert metrics["log_loss"]["value"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["decisions"]["counts"]["right"] <= 30
    assert "not as the bundle promises" in report.page.read_text("utf-8")


def test_photos_are_decoded_once_a_variant(
    drawn_bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices and drift use what scoring saw."""
    decoded: list[int] = []

    def counted(data: bytes, frame: Frame) -> Pixels:
        decoded.append(len(data))
        return read_pixels(data, frame)

    for module in ("runtime.scoring", "evaluation.slices"):
        monkeypatch.setattr(f"catflap.{module}.read_pixels", counted)
    photos = draw_photos(tmp_path / "photos", count=30)
    report = evaluate(drawn_bundle.path, photos, tmp_path / "report")
    assert len(decoded) == 60 * len(report.variants)
    assert report.conditions["slices"]["rows"]


def test_what_cannot_be_evaluated_is_one_error(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CatflapError, match="does not hold photos"):
        evaluate(drawn_bundle.path, None, tmp_path / "report")
    photos = draw_photos(tmp_path / "photos", ("cat", "third"), 2)
    with pytest.raises(CatflapError, match="states no roles"):
        evaluate(drawn_bundle.path, photos, tmp_path / "report", role="test")
    draw_photos(tmp_path / "new", ("third",), 4)
    (tmp_path / "new" / "fourth").mkdir()
    (tmp_path / "new" / "third" / "00.jpg").rename(tmp_path / "new" / "fourth" / "00.jpg")
    with pytest.raises(CatflapError, match="'fourth', 'third'"):
        evaluate(drawn_checkpoint.path, tmp_path / "new", tmp_path / "report")
    bad = tmp_path / "bad"
    for label in ("cat", "other"):
        (bad / label).mkdir(parents=True)
        (bad / label / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(CatflapError):
        evaluate(drawn_bundle.path, bad, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_photos_that_a_checkpoint_learnt_from_do_not_judge_it(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    manifest = load_manifest(drawn_dataset.path.with_name("manifest"))
    larger = prepare(manifest, tmp_path / "larger", frame=Frame(80, 80))
    report = evaluate(drawn_checkpoint.path, larger.path, tmp_path / "report")
    assert report.seen == "no"
    assert report.variants, "of the same roles"
    others = prepare(manifest, tmp_path / "others", frame=drawn_dataset.frame, seed=9)
    with pytest.raises(CatflapError, match=r"was trained on \d+ of these photos"):
        evaluate(drawn_checkpoint.path, others.path, tmp_path / "other")
    with pytest.raises(CatflapError, match=r"was trained on \d+ of these photos: /.*/cat/\d\d\.jpg, .* …"):
        evaluate(drawn_checkpoint.path, drawn_dataset.path.with_name("photos"), tmp_path / "other")
    new = draw_photos(tmp_path / "new", count=60)
    for old in (new / "cat", new / "other"):
        for number in range(30):
            (old / f"{number:02}.jpg").unlink()
    report = evaluate(drawn_checkpoint.path, new, tmp_path / "new report")
    assert report.seen == "no"
    assert report.variants, "of photos that are new"
    assert not (tmp_path / "other").exists()


def test_photos_that_a_bundle_learnt_from_do_not_judge_it_beside_its_build(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    bundle = shutil.copy(drawn_bundle.path, tmp_path / "mine.catflap")
    shutil.copytree(drawn_dataset.path, tmp_path / "mine.build" / "dataset")
    photos = drawn_dataset.path.with_name("photos")
    with pytest.raises(
        CatflapError, match=r"tiny was trained on \d+ of these photos: /.*/cat/\d\d\.jpg, .* …"
    ):
        evaluate(bundle, photos, tmp_path / "report")
    assert evaluate(bundle, None, tmp_path / "report").role == "test"
    shutil.rmtree(tmp_path / "mine.build")
    assert evaluate(bundle, photos, tmp_path / "alone").seen == "unknown"


@pytest.mark.slow
def test_a_dataset_that_was_prepared_anew_in_its_place_does_not_judge_it(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    manifest = load_manifest(drawn_dataset.path.with_name("manifest"))
    checkpoint = make_checkpoint(prepare(manifest, tmp_path / "dataset", frame=drawn_dataset.frame))
    prepare(manifest, tmp_path / "dataset", frame=drawn_dataset.frame, seed=9)
    with pytest.raises(CatflapError, match="prepared again"):
        evaluate(checkpoint.path, None, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_place_without_photos_is_named_whatever_role_is(drawn_bundle: Exported, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="does not exist"):
        evaluate(drawn_bundle.path, tmp_path / "nowhere", tmp_path / "report", role="validation")


def test_trace_prints_the_chain(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    bundle = load_bundle(drawn_bundle.path)
    manifest = load_manifest(drawn_dataset.path.with_name("manifest"))
    chain = [("bundle", bundle.sha256), ("checkpoint", drawn_checkpoint.sha256),
             ("dataset", drawn_dataset.sha256), ("manifest", manifest.sha256)]  # fmt: skip
    places = (drawn_bundle.path, drawn_checkpoint.path, drawn_dataset.path, manifest.path)
    for number, place in enumerate(places):
        assert [(entry["kind"], entry["sha256"]) for entry in trace(place)] == chain[number:]
    with pytest.raises(BadArtifact):
        trace(drawn_dataset.path / "shards")


def test_trace_goes_back_behind_a_review(drawn_dataset: Dataset, tmp_path: Path) -> None:
    before = load_manifest(drawn_dataset.path.with_name("manifest"))
    photo, label = (before.rows()[name][0].as_py() for name in ("id", "label"))
    decision = {"id": photo, "was": label, "decision": "drop", "reason": "a test"}
    message = {"catflap": "decisions", "version": 1, "manifest": before.sha256, "decisions": [decision]}
    (tmp_path / "decisions.json").write_text(json.dumps(message))
    after = apply_review(before, tmp_path / "decisions.json", tmp_path / "m").manifest
    dataset = prepare(after, tmp_path / "d", frame=drawn_dataset.frame, profile=False)
    decided = digest_file(tmp_path / "decisions.json")
    chain = [("dataset", dataset.sha256), ("manifest", after.sha256), ("decisions", decided)]
    chain.append(("manifest", before.sha256))
    for number, place in enumerate((dataset.path, after.path)):
        assert [(entry["kind"], entry["sha256"]) for entry in trace(place)] == chain[number:]
    (tmp_path / "m").rename(tmp_path / "elsewhere")
    assert [(entry["kind"], entry["sha256"]) for entry in trace(dataset.path)] == chain[:2]
