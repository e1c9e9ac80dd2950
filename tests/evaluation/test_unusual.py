"""Strangeness: 1 in 100 photos of the same kind is above 1, and a kind that was never learnt is."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest

from catflap.evaluation.conformal import unknown_threshold
from catflap.evaluation.drift_baseline import AXES, WINDOW, make_baseline, measure_drift, ood_baseline
from catflap.runtime.ood import embedding_models, pack, residuals, unit, unpack

LABELS = ("cat", "dog")
WIDE = 64
Vectors = npt.NDArray[np.float32]
KINDS = np.random.default_rng(99).gamma(1.0, 1.0, (3, WIDE)).astype(np.float32)
SPREADS = np.random.default_rng(98).normal(0, 0.25, (3, 6, WIDE)).astype(np.float32)


def photos(random: np.random.Generator, count: int, kind: int) -> Vectors:
    """Embeddings of one kind of thing, positive as after an activation, with the kind's own variety."""
    varied = random.normal(0, 1, (count, 6)) @ SPREADS[kind] + random.normal(0, 0.15, (count, WIDE))
    found: Vectors = np.maximum(KINDS[kind] + varied, 0).astype(np.float32)
    return found


def answers(random: np.random.Generator, kinds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    sure = 1 / (1 + np.exp(-random.normal(5, 1, len(kinds))))
    return np.where(kinds[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])


def window(
    random: np.random.Generator, count: int, unknown: float = 0.0
) -> tuple[npt.NDArray[np.float64], Vectors, npt.NDArray[np.int64]]:
    """Answers, embeddings and answered labels; a share of the photos shows what is no cat and no dog."""
    kinds = random.integers(0, 2, count)
    shown = np.where(random.random(count) < unknown, 2, kinds)
    embeddings = np.empty((count, WIDE), np.float32)
    for kind in range(3):
        embeddings[shown == kind] = photos(random, int((shown == kind).sum()), kind)
    return answers(random, kinds), embeddings, kinds


def alarms(count: int, calibration: int, unknown: float = 0.0) -> float:
    random, found = np.random.default_rng(5), 0
    for _ in range(count):
        given, embeddings, _ = window(random, calibration)
        made = make_baseline(given, LABELS, np.arange(calibration), None, embeddings)
        made = json.loads(json.dumps(made))
        seen, more, kinds = window(random, WINDOW, unknown)
        familiar = embedding_models(made, LABELS)
        strange = [
            known.scores(one[None])[0] if (known := familiar[kind]) else np.nan
            for one, kind in zip(more, kinds, strict=True)
        ]
        found += measure_drift(seen, LABELS, made, None, strange).alarm
    return found / count


@pytest.mark.slow
@pytest.mark.parametrize("calibration", [40, 150, 600])
def test_undisturbed_windows_alarm_at_most_once_in_a_hundred(calibration: int) -> None:
    assert alarms(200, calibration) <= 0.01


@pytest.mark.parametrize("calibration", [60, 300])
def test_a_kind_that_was_never_learnt_is_found_within_200_photos(calibration: int) -> None:
    assert alarms(20, calibration, unknown=0.5) == 1


def test_one_in_a_hundred_is_above_one() -> None:
    random = np.random.default_rng(0)
    entry = ood_baseline(photos(random, 1000, 0), np.arange(1000))
    assert entry is not None
    assert np.mean(entry["ood_score"] > 1) == pytest.approx(0.01, abs=0.002)
    mean, axes = unpack(entry)
    fresh = residuals(photos(random, 2000, 0), mean, axes) / entry["limit"]
    assert np.mean(fresh > 1) == pytest.approx(0.01, abs=0.008)
    assert np.mean(residuals(photos(random, 200, 2), mean, axes) / entry["limit"] > 1) > 0.9


def test_near_duplicates_do_not_make_one_another_familiar() -> None:
    """Ten pictures of each of thirty photos are as strange as the thirty."""
    random = np.random.default_rng(1)
    once = photos(random, 30, 0)
    alone = ood_baseline(once, np.arange(30))
    tenfold = ood_baseline(np.repeat(once, 10, axis=0), np.repeat(np.arange(30), 10))
    assert alone is not None
    assert tenfold is not None
    assert tenfold["groups"] == 30
    assert tenfold["limit"] == pytest.approx(alone["limit"], rel=0.1)


def test_few_calibration_photos_a_label_keep_the_rate_of_unknown() -> None:
    """Eight photos of each of six labels: a scale that they set themselves refuses 1 in 9 new ones."""
    random, accepted = np.random.default_rng(3), []
    for _ in range(40):
        labels = [random.normal(0, 1, 16) for _ in range(6)]

        def photos_of(centre: np.ndarray, count: int) -> np.ndarray:
            return (centre + random.normal(0, 0.5, (count, 16))).astype(np.float32)

        scores, new = [], []
        for centre in labels:
            entry = ood_baseline(photos_of(centre, 8), np.arange(8), photos_of(centre, 40))
            assert entry is not None
            scores.append(entry["ood_score"])
            new.append(residuals(photos_of(centre, 50), *unpack(entry)) / entry["limit"])
        threshold = unknown_threshold(np.concatenate(scores), np.arange(48), 0.05)
        assert threshold is not None
        accepted.append(np.mean(np.concatenate(new) <= threshold))
    assert np.mean(accepted) == pytest.approx(0.96, abs=0.015)


def test_a_label_with_few_calibration_photos_is_scored_by_its_train_photos() -> None:
    """Else a photo of something else that looks most like this label would never be unknown."""
    random = np.random.default_rng(4)
    train, few = photos(random, 200, 0), photos(random, 3, 0)
    assert ood_baseline(few, np.arange(3)) is None
    entry = ood_baseline(few, np.arange(3), train)
    assert entry is not None
    assert entry["groups"] == len(entry["ood_score"]) == 200
    assert np.mean(entry["ood_score"] > 1) == pytest.approx(0.01, abs=0.01)
    assert np.mean(residuals(photos(random, 200, 2), *unpack(entry)) / entry["limit"] > 1) > 0.9
    given = np.tile([0.9, 0.1], (40, 1))
    fitted = {number: photos(random, 30, number) for number in (0, 1)}
    baseline = make_baseline(given, ["a", "b"], np.arange(40), None, photos(random, 40, 0), fitted)
    assert all("embedding" in baseline["labels"][label] for label in "ab"), "b was predicted for no photo"
    drifted = measure_drift(given[:, ::-1], ["a", "b"], baseline, None, np.full(40, 5.0))
    assert drifted.alarm


def test_numbers_survive_as_bytes() -> None:
    random = np.random.default_rng(2)
    mean, axes = unit(random.gamma(1, 1, WIDE)) * 0.8, unit(random.normal(0, 1, (AXES, WIDE)))
    again, axes_again = unpack(json.loads(json.dumps(pack(mean.astype(np.float32), axes))))
    assert np.abs(again - mean).max() < 0.005
    assert np.abs(axes_again - axes).max() < 0.005
    none, no_axes = unpack(pack(np.zeros(5, np.float32), np.zeros((0, 5), np.float32)))
    assert not none.any()
    assert no_axes.shape == (0, 5)


def test_limits_are_half_way_between_a_label_and_the_median_of_all() -> None:
    """A label that varies much would else let through most other things that look like it."""
    random = np.random.default_rng(5)
    spreads, names = (0.1, 0.2, 0.8), ["narrow", "middle", "wide"]
    centre = random.normal(0, 1, (3, 16))
    train = {
        number: (centre[number] + random.normal(0, spread, (100, 16))).astype(np.float32)
        for number, spread in enumerate(spreads)
    }
    few = np.concatenate([train[number][:20] for number in range(3)])
    given = np.repeat(np.eye(3) * 0.9 + 0.03, 20, axis=0)
    together = make_baseline(given, names, np.arange(60), None, few, train)["labels"]
    alone = [ood_baseline(few[20 * n :][:20], np.arange(20), train[n]) for n in range(3)]
    assert all(alone)
    own = np.array([entry["limit"] for entry in alone if entry])
    limits = np.array([together[name]["embedding"]["limit"] for name in names])
    assert limits == pytest.approx(np.sqrt(own * own[1]), abs=2e-6)
    assert limits[0] > own[0]
    assert limits[2] < own[2]
    for number, entry in enumerate(alone):
        assert entry is not None
        most = together[names[number]]["embedding"]["ood_score"][-1] * limits[number]
        assert most == pytest.approx(entry["ood_score"].max() * own[number], rel=1e-3), "the same distances"


@pytest.mark.parametrize("count", [0, 4])
def test_a_label_with_few_photos_tells_nothing(count: int) -> None:
    assert ood_baseline(np.ones((count, 8), np.float32), np.arange(count)) is None
    assert ood_baseline(np.ones((40, 8), np.float32), np.zeros(40, np.int64)) is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_photos_that_are_all_the_same_are_no_trouble(value: float) -> None:
    entry = ood_baseline(np.full((20, 8), value, np.float32), np.arange(20))
    assert entry is not None
    assert np.isfinite(entry["ood_score"]).all()
    (familiar,) = embedding_models({"labels": {"cat": {"embedding": entry}}}, ("cat",))
    assert familiar is not None
    assert familiar.scores(np.full((1, 8), value, np.float32))[0] <= 1


def test_the_same_photos_give_the_same_baseline() -> None:
    embeddings = photos(np.random.default_rng(3), 200, 1)
    made = [
        make_baseline(np.tile([0.1, 0.9], (200, 1)), LABELS, np.arange(200), None, embeddings)
        for _ in range(2)
    ]
    assert json.dumps(made[0]) == json.dumps(made[1])
