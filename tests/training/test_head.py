"""The linear head is scikit-learn's logistic regression, with its scaling folded in, however many photos."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as their_log_loss
from sklearn.preprocessing import StandardScaler

from catflap.errors import CatflapError
from catflap.evaluation import calibration
from catflap.evaluation.intervals import group_weights
from catflap.machine import describe_machine
from catflap.training.heads import logistic
from catflap.training.heads.head import fit_head, log_loss, losses_of
from catflap.training.heads.logistic import fit_scales


def clouds(classes: int, count: int = 60, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds of features of very different scale, one a class."""
    random = np.random.default_rng(seed)
    labels = np.arange(classes).repeat(count)
    centres = np.random.default_rng(1).normal(0, 1, (classes, width))
    features = centres[labels] + random.normal(0, 1, (len(labels), width))
    return (features * np.geomspace(0.1, 10, width) + 3).astype(np.float32), labels


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("strength", [1e-2, 1.0])
@pytest.mark.parametrize("standardise", [True, False])
def test_it_agrees_with_scikit_learn(classes: int, strength: float, standardise: bool) -> None:
    features, labels = clouds(classes)
    head = fit_head([(features, labels)], classes, strength, standardise)
    spread = features.std(0, dtype=np.float64)
    scale = spread + 1e-3 * spread.max() if standardise else features.std()
    scaled = (features - features.mean(0, dtype=np.float64)) / scale
    model = LogisticRegression(C=strength, max_iter=500).fit(scaled, labels)
    np.testing.assert_allclose(softmax(head.logits(features)), model.predict_proba(scaled), atol=1e-4)
    assert head.weights.dtype == head.bias.dtype == np.float32
    assert head.weights.shape == (classes, 12)


@pytest.mark.parametrize("classes", [2, 4])
def test_many_photos_in_parts_end_at_the_same_optimum(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows at a time and two parts: neither moves the end."""
    for name, value in (("ROWS", 7), ("GRADIENT", 1e-7)):
        monkeypatch.setattr(logistic, name, value)
    features, labels = clouds(classes, 150)
    dealt = np.random.default_rng(2).permutation(len(labels))
    parts = [(features[some], labels[some]) for some in (dealt[:101], dealt[101:])]
    head = fit_head(parts, classes, 0.1, True)
    spread = features.std(0, dtype=np.float64)
    scaled = (features - features.mean(0, dtype=np.float64)) / (spread + 1e-3 * spread.max())
    model = LogisticRegression(C=0.1, max_iter=500, tol=1e-7).fit(scaled, labels)
    np.testing.assert_allclose(softmax(head.logits(features)), model.predict_proba(scaled), atol=1e-4)


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clouds(4, 300)
    heads = set()
    for cores in (1, 2, 5):
        machine = replace(describe_machine(), cores=cores)
        monkeypatch.setattr(logistic, "describe_machine", lambda machine=machine: machine)
        heads.add(fit_head([(features, labels)], 4, 0.1, False).weights.tobytes())
    assert len(heads) == 1


def test_standardised_it_is_close_to_scikit_learns_own_scaler() -> None:
    features, labels = clouds(3)
    scaled = StandardScaler().fit_transform(features)
    model = LogisticRegression(C=0.1, max_iter=500).fit(scaled, labels)
    head = fit_head([(features, labels)], 3, 0.1, standardise=True)
    np.testing.assert_allclose(softmax(head.logits(features)), model.predict_proba(scaled), atol=0.05)


def test_the_scale_of_a_feature_matters_only_without_standardising() -> None:
    features, labels = clouds(2)
    stretched = features * np.array([100, *[1] * 11], np.float32)
    for standardise, alike in ((True, True), (False, False)):
        one, other = (
            softmax(fit_head([(given, labels)], 2, 0.01, standardise).logits(given))
            for given in (features, stretched)
        )
        assert (np.abs(one - other).max() < 0.02) == alike


def test_a_label_without_photos_never_wins() -> None:
    features, labels = clouds(3)
    numbers = np.array([0, 2, 3])[labels]  # of five labels, 1 and 4 have none
    logits = fit_head([(features, numbers)], 5, 0.1, True).logits(features)
    assert set(logits.argmax(1)) <= {0, 2, 3}
    far = fit_head([(features, numbers)], 5, 0.1, True).logits(features * -50)
    assert set(far.argmax(1)) <= {0, 2, 3}
    assert softmax(logits)[:, [1, 4]].max() < 1e-6


def test_one_of_two_labels_missing_is_one_error() -> None:
    features, labels = clouds(2)
    with pytest.raises(CatflapError, match="one label only"):
        fit_head([(features[labels == 0], labels[labels == 0])], 2, 0.1, True)


def test_features_that_never_change_do_no_harm() -> None:
    features, labels = clouds(2)
    features[:, 3] = 7
    for standardise in (True, False):
        head = fit_head([(features, labels)], 2, 0.1, standardise)
        assert np.isfinite(head.weights).all()
        assert np.isfinite(head.bias).all()
    flat = fit_head([(np.full_like(features, 5), labels)], 2, 0.1, True)
    assert np.isfinite(flat.logits(features)).all()


def uneven(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """600 photos of one label and 12 of the other."""
    features, labels = clouds(2, 600, seed=seed)
    kept = np.concatenate([np.arange(600), 600 + np.arange(12)])
    return features[kept], labels[kept]


def test_weights_of_labels_change_nothing_where_labels_are_even() -> None:
    features, labels = clouds(3)
    plain, balanced = (fit_head([(features, labels)], 3, 0.1, True, even) for even in (False, True))
    np.testing.assert_allclose(softmax(balanced.logits(features)), softmax(plain.logits(features)), atol=1e-4)


def test_balanced_answers_keep_the_prior_of_the_photos() -> None:
    """Equal weights alone would call a tenth of all photos the rare label."""
    features, labels = uneven(0)
    head = fit_head([(features, labels)], 2, 0.01, True, balanced=True)
    share = softmax(head.logits(features))[:, 1].mean()
    assert 0.3 < share / (12 / 612) < 3
    undone = head.logits(features) - np.log([600, 12])
    assert softmax(undone)[:, 1].mean() > 3 * share


def test_evidence_and_prior_are_scaled_apart() -> None:
    features, labels = uneven(0)
    numbers = np.array([0, 2])[labels]  # label 1 has no photos
    head = fit_head([(features, numbers)], 3, 0.01, True, balanced=True)
    known = head.logits(features)[:, [0, 2]] - head.prior[[0, 2]]
    scaled = head.scaled(0.5, 3.0)
    expected = 0.5 * known + 3 * head.prior[[0, 2]]
    np.testing.assert_allclose(scaled.logits(features)[:, [0, 2]], expected, rtol=1e-4, atol=1e-4)
    for one in (head, scaled, scaled.scaled(0.01, -1.0)):
        assert np.isneginf(one.prior[1])
        assert softmax(one.logits(features))[:, 1].max() < 1e-6


def test_scales_are_those_that_made_the_labels() -> None:
    random = np.random.default_rng(0)
    evidence, prior = random.normal(0, 2, (20_000, 3)), np.tile(np.log([0.7, 0.2, 0.1]), (20_000, 1))
    stated = softmax(0.4 * evidence + 1.5 * prior)
    labels = (random.random((20_000, 1)) > stated.cumsum(1)).sum(1).clip(max=2)
    assert fit_scales(evidence, prior, labels, (0.05, 20)) == pytest.approx((0.4, 1.5), rel=0.05)
    assert fit_scales(evidence, prior, labels, (0.5, 20))[0] == 0.5
    impossible = np.column_stack([evidence, np.full(20_000, 9.0)])
    never = np.column_stack([prior, np.full(20_000, -np.inf)])
    assert fit_scales(impossible, never, labels, (0.05, 20)) == pytest.approx((0.4, 1.5), rel=0.05)


def test_a_prior_is_never_turned_round() -> None:
    """Where photos that judge are labelled against the shares of the labels, these tell nothing."""
    labels, prior = np.tile([0, 1, 1, 1], 50), np.tile(np.log([0.75, 0.25]), (200, 1))
    assert fit_scales(np.zeros((200, 2)), prior, labels, (0.05, 20))[1] == 0.0


def test_photos_without_a_mistake_scale_nothing_to_certainty() -> None:
    labels = np.array([0, 1] * 5)
    evidence = np.where(labels[:, None] == [0, 1], 1.0, -1.0)
    evidence_scale, prior_scale = fit_scales(evidence, np.zeros((10, 2)), labels, (0.05, 20))
    assert 1 / (1 + np.exp(2 * evidence_scale)) == pytest.approx(1 / 12, rel=1e-3)
    assert prior_scale == 1.0, "nothing is known of it"


def test_a_photo_counts_as_its_weight_when_scales_are_fitted() -> None:
    random = np.random.default_rng(0)
    evidence, labels = random.normal(0, 2, (40, 3)), random.integers(0, 3, 40)
    prior = np.tile(np.log([0.7, 0.2, 0.1]), (40, 1))
    alone = fit_scales(evidence, prior, labels, (0.05, 20))
    bursts = np.repeat(np.arange(40), random.integers(1, 30, 40))
    many = evidence[bursts], prior[bursts], labels[bursts], (0.05, 20)
    assert fit_scales(*many, group_weights(bursts)) == pytest.approx(alone, rel=1e-4)
    assert fit_scales(*many) != pytest.approx(alone, rel=1e-2), "or this test shows nothing"


def test_log_loss_is_scikit_learns() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 4, 50)
    assert log_loss(logits, labels) == pytest.approx(
        their_log_loss(labels, softmax(logits.astype(np.float64)))
    )
    assert np.isfinite(log_loss(np.array([[1e4, -1e4]], np.float32), np.array([1])))


def test_of_many_labels_scales_and_losses_are_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """And take less memory than evidence and prior themselves, of which the prior is one row."""
    random = np.random.default_rng(0)
    evidence, labels = random.normal(0, 2, (500, 1000)).astype(np.float32), random.integers(0, 1000, 500)
    prior = np.broadcast_to(random.normal(0, 1, 1000).astype(np.float32), evidence.shape)
    whole, losses = fit_scales(evidence, prior, labels, (0.05, 20)), losses_of(evidence, labels)
    monkeypatch.setattr(calibration, "AT_ONCE", 1 << 14)
    tracemalloc.start()
    assert fit_scales(evidence, prior, labels, (0.05, 20)) == pytest.approx(whole, rel=1e-6)
    assert np.array_equal(losses_of(evidence, labels), losses)
    assert tracemalloc.get_traced_memory()[1] < evidence.nbytes
    tracemalloc.stop()
