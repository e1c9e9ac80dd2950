"""Temperature, priors and the unsure band, against scipy and against what they promise."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import optimize, special, stats

from catflap.errors import CatflapError
from catflap.evaluation.calibration import PRIOR_PHOTOS, estimate_prior, fit_temperature, prior_intervals
from catflap.runtime.decisions import DecisionRule, correct_prior, decide, softmax


def only(threshold: float) -> DecisionRule:
    """The rule of bundles before format 1.1."""
    return DecisionRule(threshold, 0.01, top=False)


def drawn(n, k, temperature, seed=0):
    """Logits whose labels follow softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, k))
    p = special.softmax(logits / temperature, axis=1)
    return logits, (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)


def test_softmax_is_that_of_scipy_and_does_not_overflow():
    logits = np.random.default_rng(0).normal(0, 5, (20, 4)).astype(np.float32)
    assert softmax(logits, 1.7) == pytest.approx(special.softmax(logits.astype(float) / 1.7, axis=1))
    assert softmax(np.array([1e30, -1e30])).tolist() == [1.0, 0.0]
    assert softmax(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("k", [2, 10])
def test_the_temperature_is_where_scipy_finds_the_least_loss(temperature, k):
    logits, labels = drawn(2000, k, temperature)

    def loss(log):
        return -special.log_softmax(logits / np.exp(log), axis=1)[np.arange(2000), labels].mean()

    expected = np.exp(optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(expected, rel=1e-3)
    assert fitted == pytest.approx(temperature, rel=0.15)


@pytest.mark.parametrize("n", [1, 10, 400])
def test_photos_without_a_mistake_do_not_ask_for_certainty(n):
    logits = np.random.default_rng(0).normal(0, 1, (n, 3))
    logits[:, 0] += 8
    temperature = fit_temperature(logits, np.zeros(n, int))
    assert (1 - softmax(logits, temperature).max(axis=1)).mean() == pytest.approx(1 / (n + 2), rel=1e-6)


def test_a_group_weighs_and_counts_as_one_photo():
    logits, labels = drawn(20, 3, 1.5)
    sure = logits + 20 * np.eye(3)[labels]
    for scores in (logits, sure):
        once = fit_temperature(scores, labels)
        assert fit_temperature(scores, labels, np.arange(20)) == pytest.approx(once, rel=1e-9)
        sizes = np.random.default_rng(0).integers(1, 60, 20)
        bursts = np.repeat(np.arange(20), sizes)
        assert fit_temperature(scores[bursts], labels[bursts], bursts) == pytest.approx(once, rel=1e-6)
    stated = 1 - softmax(sure, fit_temperature(sure[bursts], labels[bursts], bursts)).max(axis=1)
    assert stated.mean() == pytest.approx(1 / 22, rel=1e-6)


def test_few_photos_without_a_mistake_do_not_make_calibrated_answers_less_sure():
    logits = np.log([[0.99, 0.01], [0.98, 0.02]] * 3)
    labels = np.zeros(6, int)
    assert fit_temperature(logits, labels) > 2
    assert fit_temperature(logits, labels, calibrated=True) == 1.0
    unsure = np.log([[0.6, 0.4]] * 6)
    weight = len(labels) / (len(labels) + PRIOR_PHOTOS)
    assert fit_temperature(unsure, labels, calibrated=True) == fit_temperature(unsure, labels) ** weight < 1
    mistaken = np.array([1, 0, 0, 0, 0, 0])
    assert (
        fit_temperature(logits, mistaken, calibrated=True) == fit_temperature(logits, mistaken) ** weight > 1
    )
    wrong = 1 - labels  # so wrong that the fit stops at its bound, which the gate refuses
    assert fit_temperature(logits, wrong, calibrated=True) == fit_temperature(logits, wrong) > 19


def test_a_hopeless_or_empty_calibration_stays_within_bounds():
    logits = np.eye(3)[[0, 1, 2] * 5] * 10.0
    assert fit_temperature(logits, np.roll([0, 1, 2] * 5, 1)) == pytest.approx(20)
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1
    assert 0.05 <= fit_temperature(np.zeros((4, 3)), np.zeros(4, int)) <= 20.001
    with pytest.raises(CatflapError):
        fit_temperature(np.array([[np.nan, 0.0]]), np.array([0]))


@pytest.mark.slow
def test_many_labels_take_little_memory() -> None:
    """1,000 labels, 4,000 photos: less memory than float64 copies of the logits would take."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 2, (4000, 1000)).astype(np.float32), random.integers(0, 1000, 4000)
    tracemalloc.start()
    fit_temperature(logits, labels)
    assert tracemalloc.get_traced_memory()[1] < logits.nbytes
    tracemalloc.stop()


def test_the_corrected_prior_follows_bayes():
    p, trained, field = np.array([[0.5, 0.5]]), [0.2, 0.8], [0.001, 0.999]
    odds = (0.5 / 0.5) * (0.001 / 0.2) / (0.999 / 0.8)
    assert correct_prior(p, trained, field)[0, 0] == pytest.approx(odds / (1 + odds))
    assert correct_prior(p, trained, trained) == pytest.approx(p)
    assert correct_prior(p[0], trained, field) == pytest.approx(correct_prior(p, trained, field)[0])
    assert correct_prior([1.0, 0.0], trained, field).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("field", [[0.0, 1.0], [-0.1, 1.1], [np.nan, 0.5]])
def test_an_impossible_prior_is_refused(field):
    with pytest.raises(CatflapError):
        correct_prior(np.array([[0.5, 0.5]]), [0.5, 0.5], field)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_the_prior_of_the_field_is_found_without_labels(share):
    rng = np.random.default_rng(5)
    is_cat = rng.random(20_000) < share
    evidence = rng.normal(np.where(is_cat, 1.5, -1.5), 1)
    trained = np.array([0.3, 0.7])
    log_odds = 3 * evidence + np.log(trained[0] / trained[1])  # exact for two unit normals 3 apart
    p = softmax(np.column_stack([log_odds, np.zeros_like(log_odds)]))
    assert estimate_prior(p, trained)[0] == pytest.approx(is_cat.mean(), abs=0.01)
    assert estimate_prior(p[:0], trained).tolist() == trained.tolist()


def test_a_label_that_never_occurs_gets_almost_no_share():
    p = np.tile([0.9, 0.1, 0.0], (50, 1))
    shares = estimate_prior(p, [0.4, 0.4, 0.2])
    assert shares.sum() == pytest.approx(1)
    assert 0 < shares[2] < 1e-6
    least = 0.01 / np.maximum(shares, 0.01).sum()  # half a photo
    highest = 1 - (1 - least) * 0.025 ** (1 / 50)  # a share at which none of 50 has a chance of 0.025
    assert prior_intervals(p, [0.4, 0.4, 0.2], shares)[2]["high"] == pytest.approx(highest, abs=1e-6)


@pytest.mark.parametrize("others", [(0.5, 0.48), (0.8, 0.18)])
def test_of_certain_answers_the_interval_of_a_share_is_wilsons(others):
    """Of 50 photos one is of the third label, which is more than half a photo."""
    field = np.array([*others, 0.02])
    p = np.repeat(np.eye(3), (50 * field).round().astype(int), axis=0)
    for share, found in zip(field, prior_intervals(p, [0.3, 0.3, 0.4], field), strict=True):
        expected = stats.binomtest(round(50 * share), 50).proportion_ci(method="wilson")
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_decide_needs_exactly_one_label():
    p = np.array([[0.7, 0.2, 0.1], [0.45, 0.45, 0.1], [0.4, 0.3, 0.3], [0.0, 0.5, 0.5]])
    assert decide(p, ["a", "b", "c"], only(0.42)) == ["a", "unsure", "unsure", "unsure"]
    assert decide(p[0], ["a", "b", "c"], only(0.5)) == ["a"]
    assert decide(p[:0], ["a", "b", "c"], only(0.5)) == []


def test_a_tie_with_the_threshold_is_one_on_every_machine():
    """int8 answers come in steps: here the second label is where the threshold was found."""
    threshold = float(softmax(np.array([1.75, 1.25]), 1.3)[1])
    tie = np.array([1 - threshold, threshold])
    for p in (tie, tie.astype(np.float32), np.nextafter(tie, 0), tie * (1 - 5e-6)):
        assert decide(p, ["a", "b"], only(threshold)) == ["unsure"]
    assert decide(tie * (1 - 1e-4), ["a", "b"], only(threshold)) == ["a"]
