"""The linear head is scikit-learn's logistic regression, with its scaling folded in, however many photos."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as their_log_loss
from sklearn.preprocessing import StandardScaler

from catflap.errors import CatflapError
from catflap.evaluation import calibration
from catflap.evaluation.calibration import fit_temperature
from catflap.evaluation.intervals import group_weights
from catflap.machine import describe_machine
from catflap.training import head as room
from catflap.training.features import LabelledFeatures
from catflap.training.head import (
    L2_CS,
    Choice,
    Head,
    choose_despite_noise,
    choose_head,
    cross_fit,
    fit_head,
    fit_scales,
    log_loss,
    losses_of,
)


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
@pytest.mark.parametrize("c", [1e-2, 1.0])
@pytest.mark.parametrize("standardise", [True, False])
def test_it_agrees_with_scikit_learn(classes: int, c: float, standardise: bool) -> None:
    features, labels = clouds(classes)
    head = fit_head([(features, labels)], classes, c, standardise)
    spread = features.std(0, dtype=np.float64)
    scale = spread + 1e-3 * spread.max() if standardise else features.std()
    scaled = (features - features.mean(0, dtype=np.float64)) / scale
    model = LogisticRegression(C=c, max_iter=500).fit(scaled, labels)
    np.testing.assert_allclose(softmax(head.logits(features)), model.predict_proba(scaled), atol=1e-4)
    assert head.weights.dtype == head.bias.dtype == np.float32
    assert head.weights.shape == (classes, 12)


@pytest.mark.parametrize("classes", [2, 4])
def test_many_photos_in_parts_end_at_the_same_optimum(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows at a time and two parts: neither moves the end."""
    for name, value in (("ROWS", 7), ("GRADIENT", 1e-7)):
        monkeypatch.setattr(room, name, value)
    features, labels = clouds(classes, 150)
    dealt = np.random.default_rng(2).permutation(len(labels))
    parts = [(features[some], labels[some]) for some in (dealt[:101], dealt[101:])]
    head = fit_head(parts, classes, 0.1, True)
    spread = features.std(0, dtype=np.float64)
    scaled = (features - features.mean(0, dtype=np.float64)) / (spread + 1e-3 * spread.max())
    model = LogisticRegression(C=0.1, max_iter=500, tol=1e-7).fit(scaled, labels)
    np.testing.assert_allclose(softmax(head.logits(features)), model.predict_proba(scaled), atol=1e-4)


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "QUICK", 0)
    features, labels = clouds(4, 300)
    heads = set()
    for cores in (1, 2, 5):
        machine = replace(describe_machine(), cores=cores)
        monkeypatch.setattr(room, "describe_machine", lambda machine=machine: machine)
        heads.add(fit_head([(features, labels)], 4, 0.1, False).weights.tobytes())
    assert len(heads) == 1


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("standardise", [True, False])
def test_fewer_photos_than_features_have_the_same_optimum(
    classes: int, standardise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some photos twice. Each four times, at a quarter of C, is the same problem, of more photos."""
    monkeypatch.setattr(room, "GRADIENT", 1e-7)
    width = 250
    features, labels = clouds(classes, 20, width=width)
    some = np.concatenate([np.arange(len(labels)), np.arange(0, len(labels), 5)])
    features, labels = features[some], labels[some]
    assert room.SPANNED * len(labels) <= width < room.SPANNED * 4 * len(labels)
    spanned = fit_head([(features, labels)], classes, 0.3, standardise)
    monkeypatch.setattr(room, "_fit_in_span", None)
    whole = fit_head([(features, labels)] * 4, classes, 0.3 / 4, standardise)
    others, _ = clouds(classes, 50, width=width, seed=5)
    np.testing.assert_allclose(softmax(spanned.logits(others)), softmax(whole.logits(others)), atol=1e-4)
    monkeypatch.undo()
    again = fit_head([(features, labels)], classes, 0.3, standardise, warm=spanned)
    np.testing.assert_allclose(softmax(again.logits(others)), softmax(spanned.logits(others)), atol=5e-3)


def test_standardised_it_is_close_to_scikit_learns_own_scaler() -> None:
    features, labels = clouds(3)
    scaled = StandardScaler().fit_transform(features)
    model = LogisticRegression(C=0.1, max_iter=500).fit(scaled, labels)
    head = fit_head([(features, labels)], 3, 0.1, standardise=True)
    np.testing.assert_allclose(softmax(head.logits(features)), model.predict_proba(scaled), atol=0.05)


def test_a_feature_that_hardly_changes_leaves_the_others_room_in_8_bits() -> None:
    """One of twelve, which is 0 but for half of the photos of one label."""
    features, labels = clouds(3)
    features[:, 5] = 0
    features[np.flatnonzero(labels == 1)[::2], 5] = 0.01
    weights = np.abs(fit_head([(features, labels)], 3, 1.0, standardise=True).weights)
    others = np.delete(weights, 5, axis=1).max()
    assert 0 < weights[:, 5].max() < others


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
    monkeypatch.setattr(calibration, "CHUNK", 1 << 14)
    tracemalloc.start()
    assert fit_scales(evidence, prior, labels, (0.05, 20)) == pytest.approx(whole, rel=1e-6)
    assert np.array_equal(losses_of(evidence, labels), losses)
    assert tracemalloc.get_traced_memory()[1] < evidence.nbytes
    tracemalloc.stop()


def apart(*parts: LabelledFeatures) -> list[np.ndarray]:
    """Groups of one photo each, for photos of some roles."""
    ends = np.cumsum([0, *(len(labels) for _, labels in parts)])
    return [np.arange(*ends[place : place + 2]) for place in range(len(parts))]


def chosen(
    train: LabelledFeatures, validation: LabelledFeatures, classes: int, cs: tuple[float, ...] = L2_CS
) -> Choice:
    groups = apart(train, validation)
    return choose_head(train, validation, (groups[0], groups[1]), classes, cs=cs)


TWO = (0.01, 0.1)  # strengths, where it does not matter which are compared


def settings(choice: Choice) -> tuple[bool, float]:
    return choice.chosen["standardise"], choice.chosen["c"]


def hidden(count: int, seed: int) -> LabelledFeatures:
    """Two labels that a small feature tells and a thousandfold one, of noise, hides."""
    random = np.random.default_rng(seed)
    labels = np.arange(2).repeat(count)
    small = labels - 0.5 + random.normal(0, 0.1, 2 * count)
    return np.column_stack([small, random.normal(0, 1000, 2 * count)]).astype(np.float32), labels


def alike(count: int, seed: int) -> LabelledFeatures:
    """Two labels that any setting tells apart nearly always."""
    random = np.random.default_rng(seed)
    labels = np.arange(2).repeat(count)
    centres = np.where(labels, 1.2, -1.2)[:, None]
    return (centres + random.normal(0, 1, (2 * count, 8))).astype(np.float32), labels


def noisy(count: int, seed: int) -> LabelledFeatures:
    """Two labels of which each of 200 features tells a little."""
    random = np.random.default_rng(seed)
    labels = np.arange(2).repeat(count)
    features = random.normal(0, 1, (2 * count, 200)) + 0.15 * labels[:, None]
    return features.astype(np.float32), labels


judged_by = pytest.mark.parametrize("few", [0, 10_000], ids=["validation", "by turns"])


@judged_by
def test_features_are_scaled_one_by_one_where_that_is_better(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FEW", few)
    choice = chosen(hidden(100, 0), hidden(100, 1), 2)
    assert len(choice.tried) == 2 * len(L2_CS)
    assert settings(choice)[0], "features scaled one by one show the small one"
    assert choice.chosen["validation_log_loss"] == min(row["validation_log_loss"] for row in choice.tried)
    assert [row["chosen"] for row in choice.tried].count(True) == 1
    assert choice.chosen["validation_accuracy"] > 0.99


@judged_by
def test_what_is_better_by_chance_leaves_them_scaled_together(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FEW", few)
    scales = np.geomspace(0.5, 2, 8, dtype=np.float32)
    train, validation = ((features * scales, labels) for features, labels in (alike(20, 9), alike(10, 59)))
    choice = chosen(train, validation, 2)
    losses = {way: [row["validation_log_loss"] for row in choice.tried if row["standardise"] == way]
              for way in (False, True)}  # fmt: skip
    assert min(losses[True]) < min(losses[False]), "or this test shows nothing"
    assert not settings(choice)[0]


@judged_by
def test_the_middle_strength_of_those_as_good_is_chosen(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that are separated by any strength do not ask for the strongest or the weakest."""
    monkeypatch.setattr(room, "FEW", few)
    easy = chosen(alike(30, 6), alike(10, 56), 2)
    assert settings(easy)[1] == L2_CS[len(L2_CS) // 2]
    hard = chosen(noisy(100, 0), noisy(300, 1), 2)
    losses = [row["validation_log_loss"] for row in hard.tried if not row["standardise"]]
    assert losses[0] < losses[-1] - 0.03, "or this test shows nothing"
    assert settings(hard)[1] < settings(easy)[1]


def test_heads_learn_from_train_and_are_refitted_with_validation() -> None:
    train, validation = clouds(3), clouds(3, seed=9)
    choice = chosen(train, validation, 3, TWO)
    standardise, strength = settings(choice)
    scales = choice.chosen["logit_scale"], choice.chosen["prior_scale"]
    for head, parts in ((choice.head, [train]), (choice.refitted, [train, validation])):
        again = fit_head(parts, 3, strength, standardise, balanced=True).scaled(*scales)
        assert np.array_equal(again.weights, head.weights)
        assert np.array_equal(again.bias, head.bias)
    np.testing.assert_array_equal(choice.validation_logits, choice.head.logits(validation[0]))


def test_answers_are_as_sure_as_validation_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FEW", 0)
    train, validation = clouds(3), clouds(3, seed=9)
    choice = chosen(train, validation, 3)
    assert log_loss(choice.validation_logits, validation[1]) == pytest.approx(
        choice.chosen["validation_log_loss"]
    )
    assert fit_temperature(choice.validation_logits, validation[1]) == pytest.approx(1, abs=1e-3)


@judged_by
def test_bursts_make_no_head_surer(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each photo of validation 30 times over, and by turns each of train too, in one group."""
    monkeypatch.setattr(room, "FEW", few)
    train, validation = alike(12, 9), alike(6, 59)
    groups = np.arange(24), 24 + np.arange(12)
    alone = choose_head(train, validation, groups, 2, cs=(0.01,))
    again = np.arange(24).repeat(30 if few else 1), np.arange(12).repeat(30)
    bursts = [(part[0][at], part[1][at]) for part, at in zip((train, validation), again, strict=True)]
    of = groups[0][again[0]], groups[1][again[1]]
    burst = choose_head(bursts[0], bursts[1], of, 2, cs=(0.01,))

    def stated(choice: Choice) -> float:
        return float((1 - softmax(choice.head.logits(validation[0])).max(1)).mean())

    assert stated(burst) == pytest.approx(stated(alone), rel=0.3)


def test_few_photos_judge_by_turns_whole_groups_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of near-duplicates: none is judged by a head that has learnt from the other."""
    train, validation = clouds(2, 20), clouds(2, 4, seed=9)
    groups = (np.arange(40) // 2, 20 + np.arange(8) // 2)
    everything = np.concatenate([train[0], validation[0]])
    group_of = {row.tobytes(): group for row, group in zip(everything, np.concatenate(groups), strict=True)}
    learnt, judged = list[set[int]](), list[list[int]]()

    def recorded(parts: list[LabelledFeatures], *rest: Any, **options: Any) -> Head:
        learnt.append({group_of[row.tobytes()] for features, _ in parts for row in features})
        return fit_head(parts, *rest, **options)

    def looked_at(self: Head, features: np.ndarray) -> np.ndarray:
        judged.append([group_of[row.tobytes()] for row in features])
        return features @ self.weights.T + self.bias

    monkeypatch.setattr(room, "fit_head", recorded)
    monkeypatch.setattr(Head, "logits", looked_at)
    choose_head(train, validation, groups, 2, cs=(3e-3,))
    rounds = list(zip(learnt, judged, strict=False))[: 2 * room.FOLDS]
    assert all(not seen & set(asked) for seen, asked in rounds)
    for setting in (rounds[: room.FOLDS], rounds[room.FOLDS :]):
        assert sorted(group for _, asked in setting for group in asked) == sorted(np.concatenate(groups))


def test_of_more_photos_or_labels_validation_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns would take five times as long, where a head takes long already."""
    train, validation = clouds(3, 20), clouds(3, 4, seed=9)
    monkeypatch.setattr(room, "FEW", 72 * 3 - 1)
    choice = chosen(train, validation, 3, TWO)
    right = float((choice.validation_logits.argmax(1) == validation[1]).mean())
    assert choice.chosen["validation_accuracy"] == right
    loss = choice.chosen["validation_log_loss"]
    assert log_loss(choice.validation_logits, validation[1]) == pytest.approx(loss)
    monkeypatch.setattr(room, "FEW", 72 * 3)
    assert chosen(train, validation, 3, TWO).chosen["validation_log_loss"] != pytest.approx(loss)


def test_a_label_of_one_photo_is_learnt_and_not_judged() -> None:
    train, validation = alike(20, 0), alike(4, 1)
    plain = chosen(train, validation, 2, TWO)
    train = (np.vstack([train[0], np.zeros(8, np.float32)]), np.append(train[1], 2))
    choice = chosen(train, validation, 3, TWO)
    assert choice.chosen["validation_accuracy"] == plain.chosen["validation_accuracy"]
    assert choice.chosen["logit_scale"] > 1, "what nobody could know makes no answer unsure"


def test_photos_too_few_for_turns_are_judged_by_validation() -> None:
    features = np.eye(4, dtype=np.float32)
    train, validation = (features[:2], np.arange(2)), (features[2:], np.arange(2))
    groups = (np.arange(2), np.arange(2))  # each label is one group, so that no turn has two to learn
    assert len(choose_head(train, validation, groups, 2).validation_logits) == 2


def test_one_label_is_an_error() -> None:
    features, labels = clouds(2, 20)
    with pytest.raises(CatflapError, match="one label only"):
        chosen((features[:20], labels[:20]), (features, labels), 2, TWO)


def test_of_a_rare_label_more_is_found_than_with_the_prior_as_it_is() -> None:
    """What few photos of a label tell is held back enough by there being few."""
    train, validation, judges = alike(300, 3), alike(50, 4), alike(2000, 5)
    few = [(np.delete(f, slice(n, None), 0), y[:n]) for (f, y), n in ((train, 305), (validation, 51))]
    choice = chosen(few[0], few[1], 2)
    standardise, strength = settings(choice)
    plain = fit_head(few, 2, strength, standardise, balanced=True)
    recall, before = (
        float((head.logits(judges[0])[judges[1] == 1].argmax(1) == 1).mean())
        for head in (choice.refitted, plain)
    )
    assert choice.chosen["prior_scale"] < 0.7 * choice.chosen["logit_scale"]
    assert recall > before + 0.02
    shares = np.where(judges[1] == 1, 6, 350)
    losses = [np.average(losses_of(head.logits(judges[0]), judges[1]), weights=shares)
              for head in (choice.refitted, plain)]  # fmt: skip
    assert losses[0] < losses[1]


def test_two_choices_are_bit_equal() -> None:
    one, other = (chosen(clouds(4), clouds(4, seed=9), 4, TWO) for _ in range(2))
    assert one.refitted.weights.tobytes() == other.refitted.weights.tobytes()


def test_settings_are_compared_on_a_part_and_the_chosen_one_learns_from_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, validation = clouds(3, 100), clouds(3, 20, seed=1)
    train = (train[0], np.where(np.arange(300) == 7, 3, train[1]))  # one photo of a fourth label
    learnt: list[tuple[int, int]] = []

    def counted(parts: list[LabelledFeatures], *rest: Any, **options: Any) -> Head:
        labels = np.concatenate([labels for _, labels in parts])
        learnt.append((len(labels), len(np.unique(labels))))
        return fit_head(parts, *rest, **options)

    for name, value in (("fit_head", counted), ("MAX_COMPARED", 50), ("FEW", 0)):
        monkeypatch.setattr(room, name, value)
    chosen(train, validation, 4, TWO)
    assert set(learnt[:-2]) == {(50, 4)}
    assert learnt[-2:] == [(300, 4), (360, 4)]


def test_of_many_validation_photos_a_part_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 of them, where 60 logits may be looked at; a label of one photo is among them."""
    train, validation = clouds(3, 20), clouds(3, 20, seed=1)
    train, validation = ((part[0], np.where(np.arange(60) == 7, 3, part[1])) for part in (train, validation))
    whole = chosen(train, validation, 4, TWO)
    judged = list[np.ndarray]()

    def looked_at(self: Head, features: np.ndarray) -> np.ndarray:
        judged.append(features)
        return features @ self.weights.T + self.bias

    monkeypatch.setattr(Head, "logits", looked_at)
    for name, value in (("MAX_LOGITS", 60), ("FEW", 0)):
        monkeypatch.setattr(room, name, value)
    choice = chosen(train, validation, 4, TWO)
    assert [row["judged_by"] for row in choice.tried] == [15] * len(choice.tried)
    assert [row["judged_by"] for row in whole.tried] == [120] * len(whole.tried), "by turns, of both roles"
    assert all(np.array_equal(one, judged[0]) for one in judged[:-1]), "the same for each setting"
    assert validation[0][7] in judged[0]
    assert len(choice.validation_logits) == 60


def test_cross_fitted_logits_are_those_of_a_head_without_the_photo() -> None:
    """Photos whose labels nothing explains are guessed by such a head, and remembered by the final one."""
    dice = np.random.default_rng(3)
    features = dice.normal(size=(160, 400)).astype(np.float32)
    labels = dice.integers(0, 2, 160)
    learnt, calibration = (features[:80], labels[:80]), (features[80:], labels[80:])
    groups = np.arange(40), np.arange(40, 80)
    halves = (features[:40], labels[:40]), (features[40:80], labels[40:80])
    choice = choose_head(*halves, groups, 2, cs=(1.0,))
    head, added = cross_fit(choice, learnt, calibration, np.arange(80), 2)
    remembered = head.logits(calibration[0])
    assert (remembered.argmax(1) == calibration[1]).mean() == 1
    assert 0.3 < ((remembered + added).argmax(1) == calibration[1]).mean() < 0.7


@pytest.mark.parametrize("classes", [2, 5])
def test_of_many_labels_the_cs_are_a_path_that_ends_after_the_best(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It chooses what comparing all would choose, in fewer steps."""
    train, validation = clouds(classes, 60), clouds(classes, 200, seed=3)
    groups = np.arange(len(train[1])), np.arange(len(train[1]), len(train[1]) + len(validation[1]))
    monkeypatch.setattr(room, "FEW", 0)
    every = choose_head(train, validation, groups, classes)
    monkeypatch.setattr(room, "MANY", 1)
    path = choose_head(train, validation, groups, classes)
    assert len(path.tried) <= len(every.tried) == 2 * len(L2_CS)
    for name in ("c", "standardise"):
        assert path.chosen[name] == every.chosen[name]
    np.testing.assert_allclose(path.validation_logits, every.validation_logits, atol=0.05)


def test_a_head_starts_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its own optimum hardly a step is left, and from anywhere the end is the same."""
    part, steps = clouds(4), list[int]()
    minimize = room.minimize

    def counted(*given: Any, **options: Any) -> Any:
        found = minimize(*given, **options)
        steps.append(found.nit)
        return found

    monkeypatch.setattr(room, "minimize", counted)
    cold = fit_head([part], 4, 0.1, True, balanced=True)
    again = fit_head([part], 4, 0.1, True, balanced=True, warm=cold)
    other = fit_head([part], 4, 0.1, True, balanced=True, warm=fit_head([part], 4, 1.0, False, balanced=True))
    assert steps[1] <= 2 < steps[0]
    for head in (again, other):
        np.testing.assert_allclose(softmax(head.logits(part[0])), softmax(cold.logits(part[0])), atol=2e-3)


def test_float32_blocks_of_many_labels_end_at_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    part = clouds(7)
    exact = fit_head([part], 7, 0.1, True, balanced=True)
    monkeypatch.setattr(room, "MANY_LABELS", 7)
    rounded = fit_head([part], 7, 0.1, True, balanced=True)
    assert not np.array_equal(rounded.weights, exact.weights)
    np.testing.assert_allclose(softmax(rounded.logits(part[0])), softmax(exact.logits(part[0])), atol=1e-4)


def flipped(labels: np.ndarray, classes: int) -> np.ndarray:
    """The labels, every tenth of them another one."""
    return np.where(np.arange(len(labels)) % 10 == 3, (labels + 1) % classes, labels)


def test_no_head_learns_from_labels_that_are_probably_wrong() -> None:
    train, validation, judges = alike(100, 1), alike(20, 2), alike(500, 3)
    groups = (np.arange(200), 200 + np.arange(40))
    clean = choose_despite_noise(train, validation, groups, 2, cs=TWO)
    assert clean.noise is None, "what is hard is not taken for wrong"
    assert settings(clean) == settings(choose_head(train, validation, groups, 2, cs=TWO))

    wrong = [(features, flipped(labels, 2)) for features, labels in (train, validation)]
    plain = choose_head(wrong[0], wrong[1], groups, 2, cs=TWO)
    choice = choose_despite_noise(wrong[0], wrong[1], groups, 2, cs=TWO)
    assert choice.noise is not None
    assert choice.noise.share / 2 == pytest.approx(0.1, abs=0.05), "half of random labels are right"
    really = np.concatenate([wrong[0][1] != train[1], wrong[1][1] != validation[1]])
    assert (choice.noise.wrong & really).sum() >= 18, "of 24"
    assert (choice.noise.wrong & ~really).sum() <= 2
    shown = choice.noise.targets.argmax(1) == np.concatenate([train[1], validation[1]])
    assert shown.mean() > 0.95
    assert np.array_equal(
        choice.noise.targets[~choice.noise.wrong].max(1), np.ones((~choice.noise.wrong).sum())
    )
    losses = [log_loss(each.refitted.logits(judges[0]), judges[1]) for each in (clean, choice, plain)]
    assert losses[1] < (losses[0] + losses[2]) / 2
    assert choice.chosen["validation_accuracy"] > plain.chosen["validation_accuracy"] + 0.05
    assert len(choice.validation_logits) == len(validation[1])


def test_calibration_photos_with_a_wrong_label_teach_nothing() -> None:
    train, validation, calibration = alike(100, 1), alike(20, 2), alike(30, 4)
    groups = (np.arange(200), 200 + np.arange(40))
    wrong = [(features, flipped(labels, 2)) for features, labels in (train, validation, calibration)]
    choice = choose_despite_noise(wrong[0], wrong[1], groups, 2, cs=TWO)
    assert choice.noise is not None
    assert (wrong[2][1] != calibration[1]).sum() == 6
    found = cross_fit(choice, train, wrong[2], np.arange(60), 2)[0]
    without = cross_fit(replace(choice, noise=None), train, wrong[2], np.arange(60), 2)[0]
    judges = alike(500, 3)
    assert log_loss(found.logits(judges[0]), judges[1]) < log_loss(without.logits(judges[0]), judges[1])


def test_a_label_does_not_lose_all_its_photos() -> None:
    """Photos of a label that look like another one: wrong or not, nothing else shows that label."""
    train, validation = alike(100, 1), alike(20, 2)
    train = train[0], np.where(np.arange(200) < 12, 2, train[1])
    choice = choose_despite_noise(train, validation, (np.arange(200), 200 + np.arange(40)), 3, cs=TWO)
    assert choice.noise is None or not choice.noise.wrong[:12].any()
