"""A Bundle's promises compared with what photos get: what fails, what does not, and what explains it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import Variant
from catflap.evaluation.conformal import risk_curve
from catflap.evaluation.decision_rates import shipped_decisions
from catflap.evaluation.drift_baseline import Drift
from catflap.evaluation.intervals import Ints
from catflap.evaluation.metrics import measure
from catflap.evaluation.promises import compare_with_promises, unknown_labels, worse_than_promised
from catflap.runtime.decisions import decide, decision_rule

LABELS = ("cat", "dog", "fox")
PRIOR = dict.fromkeys(LABELS, 1 / 3)


def answers(truth: Ints, right: float, seed: int) -> np.ndarray:
    """Probabilities of a classifier that is right on this share of photos."""
    random = np.random.default_rng(seed)
    wrong = random.random(len(truth)) >= right
    message = np.where(wrong, (truth + random.integers(1, 3, len(truth))) % 3, truth)
    top = np.where(wrong, random.uniform(0.4, 0.8, len(truth)), random.uniform(0.7, 0.999, len(truth)))
    rows = np.repeat(((1 - top) / 2)[:, None], 3, axis=1)
    rows[np.arange(len(truth)), message] = top
    return rows


@pytest.fixture(scope="module")
def variant() -> Variant:
    truth = np.arange(600) % 3
    calibration, test = answers(truth, 0.97, 1), answers(truth, 0.97, 2)
    curve = risk_curve(calibration, truth)
    chosen = next(point for point in curve if point["error_rate"] == 0.02)
    decision = {
        "threshold": chosen["threshold"], "error_rate": 0.02, "photos": 600, "groups": 600, "rule": "top",
        "curve": curve,
    }  # fmt: skip
    of_test = (test, truth, np.arange(600), LABELS)
    return Variant(
        "int8", "int8.onnx", "onnxruntime", "int8", 1.0, 0.1, measure(*of_test), {}, decision,
        decisions=shipped_decisions(decision, [], *of_test),
    )  # fmt: skip


def verdict(
    variant: Variant, truth: Ints, rows: np.ndarray, groups: Ints | None = None, drift: Drift | None = None
) -> dict[str, Any]:
    words = decide(rows, LABELS, decision_rule(variant.decision))
    decided = np.array([LABELS.index(word) if word in LABELS else -1 for word in words])
    owners = np.arange(len(truth)) if groups is None else groups
    return compare_with_promises(variant, LABELS, PRIOR, rows.argmax(axis=1), decided, truth, owners, drift)


def failed(found: dict[str, Any]) -> list[str]:
    return [check["name"] for check in found["checks"] if not check["pass"]]


def test_photos_like_the_test_photos_pass_almost_always(variant: Variant) -> None:
    truth = np.arange(900) % 3
    alarms = sum(not verdict(variant, truth, answers(truth, 0.97, 100 + seed))["pass"] for seed in range(300))
    assert alarms <= 3


def test_negatives_only_and_one_label_only_are_judged_by_that_label(variant: Variant) -> None:
    truth = np.full(200, 1)
    good = verdict(variant, truth, answers(truth, 0.97, 5))
    assert good["pass"]
    assert [check["name"] for check in good["checks"]] == ["recall:dog", "wrong", "decided"]
    assert [one["kind"] for one in good["explanations"]] == ["another mix"]
    bad = verdict(variant, truth, answers(truth, 0.6, 5))
    assert "recall:dog" in failed(bad)


def test_permuted_labels_are_found_and_restored(variant: Variant) -> None:
    truth = np.arange(300) % 3
    rows = answers(truth, 0.97, 7)
    found = verdict(variant, (truth + 1) % 3, rows)
    assert {"recall:cat", "recall:dog", "recall:fox", "wrong"} == set(failed(found))
    (why,) = [one for one in found["explanations"] if one["kind"] == "permuted labels"]
    assert why["permutation"] == {"cat": "fox", "dog": "cat", "fox": "dog"}
    assert why["accuracy"] == pytest.approx((rows.argmax(1) == truth).mean())


def test_a_bad_classifier_is_not_called_a_permutation(variant: Variant) -> None:
    truth = np.arange(300) % 3
    found = verdict(variant, truth, answers(truth, 0.4, 8))
    assert not found["pass"]
    assert [one["kind"] for one in found["explanations"]] == ["unexplained"]


def test_a_threshold_that_nothing_reaches_fails_without_any_label(variant: Variant) -> None:
    truth = np.arange(300) % 3
    never = replace(variant, decision={**variant.decision, "threshold": 1.0})
    found = verdict(never, np.full(300, -1), answers(truth, 0.97, 9))
    assert failed(found) == ["decided"]
    always = replace(variant, decision={**variant.decision, "threshold": 0.0})
    found = verdict(always, np.arange(3000) % 3, answers(np.arange(3000) % 3, 0.93, 9))
    assert "wrong" in failed(found)


def test_another_mix_explains_what_it_breaks(variant: Variant) -> None:
    truth = np.repeat([0, 1], [290, 10])
    found = verdict(variant, truth, answers(truth, 0.97, 10))
    (why,) = [one for one in found["explanations"] if one["kind"] == "another mix"]
    assert why["shares"]["cat"] == pytest.approx(0.966667)
    assert "--prior cat=0.967" in why["text"]


def test_drift_fails_photos_without_labels_and_only_explains_others(variant: Variant) -> None:
    truth = np.arange(300) % 3
    rows = answers(truth, 0.97, 11)
    drift = Drift(300, 0.4, 1e-9, 2.5, "brightness", {"brightness": 2.5, "contrast": 0.3})
    labelled = verdict(variant, truth, rows, drift=drift)
    assert labelled["pass"]
    assert "brightness" in labelled["explanations"][0]["text"]
    assert "contrast" not in labelled["explanations"][0]["text"]
    assert failed(verdict(variant, np.full(300, -1), rows, drift=drift)) == ["drift"]


def test_photos_of_one_group_prove_little(variant: Variant) -> None:
    truth = np.zeros(60, np.int64)
    rows = answers(truth, 0.0, 12)
    assert "recall:cat" in failed(verdict(variant, truth, rows))
    assert verdict(variant, truth, rows, np.zeros(60, np.int64))["pass"]


def test_unknown_labels_are_told_with_their_answers() -> None:
    names = ["katze"] * 10 + ["cat"] * 5 + ["car"] * 4
    decided = np.array([0] * 9 + [-1] + [0] * 5 + [-1, -1, 1, 2])
    car, katze = unknown_labels(names, LABELS, decided)
    assert (katze["photos"], katze["no_decision"], katze["answers"]["cat"]) == (10, 1, 9)
    assert "another name" in katze["text"]
    assert (car["photos"], car["no_decision"]) == (4, 2)
    assert "another name" not in car["text"]


def test_what_a_bundle_does_not_state_is_named(variant: Variant) -> None:
    truth = np.arange(300) % 3
    rows = answers(truth, 0.97, 3)
    assert verdict(variant, truth, rows)["not_stated"] == []
    older = replace(variant, metrics={}, decisions={}, decision={"threshold": 0.5, "error_rate": 0.02})
    found = verdict(older, truth, rows)
    assert (found["pass"], found["checks"]) == (True, [])
    assert found["not_stated"] == [
        "the recall of each label", "how often it decides", "an error rate of its decisions",
    ]  # fmt: skip


def test_fishers_test_gives_its_known_values() -> None:
    assert worse_than_promised(1, 10, 11, 14) == pytest.approx(0.0013797, abs=1e-6)  # the tea-tasting table
    assert worse_than_promised(5, 10, 5, 10) == pytest.approx(0.6718591, abs=1e-6)
    assert worse_than_promised(0, 0, 5, 10) == 1.0
    assert worse_than_promised(0, 3000, 3000, 3000) < 1e-300
