"""The head is the usual one unless photos that it has not learnt from say otherwise, by more than chance."""

from __future__ import annotations

import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.evaluation.calibration import fit_temperature
from catflap.training import choosing as room
from catflap.training.choosing import STRENGTHS, USUAL, Choice, choose_head
from catflap.training.head import Head, fit_head, log_loss
from catflap.training.logistic import Known
from tests.training.test_head import clouds, softmax, uneven


def apart(*parts: Known) -> list[np.ndarray]:
    """Groups of one photo each, for photos of some roles."""
    ends = np.cumsum([0, *(len(labels) for _, labels in parts)])
    return [np.arange(*ends[place : place + 2]) for place in range(len(parts))]


def chosen(train: Known, validation: Known, classes: int) -> Choice:
    groups = apart(train, validation)
    return choose_head(train, validation, (groups[0], groups[1]), classes)


def settings(choice: Choice) -> tuple[bool, bool, float]:
    return tuple(choice.chosen[name] for name in ("balanced", "standardise", "strength"))  # type: ignore[return-value]


def hidden(count: int, seed: int) -> Known:
    """Two labels that a small feature tells and a thousandfold one, of noise, hides."""
    random = np.random.default_rng(seed)
    labels = np.arange(2).repeat(count)
    small = labels - 0.5 + random.normal(0, 0.1, 2 * count)
    return np.column_stack([small, random.normal(0, 1000, 2 * count)]).astype(np.float32), labels


def alike(count: int, seed: int) -> Known:
    """Two labels that any setting tells apart nearly always."""
    random = np.random.default_rng(seed)
    labels = np.arange(2).repeat(count)
    centres = np.where(labels, 1.2, -1.2)[:, None]
    return (centres + random.normal(0, 1, (2 * count, 8))).astype(np.float32), labels


@pytest.mark.parametrize("few", [0, 10_000], ids=["validation", "by turns"])
def test_what_is_better_by_more_than_chance_is_chosen(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FEW", few)
    choice = chosen(hidden(100, 0), hidden(100, 1), 2)
    assert len(choice.tried) == 2 * len(STRENGTHS)
    assert settings(choice)[1], "features scaled one by one show the small one"
    assert choice.chosen["validation_log_loss"] == min(row["validation_log_loss"] for row in choice.tried)
    assert [row["chosen"] for row in choice.tried].count(True) == 1
    assert choice.chosen["validation_accuracy"] > 0.99


@pytest.mark.parametrize("few", [0, 10_000], ids=["validation", "by turns"])
def test_the_usual_head_stays_where_another_is_better_by_chance(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FEW", few)
    choice = chosen(alike(30, 6), alike(10, 56), 2)
    assert settings(choice) == USUAL
    assert choice.chosen["validation_log_loss"] > min(row["validation_log_loss"] for row in choice.tried)


def test_heads_learn_from_train_and_are_refitted_with_validation() -> None:
    train, validation = clouds(3), clouds(3, seed=9)
    choice = chosen(train, validation, 3)
    balanced, standardise, strength = settings(choice)
    for head, parts in ((choice.head, [train]), (choice.refitted, [train, validation])):
        again = fit_head(parts, 3, strength, standardise, balanced).at(choice.chosen["temperature"])
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


def test_few_photos_judge_by_turns_whole_groups_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of near-duplicates: none is judged by a head that has learnt from the other."""
    train, validation = clouds(2, 20), clouds(2, 4, seed=9)
    groups = (np.arange(40) // 2, 20 + np.arange(8) // 2)
    everything = np.concatenate([train[0], validation[0]])
    group_of = {row.tobytes(): group for row, group in zip(everything, np.concatenate(groups), strict=True)}
    learnt, judged = list[set[int]](), list[list[int]]()

    def told(parts: list[Known], *rest: object) -> Head:
        learnt.append({group_of[row.tobytes()] for features, _ in parts for row in features})
        return fit_head(parts, *rest)  # type: ignore[arg-type]

    def looked_at(self: Head, features: np.ndarray) -> np.ndarray:
        judged.append([group_of[row.tobytes()] for row in features])
        return features @ self.weights.T + self.bias

    monkeypatch.setattr(room, "fit_head", told)
    monkeypatch.setattr(Head, "logits", looked_at)
    choose_head(train, validation, groups, 2, strengths=(3e-3,))
    rounds = list(zip(learnt, judged, strict=False))[: 2 * room.FOLDS]
    assert all(not seen & set(asked) for seen, asked in rounds)
    for setting in (rounds[: room.FOLDS], rounds[room.FOLDS :]):
        assert sorted(group for _, asked in setting for group in asked) == sorted(np.concatenate(groups))


def test_a_label_of_one_photo_is_learnt_and_not_judged() -> None:
    train, validation = alike(20, 0), alike(4, 1)
    plain = chosen(train, validation, 2)
    train = (np.vstack([train[0], np.zeros(8, np.float32)]), np.append(train[1], 2))
    choice = chosen(train, validation, 3)
    assert choice.chosen["validation_accuracy"] == plain.chosen["validation_accuracy"]
    assert choice.chosen["temperature"] < 1, "what nobody could know makes no answer unsure"


def test_photos_too_few_for_turns_are_judged_by_validation() -> None:
    features = np.eye(4, dtype=np.float32)
    train, validation = (features[:2], np.arange(2)), (features[2:], np.arange(2))
    groups = (np.arange(2), np.arange(2))  # each label is one group, so that no turn has two to learn
    assert len(choose_head(train, validation, groups, 2).validation_logits) == 2


def test_one_label_is_an_error() -> None:
    features, labels = clouds(2, 20)
    with pytest.raises(CatflapError, match="one label only"):
        chosen((features[:20], labels[:20]), (features, labels), 2)


def test_labels_weigh_alike_and_where_one_is_rare_photos_are_tried_too() -> None:
    even, rare = chosen(clouds(2), clouds(2, seed=9), 2), chosen(uneven(0), uneven(9), 2)
    assert [entry["balanced"] for entry in even.tried] == [True] * 14
    assert [entry["balanced"] for entry in rare.tried] == [True] * 14 + [False] * 14
    assert rare.chosen["validation_log_loss"] == min(row["validation_log_loss"] for row in rare.tried)


def test_a_temperature_leaves_the_prior_of_rare_labels_as_it_is() -> None:
    """Where features tell nothing, answers are the labels' shares, however sure the head may be."""
    features, labels = uneven(0)
    head = fit_head([(features, labels)], 2, 3e-3, False, balanced=True)
    nothing = Head(head.weights * 0, head.prior, head.prior)
    np.testing.assert_allclose(
        softmax(nothing.at(0.1).logits(features[:1]))[0], [600 / 612, 12 / 612], atol=1e-6
    )
    surer, same = head.at(0.5).logits(features), head.logits(features)
    np.testing.assert_allclose(surer - head.prior, 2 * (same - head.prior), atol=1e-4)


def test_two_choices_are_bit_equal() -> None:
    one, other = (chosen(clouds(4), clouds(4, seed=9), 4) for _ in range(2))
    assert one.refitted.weights.tobytes() == other.refitted.weights.tobytes()


def test_settings_are_compared_on_a_part_and_the_chosen_one_learns_from_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, validation = clouds(3, 100), clouds(3, 20, seed=1)
    train = (train[0], np.where(np.arange(300) == 7, 3, train[1]))  # one photo of a fourth label
    learnt: list[tuple[int, int]] = []

    def counted(parts: list[Known], *rest: object) -> Head:
        labels = np.concatenate([labels for _, labels in parts])
        learnt.append((len(labels), len(np.unique(labels))))
        return fit_head(parts, *rest)  # type: ignore[arg-type]

    for name, value in (("fit_head", counted), ("MOST_COMPARED", 50), ("FEW", 0)):
        monkeypatch.setattr(room, name, value)
    chosen(train, validation, 4)
    assert set(learnt[:-2]) == {(50, 4)}
    assert learnt[-2:] == [(300, 4), (360, 4)]
