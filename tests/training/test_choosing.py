"""The head, and how sure it is, by photos that it has not learnt from."""

from __future__ import annotations

import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.evaluation.calibration import fit_temperature
from catflap.runtime.decisions import softmax
from catflap.training.heads import choosing as room
from catflap.training.heads.choosing import STRENGTHS, Choice, choose_head
from catflap.training.heads.head import Head, fit_head, log_loss, losses_of
from catflap.training.heads.logistic import LabelledFeatures
from tests.training.test_head import clouds


def apart(*parts: LabelledFeatures) -> list[np.ndarray]:
    """Groups of one photo each, for photos of some roles."""
    ends = np.cumsum([0, *(len(labels) for _, labels in parts)])
    return [np.arange(*ends[place : place + 2]) for place in range(len(parts))]


def chosen(train: LabelledFeatures, validation: LabelledFeatures, classes: int) -> Choice:
    groups = apart(train, validation)
    return choose_head(train, validation, (groups[0], groups[1]), classes)


def settings(choice: Choice) -> tuple[bool, float]:
    return choice.chosen["standardise"], choice.chosen["strength"]


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
    assert len(choice.tried) == 2 * len(STRENGTHS)
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
    """Photos that are told apart by any strength do not ask for the strongest or the weakest."""
    monkeypatch.setattr(room, "FEW", few)
    easy = chosen(alike(30, 6), alike(10, 56), 2)
    assert settings(easy)[1] == STRENGTHS[len(STRENGTHS) // 2]
    hard = chosen(noisy(100, 0), noisy(300, 1), 2)
    losses = [row["validation_log_loss"] for row in hard.tried if not row["standardise"]]
    assert losses[0] < losses[-1] - 0.03, "or this test shows nothing"
    assert settings(hard)[1] < settings(easy)[1]


def test_heads_learn_from_train_and_are_refitted_with_validation() -> None:
    train, validation = clouds(3), clouds(3, seed=9)
    choice = chosen(train, validation, 3)
    standardise, strength = settings(choice)
    scales = choice.chosen["evidence_scale"], choice.chosen["prior_scale"]
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
    alone = choose_head(train, validation, groups, 2, strengths=(0.01,))
    again = np.arange(24).repeat(30 if few else 1), np.arange(12).repeat(30)
    bursts = [(part[0][at], part[1][at]) for part, at in zip((train, validation), again, strict=True)]
    of = groups[0][again[0]], groups[1][again[1]]
    burst = choose_head(bursts[0], bursts[1], of, 2, strengths=(0.01,))

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

    def told(parts: list[LabelledFeatures], *rest: object) -> Head:
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


def test_of_more_photos_or_labels_validation_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns would take five times as long, where a head takes long already."""
    train, validation = clouds(3, 20), clouds(3, 4, seed=9)
    monkeypatch.setattr(room, "FEW", 72 * 3 - 1)
    choice = chosen(train, validation, 3)
    right = float((choice.validation_logits.argmax(1) == validation[1]).mean())
    assert choice.chosen["validation_accuracy"] == right
    loss = choice.chosen["validation_log_loss"]
    assert log_loss(choice.validation_logits, validation[1]) == pytest.approx(loss)
    monkeypatch.setattr(room, "FEW", 72 * 3)
    assert chosen(train, validation, 3).chosen["validation_log_loss"] != pytest.approx(loss)


def test_a_label_of_one_photo_is_learnt_and_not_judged() -> None:
    train, validation = alike(20, 0), alike(4, 1)
    plain = chosen(train, validation, 2)
    train = (np.vstack([train[0], np.zeros(8, np.float32)]), np.append(train[1], 2))
    choice = chosen(train, validation, 3)
    assert choice.chosen["validation_accuracy"] == plain.chosen["validation_accuracy"]
    assert choice.chosen["evidence_scale"] > 1, "what nobody could know makes no answer unsure"


def test_photos_too_few_for_turns_are_judged_by_validation() -> None:
    features = np.eye(4, dtype=np.float32)
    train, validation = (features[:2], np.arange(2)), (features[2:], np.arange(2))
    groups = (np.arange(2), np.arange(2))  # each label is one group, so that no turn has two to learn
    assert len(choose_head(train, validation, groups, 2).validation_logits) == 2


def test_one_label_is_an_error() -> None:
    features, labels = clouds(2, 20)
    with pytest.raises(CatflapError, match="one label only"):
        chosen((features[:20], labels[:20]), (features, labels), 2)


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
    assert choice.chosen["prior_scale"] < 0.7 * choice.chosen["evidence_scale"]
    assert recall > before + 0.02
    shares = np.where(judges[1] == 1, 6, 350)
    losses = [np.average(losses_of(head.logits(judges[0]), judges[1]), weights=shares)
              for head in (choice.refitted, plain)]  # fmt: skip
    assert losses[0] < losses[1]


def test_two_choices_are_bit_equal() -> None:
    one, other = (chosen(clouds(4), clouds(4, seed=9), 4) for _ in range(2))
    assert one.refitted.weights.tobytes() == other.refitted.weights.tobytes()


def test_settings_are_compared_on_a_part_and_the_chosen_one_learns_from_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, validation = clouds(3, 100), clouds(3, 20, seed=1)
    train = (train[0], np.where(np.arange(300) == 7, 3, train[1]))  # one photo of a fourth label
    learnt: list[tuple[int, int]] = []

    def counted(parts: list[LabelledFeatures], *rest: object) -> Head:
        labels = np.concatenate([labels for _, labels in parts])
        learnt.append((len(labels), len(np.unique(labels))))
        return fit_head(parts, *rest)  # type: ignore[arg-type]

    for name, value in (("fit_head", counted), ("MOST_COMPARED", 50), ("FEW", 0)):
        monkeypatch.setattr(room, name, value)
    chosen(train, validation, 4)
    assert set(learnt[:-2]) == {(50, 4)}
    assert learnt[-2:] == [(300, 4), (360, 4)]


def test_of_many_validation_photos_a_part_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 of them, where 60 logits may be looked at; a label of one photo is among them."""
    train, validation = clouds(3, 20), clouds(3, 20, seed=1)
    train, validation = ((part[0], np.where(np.arange(60) == 7, 3, part[1])) for part in (train, validation))
    whole = chosen(train, validation, 4)
    judged = list[np.ndarray]()

    def looked_at(self: Head, features: np.ndarray) -> np.ndarray:
        judged.append(features)
        return features @ self.weights.T + self.bias

    monkeypatch.setattr(Head, "logits", looked_at)
    for name, value in (("MOST_ANSWERS", 60), ("FEW", 0)):
        monkeypatch.setattr(room, name, value)
    choice = chosen(train, validation, 4)
    assert [row["judged_by"] for row in choice.tried] == [15] * len(choice.tried)
    assert [row["judged_by"] for row in whole.tried] == [120] * len(whole.tried), "by turns, of both roles"
    assert all(np.array_equal(one, judged[0]) for one in judged[:-1]), "the same for each setting"
    assert validation[0][7] in judged[0]
    assert len(choice.validation_logits) == 60
