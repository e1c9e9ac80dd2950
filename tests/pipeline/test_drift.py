"""`catflap drift`: a log against the bundle that wrote it; and real photos, blurred and at dusk."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.field_log import FieldLog, LogModel, LogRow, read_field_log
from catflap.errors import BadArtifact
from catflap.evaluation.drift_baseline import WINDOW, Drift, make_baseline, measure_drift
from catflap.exporting.golden_cases import scene
from catflap.image import STATISTICS, encode, image_statistics
from catflap.pipeline.drift import _stated, drift
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import correct_prior, softmax
from catflap.runtime.recording import LogSettings, Recorder
from catflap.runtime.scoring import frames_of
from tests.tiny import Exported

if TYPE_CHECKING:
    from catflap.artifacts.dataset import Dataset

CATFLAP = Path(sys.executable).with_name("catflap")


def write_log(
    path: Path, bundle: Path, answers: Any, prior: dict[str, float] | None = None, **fields: Any
) -> None:
    opened = load_bundle(bundle)
    by = LogModel(
        opened.name, opened.sha256, opened.default_variant, opened.labels, tuple((prior or {}).items())
    )
    log = FieldLog(path, limit=10**8, note=pytest.fail)
    for start in range(0, len(answers), 250):  # so many are written without a wait
        for number, row in enumerate(answers[start : start + 250], start):
            log.add(
                LogRow(
                    1e9 + number, f"{number:064x}", by, row.astype(np.float32), "unsure", "serve", **fields
                )
            )
        while len(log._waiting) == 250:
            time.sleep(0.001)
    log.close()
    assert log.lost == 0


def field(bundle: Path, count: int, shift: float = 0.0, seed: int = 0) -> Any:
    """Answers as sure as the bundle's baseline says, or by `shift` less."""
    baseline = load_bundle(bundle).variant().baseline
    assert baseline
    random = np.random.default_rng(seed)
    labels = load_bundle(bundle).labels
    rows = np.zeros((count, len(labels)))
    for row, place in zip(rows, random.integers(0, len(labels), count), strict=True):
        quantiles = baseline["labels"][labels[place]]["quantiles"]
        sure = max(0.01, np.interp(random.uniform(), np.linspace(0, 1, len(quantiles)), quantiles) - shift)
        row[:] = 1 / (1 + np.exp(sure)) / (len(labels) - 1)
        row[place] = 1 / (1 + np.exp(-sure))
    return rows


def test_export_writes_a_baseline(drawn_bundle: Exported) -> None:
    opened = load_bundle(drawn_bundle.path)
    for variant in opened.variants.values():
        assert variant.baseline
        assert variant.baseline["photos"] == variant.decision["photos"]
        assert set(variant.baseline["labels"]) == set(opened.labels)
        assert sum(entry["share"] for entry in variant.baseline["labels"].values()) == pytest.approx(1)
        for entry in variant.baseline["labels"].values():
            assert set(entry["image_statistics"]) == {"groups", *STATISTICS}
            assert (
                0
                < min(entry["image_statistics"]["brightness"])
                <= max(entry["image_statistics"]["brightness"])
                < 1
            )
            assert set(entry["embedding"]) == {"groups", "mean", "length", "axes", "limit", "ood_score"}
        labels = variant.baseline["labels"].values()
        # The limits are drawn together: that of one label may be beyond all of its photos, not that of each.
        assert max(max(entry["embedding"]["ood_score"]) for entry in labels) >= 1


def test_a_field_like_the_calibration_raises_no_alarm(drawn_bundle: Exported, tmp_path: Path) -> None:
    log = tmp_path / "field.log"
    write_log(log, drawn_bundle.path, field(drawn_bundle.path, 3 * WINDOW + 50))
    report = drift(drawn_bundle.path, log)
    assert not report.alarm
    assert report.photos == 650
    assert report.baseline == "bundle"
    assert len(report.windows) == 3
    assert report.latest
    assert report.latest.last == 1e9 + 649
    assert sum(report.prior.values()) == pytest.approx(1, abs=0.01)


def test_the_prior_of_a_field_without_a_label_can_be_stated(drawn_bundle: Exported, tmp_path: Path) -> None:
    log, rows = tmp_path / "field.log", np.tile([1e-6, 1 - 1e-6], (WINDOW, 1))
    write_log(log, drawn_bundle.path, rows)
    prior = drift(drawn_bundle.path, log).prior
    assert 0 < min(prior.values()) < 0.01
    assert sum(Classifier(drawn_bundle.path, prior=prior).prior.values()) == pytest.approx(1)


def test_a_prior_of_many_labels_is_still_theirs() -> None:
    shares = np.zeros(1000)
    shares[:2] = 0.7, 0.3
    stated = _stated(shares, WINDOW)
    assert stated[:2] == pytest.approx([0.7, 0.3], abs=0.01)
    assert min(stated) > 0
    assert sum(stated) == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
def test_the_command_says_when_it_began(drawn_bundle: Exported, tmp_path: Path) -> None:
    log = tmp_path / "field.log"
    rows = np.concatenate([field(drawn_bundle.path, 400), field(drawn_bundle.path, 200, shift=4.0)])
    write_log(log, drawn_bundle.path, rows)
    command = [CATFLAP, "drift", drawn_bundle.path, log]
    answer = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert answer.returncode == 1, answer.stderr
    fields = json.loads(answer.stdout)
    assert fields["alarm"] is True
    assert [window["alarm"] for window in fields["windows"]] == [False, False, True]
    window = fields["windows"][0]
    assert window["decisions"] == {"unsure": 200}
    assert 0.5 <= window["confidence"][0] <= window["confidence"][1] <= window["confidence"][2] <= 1
    page = tmp_path / "page.html"
    for_people = subprocess.run([*command, "-o", page], capture_output=True, text=True, check=False)
    assert for_people.returncode == 1
    assert "score" in for_people.stdout
    text = page.read_text("utf-8")
    assert "600 photos of the field" in text
    assert str(tmp_path) not in text
    again = subprocess.run([*command, "-o", page], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert page.read_text("utf-8") == text
    (tmp_path / "mine.html").write_text("a page of mine")
    refused = subprocess.run(
        [*command, "-o", tmp_path / "mine.html"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "is not such a page" in refused.stderr
    assert (tmp_path / "mine.html").read_text() == "a page of mine"


def test_a_log_that_goes_from_all_cats_to_none_is_told(drawn_bundle: Exported, tmp_path: Path) -> None:
    rows = field(drawn_bundle.path, 3 * WINDOW)
    cats = np.sort(rows, axis=1)
    cats = cats[:, ::-1] if load_bundle(drawn_bundle.path).labels[0] == "cat" else cats
    changed = np.concatenate([cats, cats[: WINDOW + 20, ::-1]])
    log = tmp_path / "field.log"
    write_log(log, drawn_bundle.path, changed)
    report = drift(drawn_bundle.path, log)
    assert report.alarm
    assert report.latest
    assert report.latest.drift.most == "mix"
    assert report.latest.drift.distance > 0.85  # the oldest 20 of the other photos count as earlier ones
    assert ["mix" in window.drift.scores for window in report.windows] == [False, True, True, True]
    assert not any(window.drift.alarm for window in report.windows[:3])
    assert report.prior["cat"] < 0.05
    interval = report.to_json()["prior_intervals"]["cat"]
    assert interval["low"] <= interval["value"] <= interval["high"] < 0.1


def test_photos_that_became_dark_are_told_though_the_answers_are_the_same(
    drawn_bundle: Exported, tmp_path: Path
) -> None:
    """What predict records of drawings, and of the same with a third of the light."""
    opened = load_bundle(drawn_bundle.path)
    classifier, log = Classifier(drawn_bundle.path, embed=True), tmp_path / "field.log"
    recorder = Recorder(LogSettings(log), pytest.fail)
    for light in (1.0, 0.33):
        for seed in range(WINDOW):
            photo = (scene(seed, 64, 64) * light).astype(np.uint8)
            recorder(classifier, photo, classifier(photo), "predict")
            while len(recorder._log._waiting) > 100:
                time.sleep(0.01)
    recorder.close()
    rows = list(read_field_log(log))
    assert len(rows) == 2 * WINDOW
    assert all(row.image_statistics and len(row.image_statistics) == len(STATISTICS) for row in rows)
    made = baseline_with(opened, rows[:WINDOW])
    windows = [measure(opened, made, part) for part in (rows[:WINDOW], rows[WINDOW:])]
    assert [window.scores["brightness"] > 1 for window in windows] == [False, True]
    assert drift(drawn_bundle.path, log).latest.drift.scores["brightness"] > 1  # type: ignore[union-attr]


def test_photos_that_are_strange_to_the_network_are_told(drawn_bundle: Exported, tmp_path: Path) -> None:
    """Drawings that it never learnt, by an answer that is no less sure: only the embedding is far away."""
    opened, rows = load_bundle(drawn_bundle.path), field(drawn_bundle.path, WINDOW)
    classifier, strange = Classifier(drawn_bundle.path, embed=True), []
    for seed in range(WINDOW):
        strange.append(classifier(scene(seed, 64, 64)).ood_score)
    assert np.median(strange) > 1  # type: ignore[type-var]
    baseline = opened.variant().baseline
    assert baseline
    far = measure_drift(rows, opened.labels, baseline, None, strange)
    assert set(far.scores) == {"confidence", "ood_score"}
    assert (far.most, far.alarm) == ("ood_score", True)
    log = tmp_path / "field.log"
    write_log(log, drawn_bundle.path, rows)
    assert set(drift(drawn_bundle.path, log).latest.drift.scores) == {"confidence"}  # type: ignore[union-attr]
    write_log(log, drawn_bundle.path, rows, ood_score=float(np.median(strange)))  # type: ignore[type-var]
    report = drift(drawn_bundle.path, log)
    assert report.alarm
    assert report.latest
    assert report.latest.drift.most == "ood_score"


def baseline_with(bundle: Bundle, rows: list[LogRow]) -> dict[str, Any]:
    answers = np.array([row.probabilities for row in rows], float)
    return make_baseline(
        answers, bundle.labels, np.arange(len(rows)), np.array([row.image_statistics for row in rows])
    )


def measure(bundle: Bundle, baseline: dict[str, Any], rows: list[LogRow]) -> Drift:
    answers = np.array([row.probabilities for row in rows], float)
    return measure_drift(answers, bundle.labels, baseline, np.array([row.image_statistics for row in rows]))


def test_a_stated_prior_is_taken_out_again(drawn_bundle: Exported, tmp_path: Path) -> None:
    opened = load_bundle(drawn_bundle.path)
    rows = field(drawn_bundle.path, WINDOW)
    stated = dict(zip(opened.labels, (0.02, 0.98), strict=True))
    moved = correct_prior(rows, [opened.prior[label] for label in opened.labels], list(stated.values()))
    plain, corrected = tmp_path / "plain.log", tmp_path / "corrected.log"
    write_log(plain, drawn_bundle.path, rows)
    write_log(corrected, drawn_bundle.path, moved, stated)
    first, second = (drift(drawn_bundle.path, log).latest for log in (plain, corrected))
    assert first
    assert second
    assert second.drift.distance == pytest.approx(first.drift.distance, abs=1e-4)


def test_only_regular_rows_of_this_bundle_count(
    drawn_bundle: Exported, tiny_bundle: Path, tmp_path: Path
) -> None:
    log = tmp_path / "field.log"
    write_log(log, drawn_bundle.path, field(drawn_bundle.path, 250), regular=False)
    write_log(log, tiny_bundle, field(drawn_bundle.path, 250))
    write_log(log, drawn_bundle.path, field(drawn_bundle.path, 10))
    report = drift(drawn_bundle.path, log)
    assert (report.photos, report.latest) == (10, None)


def test_a_bundle_without_a_baseline_is_compared_with_the_beginning(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    assert load_bundle(tiny_bundle).variant().baseline is None
    log, random = tmp_path / "field.log", np.random.default_rng(0)

    def sure(count: int, least: float) -> Any:
        share = random.uniform(least, least + 0.1, count)
        return np.stack([share, 1 - share], axis=1)

    write_log(log, tiny_bundle, sure(390, 0.8))
    assert drift(tiny_bundle, log).latest is None
    write_log(log, tiny_bundle, sure(220, 0.8))
    assert not drift(tiny_bundle, log).alarm
    write_log(log, tiny_bundle, sure(200, 0.6))
    report = drift(tiny_bundle, log)
    assert report.alarm
    assert report.baseline == "log"


def test_no_log_is_one_error(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="no field log"):
        drift(tiny_bundle, tmp_path / "absent.log")


@pytest.fixture(scope="module")
def held_out(real_dataset: Dataset) -> Dataset:
    """The real photos in the roles that the shipped bundle's had."""
    if real_dataset.sha256 != load_bundle("cat").head["ancestors"]["dataset"]:
        pytest.skip("these are not the photos that the shipped bundle was made from")
    return real_dataset


def blurred(image: Image.Image) -> Image.Image:
    """Radius 2 at 500 px, which the network hardly minds."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 250))


def at_dusk(image: Image.Image) -> Image.Image:
    levels = np.asarray(image, np.float32) / 4
    noise = np.random.default_rng(0).normal(0, 6, levels.shape)
    return Image.fromarray(np.clip(levels + noise, 0, 255).astype(np.uint8))


def changed(photos: Any, change: Callable[[Image.Image], Image.Image]) -> list[bytes]:
    found = []
    for position in np.random.default_rng(1).permutation(len(photos))[:WINDOW]:
        image = change(Image.open(io.BytesIO(photos[int(position)])).convert("RGB"))
        found.append(encode(np.asarray(image), "JPEG", quality=92))
    return found


@pytest.mark.slow
def test_real_photos_blurred_and_at_dusk(held_out: Dataset) -> None:
    """200 held-out photos are enough; undisturbed ones seldom alarm. More kinds: benchmarks/drift.py."""
    classifier = Classifier("cat", threads=1)
    labels = classifier.labels

    def judged(photos: Any) -> tuple[Any, Any]:
        logits, statistics = [], []
        for frames in frames_of(photos, classifier.frame):
            logits.append(classifier.model(frames))
            statistics += [image_statistics(frame) for frame in frames]
        return softmax(np.concatenate(logits), classifier.variant.temperature), np.array(statistics)

    calibration, test = held_out.photos("calibration"), held_out.photos("test")
    answers, statistics = judged([calibration[at] for at in range(0, len(calibration), 2)])
    baseline = make_baseline(answers, labels, calibration.groups[::2], statistics)
    answers, statistics = judged([test[at] for at in range(len(test)) if at % 3])
    random = np.random.default_rng(0)
    windows = [random.permutation(len(answers))[:WINDOW] for _ in range(300)]
    alarms = [measure_drift(answers[some], labels, baseline, statistics[some]).alarm for some in windows]
    assert np.mean(alarms) <= 0.01
    found = {}
    for change in (blurred, at_dusk):
        answers, statistics = judged(changed(test, change))
        found[change.__name__] = measure_drift(answers, labels, baseline, statistics)
    assert {name: drift.alarm for name, drift in found.items()} == dict.fromkeys(found, True)
    assert found["blurred"].most == "sharpness"
