"""The drift test: seldom wrong when nothing changed, quick when something did."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catflap.evaluation.drift_baseline import (
    ALARM,
    MIX,
    WINDOW,
    label_mix,
    log_odds,
    make_baseline,
    measure_drift,
)
from catflap.runtime.decisions import softmax
from tests.matrix import mostly_slow

LABELS = ("cat", "dog", "other")
Floats = npt.NDArray[np.float64]


def answers(
    random: np.random.Generator, count: int, mix: tuple[float, ...] = (0.4, 0.35, 0.25), skill: float = 6.0
) -> Floats:
    """Probabilities of a classifier that is seldom wrong; each label has a confidence of its own."""
    truth = random.choice(3, count, p=mix)
    logits = random.normal(0, 1.5, (count, 3))
    logits[np.arange(count), truth] += skill + truth
    return softmax(logits)


def baseline_of(probabilities: Floats) -> dict[str, object]:
    """A baseline as it comes back from bundle.json."""
    made = make_baseline(probabilities, LABELS, np.arange(len(probabilities)))
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def alarms(count: int, calibration: int, **field: object) -> float:
    """The share of windows that alarm, each with a baseline of its own."""
    random = np.random.default_rng(7)
    found = 0
    for _ in range(count):
        baseline = baseline_of(answers(random, calibration))
        found += measure_drift(answers(random, WINDOW, **field), LABELS, baseline).alarm  # type: ignore[arg-type]
    return found / count


def test_undisturbed_windows_seldom_alarm() -> None:
    assert alarms(300, 400) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("calibration", [60, 400, 5000])
def test_undisturbed_windows_alarm_at_most_once_in_a_hundred(calibration: int) -> None:
    assert alarms(1500, calibration) <= 0.01


@pytest.mark.parametrize("mix", mostly_slow([(0.02, 0.49, 0.49), (0.9, 0.05, 0.05), (0.0, 0.0, 1.0)]))
def test_another_mix_of_the_labels_is_no_drift(mix: tuple[float, ...]) -> None:
    assert alarms(200, 600, mix=mix) <= 0.01


@pytest.mark.parametrize("skill", [4.0, 10.0])
def test_answers_that_are_less_or_more_sure_are_drift(skill: float) -> None:
    assert alarms(50, 400, skill=skill) >= 0.98


def test_the_p_value_is_uniform_without_drift_where_one_label_stands_alone() -> None:
    random = np.random.default_rng(3)
    found = []
    for _ in range(400):
        one, other = (
            np.stack([p := random.uniform(0.51, 0.99, size), 1 - p], axis=1) for size in (2000, WINDOW)
        )
        baseline = make_baseline(one, ("a", "b"), np.arange(len(one)))
        found.append(measure_drift(other, ("a", "b"), baseline).p)
    for share in (0.01, 0.1, 0.5):
        assert np.mean(np.array(found) < share) == pytest.approx(share, abs=0.06)


def test_photos_in_groups_count_once() -> None:
    random = np.random.default_rng(5)
    given = answers(random, 400)
    window = answers(random, WINDOW, skill=5.0)
    alone = measure_drift(window, LABELS, make_baseline(given, LABELS, np.arange(400)))
    grouped = measure_drift(window, LABELS, make_baseline(given, LABELS, np.arange(400) // 10))
    assert alone.distance == grouped.distance
    assert alone.p < grouped.p


@pytest.mark.parametrize(("alone", "bursts"), [(500, (60,)), (300, (40, 40, 20)), (300, (100,))])
def test_one_long_burst_among_the_calibration_photos_is_no_drift(alone: int, bursts: tuple[int, ...]) -> None:
    """All its photos are alike, so that the quantiles lean to them; they count as the few that they are."""
    random, found = np.random.default_rng(9), 0
    groups = np.concatenate([np.arange(alone), np.repeat(alone + np.arange(len(bursts)), bursts)])
    for _ in range(100):
        given = np.concatenate(
            [answers(random, alone), *(np.tile(answers(random, 1), (size, 1)) for size in bursts)]
        )
        baseline = make_baseline(given, LABELS, groups)
        found += measure_drift(answers(random, WINDOW), LABELS, baseline).alarm
    assert found / 100 <= 0.02


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_answers_as_sure_as_can_be_are_no_drift(share: float) -> None:
    """They are all equal, in the baseline and in the field."""
    random, found = np.random.default_rng(12), 0

    def given(count: int) -> Floats:
        made = answers(random, count)
        made[random.random(count) < share] = (1.0, 0.0, 0.0)
        return made

    for _ in range(100):
        found += measure_drift(given(WINDOW), LABELS, baseline_of(given(600))).alarm
    assert found / 100 <= 0.01


def test_the_score_is_one_where_the_alarm_begins() -> None:
    random = np.random.default_rng(1)
    baseline = baseline_of(answers(random, 400))
    for skill in np.linspace(3, 9, 60):
        drift = measure_drift(answers(random, WINDOW, skill=float(skill)), LABELS, baseline)
        assert drift.alarm == (drift.score > 1) == (drift.p < ALARM)


def test_labels_that_were_too_rare_tell_nothing() -> None:
    random = np.random.default_rng(2)
    baseline = baseline_of(answers(random, 300, mix=(0.6, 0.39, 0.01)))
    assert "quantiles" not in baseline["labels"]["other"]  # type: ignore[index]
    assert len(baseline["labels"]["cat"]["quantiles"]) == 101  # type: ignore[index]
    drift = measure_drift(answers(random, WINDOW, mix=(0.5, 0.4, 0.1)), LABELS, baseline)
    assert 150 < drift.photos < 200
    assert not drift.alarm
    assert measure_drift(answers(random, WINDOW, mix=(0, 0, 1)), LABELS, baseline).photos < 5


def test_certain_answers_and_ties_are_no_trouble() -> None:
    certain = np.tile([1.0, 0.0, 0.0], (50, 1))
    assert np.isfinite(log_odds(certain)).all()
    drift = measure_drift(certain, LABELS, baseline_of(certain))
    assert drift.p <= 1
    half = np.tile([0.5, 0.5], (1, 1))
    assert log_odds(half) == pytest.approx(0)
    assert log_odds(np.array([[1 - 1e-8, 1e-8]], np.float32)) == pytest.approx(np.log(1e8), rel=1e-3)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=40),
    st.lists(st.floats(-30, 30), min_size=1, max_size=20),
    st.integers(1, 1000),
)
def test_whatever_a_baseline_holds_there_is_an_answer(
    window: list[list[float]], quantiles: list[float], groups: int
) -> None:
    cat = {"share": 1.0, "groups": groups, "quantiles": quantiles}
    baseline = {"photos": 1, "labels": {"cat": cat, "dog": {"share": 0.0, "groups": 1}}}
    drift = measure_drift(np.array(window), LABELS, baseline)
    assert 0 <= drift.p <= 1
    assert 0 <= drift.distance <= 1 + 1e-9


def statistics(
    random: np.random.Generator, probabilities: Floats, shift: tuple[float, ...] = (0, 0, 0)
) -> Floats:
    """How photos look, which depends on what is on them: dogs are outdoors."""
    place = probabilities.argmax(axis=1)[:, None]
    made = random.normal((0.45, 0.22, 6.0), (0.12, 0.05, 1.0), (len(probabilities), 3))
    found: Floats = made + place * np.array([0.1, 0.02, 0.5]) + np.array(shift)
    return found


def look_alarms(count: int, calibration: int, **field: object) -> float:
    shift = field.pop("shift", (0, 0, 0))
    random = np.random.default_rng(11)
    found = 0
    for _ in range(count):
        given = answers(random, calibration)
        made = make_baseline(given, LABELS, np.arange(calibration), statistics(random, given))
        window = answers(random, WINDOW, **field)  # type: ignore[arg-type]
        seen = statistics(random, window, shift)  # type: ignore[arg-type]
        found += measure_drift(window, LABELS, json.loads(json.dumps(made)), seen).alarm
    return found / count


@pytest.mark.parametrize("calibration", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_all_four_tests_together_alarm_at_most_once_in_a_hundred(calibration: int) -> None:
    assert look_alarms(300, calibration) <= 0.01


def test_another_mix_of_labels_that_look_otherwise_is_no_drift() -> None:
    assert look_alarms(150, 600, mix=(0.02, 0.9, 0.08)) <= 0.01


@pytest.mark.parametrize("shift", [(-0.15, 0, 0), (0, 0.06, 0), (0, 0, -1.2)])
def test_photos_that_look_otherwise_are_drift_though_the_answers_are_the_same(
    shift: tuple[float, ...],
) -> None:
    assert look_alarms(60, 400, shift=shift) >= 0.95


def test_what_has_drifted_most_is_named_and_every_score_told() -> None:
    random = np.random.default_rng(4)
    given = answers(random, 400)
    baseline = make_baseline(given, LABELS, np.arange(400), statistics(random, given))
    window = answers(random, WINDOW)
    drift = measure_drift(window, LABELS, baseline, statistics(random, window, (-0.3, 0, -0.5)))
    assert drift.most == "brightness"
    assert drift.alarm == (drift.score > 1) == (drift.p < ALARM)
    assert set(drift.to_json()["scores"]) == {"confidence", "brightness", "contrast", "sharpness"}
    assert drift.score == max(drift.scores.values())


def test_a_baseline_or_a_log_without_image_statistics_is_compared_as_before() -> None:
    random = np.random.default_rng(6)
    given, window = answers(random, 400), answers(random, WINDOW, skill=5.0)
    plain = make_baseline(given, LABELS, np.arange(400))
    both = make_baseline(given, LABELS, np.arange(400), statistics(random, given))
    unknown = np.full((WINDOW, 3), np.nan)
    alone = measure_drift(window, LABELS, plain)
    assert list(alone.scores) == ["confidence"]
    assert measure_drift(window, LABELS, plain, statistics(random, window)) == alone
    assert measure_drift(window, LABELS, both) == measure_drift(window, LABELS, both, unknown) == alone
    half = statistics(random, given)
    half[50:] = np.nan
    assert (
        make_baseline(given, LABELS, np.arange(400), half)["labels"]["cat"]["image_statistics"]["groups"] < 50
    )


def mix_score(
    random: np.random.Generator, before: float, now: float, burst: int, earlier: int = 600
) -> float:
    """The score of the mix where a share of the photos is cats, in bursts of so many photos."""
    runs = [
        (random.random(-(-count // burst)) > share).repeat(burst)[:count].astype(np.int64)
        for count, share in ((earlier, before), (WINDOW, now))
    ]
    given = np.eye(2)[runs[1]] * 0.98 + 0.01
    baseline = make_baseline(given, ("cat", "other"), np.arange(WINDOW))
    return measure_drift(given, ("cat", "other"), baseline, before=label_mix(runs[0], 2)).scores[MIX]


@pytest.mark.parametrize("burst", [1, 20])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_same_mix_seldom_alarms_in_bursts_too(share: float, burst: int) -> None:
    random = np.random.default_rng(30)
    found = sum(mix_score(random, share, share, burst) > 1 for _ in range(200))
    assert found / 200 <= 0.01 + 3 * 0.007


def test_another_mix_than_before_alarms() -> None:
    random = np.random.default_rng(31)
    assert all(mix_score(random, 0.97, 0.01, burst) > 1 for burst in (1, 20) for _ in range(20))
    assert sum(mix_score(random, 0.3, 0.6, 1) > 1 for _ in range(50)) > 45
    assert mix_score(random, 1.0, 0.0, 1) > 1


def test_a_log_without_a_window_before_has_no_mix() -> None:
    random = np.random.default_rng(32)
    given = answers(random, WINDOW)
    few = label_mix(np.zeros(WINDOW - 1, np.int64), 3)
    assert MIX not in measure_drift(given, LABELS, baseline_of(given), before=few).scores
    assert MIX not in measure_drift(given, LABELS, baseline_of(given)).scores
