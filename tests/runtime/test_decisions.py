"""Conformal risk control: thresholds, the curve of error rates, and the promise about wrong labels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catflap.errors import CatflapError
from catflap.evaluation.conformal import (
    ERROR_RATES,
    choose_error_rate,
    risk_curve,
    risk_threshold,
    set_threshold,
)
from catflap.runtime.decisions import (
    DecisionRule,
    decide,
    decision_rule,
    point_cutoff,
    prediction_sets,
    softmax,
)

Rows = npt.NDArray[np.float64]


def answers(top: list[float], labels: int = 3) -> Rows:
    """Rows whose likeliest label is 0, with these probabilities; the others share the rest."""
    first = np.array(top)[:, None]
    return np.hstack([first, np.repeat((1 - first) / (labels - 1), labels - 1, axis=1)])


def drawn(
    random: np.random.Generator, count: int, labels: int, skill: float
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Calibrated probabilities (count, labels) of a model, and the true labels."""
    truth = random.integers(labels, size=count)
    logits = random.normal(size=(count, labels))
    logits[np.arange(count), truth] += skill
    return softmax(logits * skill), truth


def wrong_share(probabilities: Rows, truth: npt.NDArray[np.int64], rule: DecisionRule) -> float:
    names = [str(label) for label in range(probabilities.shape[1])]
    decided = decide(probabilities, names, rule)
    return float(
        np.mean([word not in ("unsure", names[label]) for word, label in zip(decided, truth, strict=True)])
    )


def test_the_threshold_lies_just_above_the_wrong_answer_that_must_be_unsure() -> None:
    """Of 19 photos at 10 %, (1 + 1) / 20 allows one wrong answer, the most certain; 0.6 must be unsure."""
    probabilities = answers([0.9, 0.8, 0.6, 0.5] + [0.7] * 15)
    truth = np.array([0, 1, 1, 2] + [0] * 15)
    threshold = risk_threshold(probabilities, truth, 0.1)
    assert threshold is not None
    assert 0.6 < threshold < 0.6003
    assert risk_threshold(probabilities, truth, 0.05) == pytest.approx(0.8, abs=2e-4)
    assert risk_threshold(probabilities, truth, 0.049) is None  # 19 photos show no less than 1 in 20
    never_unsure = risk_threshold(probabilities, truth, 0.3)
    assert never_unsure == pytest.approx(1 / 3, abs=3e-4)


def test_a_group_counts_once_and_by_the_share_of_its_photos() -> None:
    probabilities = answers([0.9, 0.8, 0.7, 0.6])
    truth = np.array([1, 1, 0, 1])
    groups = np.array([7, 7, 7, 9])
    assert risk_threshold(probabilities, truth, 0.34, groups) == pytest.approx(0.9, abs=1e-4)
    assert risk_threshold(probabilities, truth, 0.5, groups) == pytest.approx(0.8, abs=2e-4)  # 1/3 + 1 of 3
    assert risk_threshold(probabilities, truth, 0.67, groups) == pytest.approx(0.6, abs=3e-4)
    assert risk_threshold(probabilities, truth, 0.3, groups) is None
    (strict, loose) = risk_curve(probabilities, truth, groups, [0.34, 0.67])
    assert (strict["unsure"], loose["unsure"]) == (1.0, 0.5)  # loose: only the one photo of group 9


def test_certain_wrong_answers_cannot_be_told_from_right_ones() -> None:
    probabilities = np.array([[1.0, 0.0]] * 30)
    assert risk_threshold(probabilities, np.array([1] * 5 + [0] * 25), 0.05) is None


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, math.nan])
def test_an_impossible_error_rate_is_refused(rate: float) -> None:
    with pytest.raises(CatflapError, match="error rate"):
        risk_threshold(answers([0.9]), np.array([0]), rate)


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.05, 0.2])
def test_with_two_labels_it_decides_as_least_ambiguous_sets_did(rate: float) -> None:
    """Sadinle, Lei and Wasserman 2019: the k-th largest of the truth, at most 0.5, reached alone."""
    random = np.random.default_rng(5)
    for _ in range(50):
        probabilities, truth = drawn(random, 250, 2, 1.5)
        of_truth = np.sort(probabilities[np.arange(250), truth])
        old = min(0.5, float(of_truth[250 - math.ceil(251 * (1 - rate) - 1e-9)]))
        threshold = risk_threshold(probabilities, truth, rate)
        assert threshold is not None
        new_photos, _ = drawn(random, 400, 2, 1.5)
        before = decide(new_photos, ["a", "b"], DecisionRule(old, rate, top=False))
        after = decide(new_photos, ["a", "b"], DecisionRule(threshold, rate))
        assert (
            sum(one != other for one, other in zip(before, after, strict=True)) <= 1
        )  # at the very threshold


def test_a_step_of_int8_answers_is_on_one_side_on_every_machine() -> None:
    """The wrong answer at the threshold comes again, from another machine or in float32: unsure each time."""
    wrong = softmax(np.array([1.75, 1.25, 0.0]), 1.3)
    next_step = softmax(np.array([1.75 + 0.05, 1.25, 0.0]), 1.3)
    probabilities = np.vstack([wrong, np.tile(next_step, (30, 1))])
    threshold = risk_threshold(probabilities, np.array([1] + [0] * 30), 0.05)
    assert threshold is not None
    rule = DecisionRule(threshold, 0.05)
    for row in (wrong, wrong.astype(np.float32), wrong * (1 + 1e-5)):
        assert decide(row, ["a", "b", "c"], rule) == ["unsure"]
    for row in (next_step, next_step.astype(np.float32), next_step * (1 - 1e-5)):
        assert decide(row, ["a", "b", "c"], rule) == ["a"]


@pytest.mark.parametrize("threshold", [1e-4, 0.3, 0.5, 0.9999])
def test_a_photo_just_below_an_operating_points_threshold_reaches_it_and_one_further_below_does_not(
    threshold: float,
) -> None:
    """Just below: by a hundred-thousandth of the odds at most."""
    odds = threshold / (1 - threshold)
    for below, reaches in ((0.99e-5, True), (1.01e-5, False)):
        probability = odds * (1 - below) / (1 + odds * (1 - below))
        assert (probability >= point_cutoff(threshold)) == reaches


def test_the_photo_that_sets_the_threshold_of_sets_has_its_label_in_its_set_on_every_machine() -> None:
    likely, least = softmax(np.array([0.0, 2.0, 3.0])), softmax(np.array([1.25, 1.75, 1.5]))
    truth = np.array([2] * 18 + [0])
    threshold = set_threshold(np.vstack([np.tile(likely, (18, 1)), least]), truth, 0.05)
    assert threshold is not None
    for row in (least, least.astype(np.float32), least * (1 - 5e-6)):
        assert prediction_sets(row[None], threshold)[0, 0]
    assert not prediction_sets(least[None] * (1 - 1e-4), threshold)[0, 0]


def test_decide_takes_the_likeliest_label_that_reaches_the_threshold() -> None:
    rows = np.array([[0.7, 0.2, 0.1], [0.45, 0.44, 0.11], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]])
    assert decide(rows, ["a", "b", "c"], DecisionRule(0.42, 0.05)) == ["a", "a", "unsure", "c"]
    assert decide(rows[:0], ["a", "b", "c"], DecisionRule(0.42, 0.05)) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(ERROR_RATES))
def test_the_calibration_photos_themselves_keep_the_promise(seed: int, labels: int, rate: float) -> None:
    probabilities, truth = drawn(np.random.default_rng(seed), 40, labels, 1.0)
    threshold = risk_threshold(probabilities, truth, rate)
    assert (threshold is None) == (rate < 1 / 41)
    if threshold is not None:
        wrong = wrong_share(probabilities, truth, DecisionRule(threshold, rate))
        assert (40 * wrong + 1) / 41 <= rate + 1e-9


def test_the_curve_ascends_and_leaves_out_what_so_few_photos_cannot_promise() -> None:
    probabilities, truth = drawn(np.random.default_rng(3), 120, 4, 1.5)
    curve = risk_curve(probabilities, truth)
    assert [point["error_rate"] for point in curve] == [rate for rate in ERROR_RATES if rate >= 1 / 121]
    for name in ("threshold", "unsure"):
        values = [point[name] for point in curve]
        assert values == sorted(values, reverse=True)
    assert risk_curve(probabilities[:0], truth[:0]) == []


def test_the_default_error_rate_leaves_a_tenth_unsure_at_most() -> None:
    curve = [
        {"error_rate": rate, "threshold": 0.5, "unsure": unsure}
        for rate, unsure in ((0.01, 0.41), (0.03, 0.1))
    ]
    assert choose_error_rate(curve) == 0.03
    assert choose_error_rate(curve[:1]) == 0.01  # the greatest, where none does
    assert choose_error_rate([]) is None


CURVE = {
    "threshold": 0.7, "error_rate": 0.03, "photos": 100, "rule": "top",
    "curve": [
        {"error_rate": 0.01, "threshold": 0.9, "unsure": 0.4},
        {"error_rate": 0.03, "threshold": 0.7, "unsure": 0.1},
    ],
}  # fmt: skip


def test_another_error_rate_of_the_curve_can_be_chosen() -> None:
    assert decision_rule(CURVE) == DecisionRule(0.7, 0.03)
    assert decision_rule(CURVE, 0.01) == DecisionRule(0.9, 0.01)
    assert decision_rule(CURVE, 0.02) == DecisionRule(0.9, 0.01)  # the promise of 2 % holds, too
    assert decision_rule(CURVE, 0.5) == DecisionRule(0.7, 0.03)
    assert decision_rule({"threshold": 0.4, "error_rate": 0.01}) == DecisionRule(0.4, 0.01, top=False)


@pytest.mark.parametrize("rate", [0.009, 0, 1, -1, math.nan])
def test_a_rate_that_is_not_on_the_curve_is_refused(rate: float) -> None:
    with pytest.raises(CatflapError, match="cannot promise") as caught:
        decision_rule(CURVE, rate)
    assert "0.01, 0.03" in caught.value.fix


def test_a_bundle_without_a_curve_has_one_error_rate() -> None:
    with pytest.raises(CatflapError, match="no curve"):
        decision_rule({"threshold": 0.4, "error_rate": 0.01}, 0.02)


@pytest.mark.parametrize(("groups", "rate"), [(4, 0.3), (30, 0.1), (150, 0.05)])
def test_of_photos_of_new_groups_as_many_are_wrong_as_promised(groups: int, rate: float) -> None:
    """A group is 12 photos that are more alike than others: some groups are hard. On average over sets."""
    random = np.random.default_rng(groups)

    def photos(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        owners = np.repeat(np.arange(count), 12)
        truth = random.integers(0, 3, len(owners))
        logits = random.normal(0, 1, (len(owners), 3))
        logits[np.arange(len(owners)), truth] += random.exponential(2.5, count)[owners]
        return softmax(logits), truth, owners

    unseen, true, _ = photos(5000)
    wrong = np.sort(np.where(unseen.argmax(axis=1) == true, 0, unseen.max(axis=1)))
    shares = []
    for _ in range(400):
        threshold = risk_threshold(*photos(groups)[:2], rate, np.repeat(np.arange(groups), 12))
        shares.append(0 if threshold is None else 1 - np.searchsorted(wrong, threshold) / len(wrong))
    spread = 3 * np.std(shares) / math.sqrt(len(shares))
    assert rate - 1 / (groups + 1) - spread <= np.mean(shares) <= rate + spread


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "skill"), [(2, 2.5), (3, 1.5), (10, 2.2)])
@pytest.mark.parametrize("count", [60, 300])
def test_no_more_is_wrong_than_promised(labels: int, skill: float, count: int) -> None:
    """On average over calibration sets, for each rate of the curve and for the rate that export chooses.

    Photos come in groups of 1 to 4 near-duplicates; new photos are one of each group.
    """
    random = np.random.default_rng(labels)
    large, true = drawn(random, 100_000, labels, skill)
    wrong = np.sort(np.where(large.argmax(axis=1) == true, 0, large.max(axis=1)))
    found: dict[float, list[float]] = {rate: [] for rate in ERROR_RATES}
    chosen = []
    for _ in range(1000):
        probabilities, truth = drawn(random, count, labels, skill)
        copies = np.repeat(np.arange(count), random.integers(1, 5, count))
        curve = risk_curve(probabilities[copies], truth[copies], copies)
        by_rate = {
            point["error_rate"]: 1 - np.searchsorted(wrong, point["threshold"]) / len(wrong)
            for point in curve
        }
        for rate, share in by_rate.items():
            found[rate].append(share)
        default = choose_error_rate(curve)
        assert default is not None
        chosen.append(by_rate[default] - default)
    for rate, shares in found.items():
        if shares:
            assert np.mean(shares) <= rate + 3 * np.std(shares) / math.sqrt(len(shares)), rate
    assert np.mean(chosen) <= 3 * np.std(chosen) / math.sqrt(len(chosen))
