"""What counts as a flip, the exact McNemar test, and where the limits lie."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from catflap.errors import CatflapError, Refused
from catflap.evaluation.calibration import MAX_TEMPERATURE, fit_temperature
from catflap.evaluation.gate import calibration_checks, fidelity, furthest, gate

LIMITS = {"max_flip_rate": 0.01, "max_probability_difference": 0.2, "max_accuracy_drop": 0.005}


def pair(n, spoilt):
    """A reference that is always right and a variant that has `spoilt` photos just the other way."""
    reference = np.tile([0.55, 0.45], (n, 1))
    variant = reference.copy()
    variant[:spoilt] = variant[:spoilt, ::-1]
    return reference, variant, np.zeros(n, int), np.arange(n)


def test_fidelity_counts_what_differs():
    found = fidelity(*pair(1000, 4))
    assert (found["photos"], found["flips"], found["flip_rate"]) == (1000, 4, 0.004)
    assert found["flip_rate_low"] < 0.004 < found["flip_rate_high"] < 0.011
    assert found["max_probability_difference"] == pytest.approx(0.1)
    assert found["mean_probability_difference"] == pytest.approx(0.1 * 4 / 1000)
    assert found["accuracy_difference"] == -0.004
    assert found["mcnemar_p"] == pytest.approx(stats.binomtest(0, 4).pvalue)
    json.dumps(found, allow_nan=False)


def test_mcnemar_is_the_exact_test_and_groups_count_once():
    rng = np.random.default_rng(0)
    reference, variant = rng.dirichlet([1, 1], 400), rng.dirichlet([1, 1], 400)
    labels = (rng.random(400) < 0.7).astype(int)
    before, after = reference.argmax(axis=1) == labels, variant.argmax(axis=1) == labels
    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    expected = stats.binomtest(better, better + worse).pvalue
    once = fidelity(reference, variant, labels, np.arange(400))
    assert once["mcnemar_p"] == pytest.approx(expected)
    four = (np.repeat(part, 4, axis=0) for part in (reference, variant, labels, np.arange(400)))
    assert fidelity(*four)["mcnemar_p"] == pytest.approx(expected)


def test_an_equal_variant_passes_with_nothing_to_report():
    reference, _, labels, groups = pair(50, 0)
    found = fidelity(reference, reference, labels, groups)
    assert (found["flips"], found["max_probability_difference"], found["mcnemar_p"]) == (0, 0.0, 1.0)
    assert all(check.passed for check in gate(found, **LIMITS))


@pytest.mark.parametrize(("spoilt", "passed"), [(5, True), (6, False)])
def test_the_drop_is_refused_just_above_its_limit(spoilt, passed):
    checks = {check.name: check for check in gate(fidelity(*pair(1000, spoilt)), **LIMITS)}
    assert checks["flip_rate"].passed
    assert checks["accuracy_drop"].passed is passed
    assert checks["accuracy_drop"].value == pytest.approx(spoilt / 1000)


def test_limits_are_plain_on_a_small_set_too():
    lost = fidelity(*pair(20, 1))
    assert {check.name for check in gate(lost, **LIMITS) if not check.passed} == {
        "flip_rate",
        "accuracy_drop",
    }
    allowed = {**LIMITS, "max_flip_rate": 1 / 20, "max_accuracy_drop": 1 / 20}
    assert all(check.passed for check in gate(lost, **allowed))


def test_a_moved_probability_is_refused_without_a_flip():
    reference, variant, labels, groups = pair(100, 0)
    variant[3] = [0.9, 0.1]
    failed = [
        check.name
        for check in gate(fidelity(reference, variant, labels, groups), **LIMITS)
        if not check.passed
    ]
    assert failed == ["probability_difference"]


def test_a_variant_that_gets_better_passes_the_drop():
    reference, variant, labels, groups = pair(1000, 5)
    check = gate(fidelity(variant, reference, labels, groups), **LIMITS)[2]
    assert check.passed
    assert check.value < 0


def test_what_is_no_number_or_does_not_fit_is_refused():
    reference, variant, labels, groups = pair(10, 0)
    variant[2, 0] = np.nan
    with pytest.raises(Refused):
        fidelity(reference, variant, labels, groups)
    for bad in (
        (reference[:5], reference, labels, groups),
        (reference[:0], reference[:0], labels[:0], groups[:0]),
    ):
        with pytest.raises(CatflapError):
            fidelity(*bad)


def test_the_photos_that_changed_most_come_first_and_equals_in_order():
    reference = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]])
    variant = np.array([[0.5, 0.3, 0.2], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2]])
    assert furthest(reference, variant, 3) == ((3, 1), (1, 1), (0, 0))


def calibrated_set(seed: int, photos: int = 2000):
    """Logits whose own temperature is 1, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (photos, 2))
    chances = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return logits, (rng.random(photos) < chances).astype(int)


def failing(logits, reference, temperature, labels, reference_temperature=1.0):
    groups = np.arange(len(labels))
    checks = calibration_checks(logits, reference, temperature, reference_temperature, labels, groups)
    return {check.name for check in checks if not check.passed}


def test_a_calibrated_variant_passes_in_50_of_50_sets():
    for seed in range(50):
        calibration, truth = calibrated_set(seed, 300)
        logits, labels = calibrated_set(1000 + seed, 500)
        noisy = logits + np.random.default_rng(seed).normal(0, 0.1, logits.shape)
        temperature = fit_temperature(calibration, truth)
        assert failing(noisy, logits, temperature, labels, temperature) == set()


def test_shuffled_calibration_labels_are_refused_by_the_temperature():
    """The reference gets the same wrong temperature: comparing the two shows nothing."""
    calibration, truth = calibrated_set(1)
    logits, labels = calibrated_set(2)
    shuffled = fit_temperature(calibration, np.random.default_rng(0).permutation(truth))
    assert shuffled > MAX_TEMPERATURE / 1.02
    assert "temperature" in failing(logits, logits, shuffled, labels, shuffled)
    half = truth.copy()
    half[:1000] = np.random.default_rng(0).permutation(half[:1000])
    hot = fit_temperature(calibration, half)
    assert 1.5 < hot < 10
    assert "calibration_transfer" in failing(logits, logits, hot, labels, hot)


def test_a_variant_that_lost_its_calibration_is_refused_beside_the_reference():
    logits, labels = calibrated_set(3)
    assert failing(4 * logits, logits, 1.0, labels) >= {"log_loss_increase", "calibration_error_increase"}
    assert failing(logits, logits, 1.0, labels) == set()
