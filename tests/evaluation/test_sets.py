"""Prediction sets: their promise, what is measured of them, and where people read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import load_dataset
from catflap.evaluation.conformal import set_threshold
from catflap.evaluation.decision_rates import mean_size, set_rates
from catflap.exporting.export import export
from catflap.pipeline.evaluate import evaluate
from catflap.runtime.decisions import prediction_sets, softmax


def answers(random: np.random.Generator, groups: int, labels: int = 4) -> tuple[np.ndarray, ...]:
    """Probabilities (n, labels), true labels and groups of 1 to 3 photos that are alike."""
    truth = random.integers(0, labels, groups)
    logits = random.normal(0, 1.5, (groups, labels))
    logits[np.arange(groups), truth] += 2
    owners = np.repeat(np.arange(groups), random.integers(1, 4, groups))
    return softmax(logits[owners] + random.normal(0, 0.3, (len(owners), labels))), truth[owners], owners


@pytest.mark.parametrize(("groups", "rate"), [(25, 0.1), (200, 0.05), (200, 0.2)])
def test_a_set_holds_the_label_as_often_as_promised(groups: int, rate: float) -> None:
    """On average over calibration sets; the unit is the group, of which every photo must be covered."""
    random, covered = np.random.default_rng(0), []
    for _ in range(300):
        probabilities, truth, owners = answers(random, groups)
        threshold = set_threshold(probabilities, truth, rate, owners)
        assert threshold is not None
        probabilities, truth, owners = answers(random, 300)
        held = prediction_sets(probabilities, threshold)[np.arange(len(truth)), truth]
        covered.append(1 - len(np.unique(owners[~held])) / 300)
    assert 1 - rate - 0.01 <= np.mean(covered) <= 1 - rate + 2.5 / groups


def test_few_photos_promise_nothing_and_no_set_is_empty() -> None:
    random = np.random.default_rng(1)
    probabilities, truth, owners = answers(random, 18)
    assert set_threshold(probabilities, truth, 0.05, owners) is None
    inside = prediction_sets(np.full((5, 3), 1 / 3), 0.9)
    assert inside.sum(axis=1).tolist() == [1] * 5


@pytest.mark.parametrize(("groups", "few"), [(40, 0.3), (200, 0.02), (300, 0.6)])
def test_the_interval_of_the_mean_size_holds(groups: int, few: float) -> None:
    """Sets of 1, 2 and 5 labels; groups of 1 to 3 photos have sets of one size."""
    random, held = np.random.default_rng(2), 0
    shares = (1 - few, 0.8 * few, 0.2 * few)
    truth = 1 + few * (0.8 * 1 + 0.2 * 4)
    for _ in range(300):
        owners = np.repeat(np.arange(groups), random.integers(1, 4, groups))
        sizes = random.choice([1, 2, 5], groups, p=shares)[owners]
        found = mean_size(sizes, owners, 5)
        assert found["low"] <= found["value"] <= found["high"]
        held += found["low"] <= truth <= found["high"]
    assert held / 300 > 0.91


@pytest.mark.slow
def test_three_labels_have_sets_on_the_card_and_in_the_report(
    three_labels: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catflap.evaluation.slices.MIN_PHOTOS", 3)  # there are few test photos
    dataset = load_dataset(three_labels.dataset_path)
    export(three_labels, dataset, tmp_path / "tiny.catflap", variants=("int8",))
    bundle = load_bundle(tmp_path / "tiny.catflap")
    sets = bundle.variants["int8"].sets
    assert sets is not None
    assert sets["error_rate"] == bundle.variants["int8"].decision["error_rate"]
    assert sum(sets["sizes"].values()) == len(dataset.photos("test"))
    card = bytes(bundle.members["card.md"]).decode()
    assert f"holds the right one for at least {100 * (1 - sets['error_rate']):.4g} % of photos" in card
    limits = bundle.head["variants"]["int8"]["limits"]
    assert limits["photos"] == len(dataset.photos("test"))
    assert all(sentence in card for sentence in limits["sentences"])
    assert "a limit: " in card or "no slice of " in card
    report = evaluate(bundle.path, dataset.path, tmp_path / "report")
    int8 = report.variants["int8"]["sets"]
    assert (int8["covered"], int8["sizes"]) == (sets["covered"], sets["sizes"])
    assert "Prediction sets:" in report.page.read_text("utf-8")


def test_two_sets_of_rates_differ_by_their_threshold() -> None:
    probabilities, truth, owners = answers(np.random.default_rng(3), 300)
    wide, narrow = (set_rates(threshold, probabilities, truth, owners) for threshold in (0.01, 0.6))
    assert wide["covered"]["value"] > narrow["covered"]["value"]
    assert wide["mean_size"]["value"] > narrow["mean_size"]["value"] >= 1
