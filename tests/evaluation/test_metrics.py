"""Every number against scikit-learn or a slow, plain count; degenerate photos; JSON without NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from catflap.errors import CatflapError, Refused
from catflap.evaluation.calibration import operating_point
from catflap.evaluation.intervals import (
    STUDENT_T,
    allowed_errors,
    binomial_quantile,
    binomial_tails,
    clustered_variance,
    effective_photos,
    groups_needed,
    positive,
    rate,
    wilson,
)
from catflap.evaluation.metrics import measure
from catflap.runtime.decisions import softmax


def answers(n, k, seed=0, shift=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += shift
    return logits, labels, np.arange(n)


@pytest.mark.parametrize(("n", "k"), [(600, 2), (500, 7)])
def test_numbers_are_those_of_scikit_learn(n, k):
    logits, labels, groups = answers(n, k)
    names = [f"label {c}" for c in range(k)]
    found = measure(logits, labels, groups, names)
    p = softmax(logits)
    predicted = p.argmax(axis=1)
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, predicted)
    for c, name in enumerate(names):
        row = found["per_class"][name]
        assert row["precision"]["value"] == pytest.approx(precision[c], abs=1e-6)
        assert row["recall"]["value"] == pytest.approx(recall[c], abs=1e-6)
        assert row["f1"]["value"] == pytest.approx(f1[c], abs=1e-6)
        assert row["support"] == support[c]
        assert row["roc_auc"]["value"] == pytest.approx(
            reference.roc_auc_score(labels == c, p[:, c]), abs=1e-6
        )
    assert found["accuracy"]["value"] == pytest.approx(reference.accuracy_score(labels, predicted), abs=1e-6)
    assert found["macro_f1"]["value"] == pytest.approx(f1.mean(), abs=1e-6)
    assert found["log_loss"]["value"] == pytest.approx(reference.log_loss(labels, p), abs=1e-6)
    area = (
        reference.roc_auc_score(labels, p, multi_class="ovr")
        if k > 2
        else reference.roc_auc_score(labels == 0, p[:, 0])
    )
    assert found["roc_auc"]["value"] == pytest.approx(area, abs=1e-6)
    matrix = reference.confusion_matrix(labels, predicted)
    assert found["confusion_matrix"]["photos"] == matrix.tolist()
    assert (found["photos"], found["groups"]) == (n, n)


def test_probabilities_and_logits_give_the_same_numbers():
    logits, labels, groups = answers(300, 3)
    names = ["a", "b", "c"]
    assert measure(logits, labels, groups, names) == measure(softmax(logits), labels, groups, names)


def test_calibration_error_is_that_of_the_definition():
    logits, labels, groups = answers(400, 4)
    p = softmax(2 * logits)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = measure(p, labels, groups, list("abcd"))["calibration_error"]
    assert found["value"] == pytest.approx(expected, abs=1e-6)
    assert found["low"] <= found["value"] <= found["high"]


def test_recall_at_a_false_positive_rate_is_that_of_the_roc_curve():
    logits, labels, groups = answers(3000, 2)
    found = measure(logits, labels, groups, ["cat", "other"])["per_class"]
    p = softmax(logits)
    for c, name in enumerate(("cat", "other")):
        fpr, tpr, _ = reference.roc_curve(labels == c, p[:, c], drop_intermediate=False)
        for limit in ("0.01", "0.001"):
            assert found[name]["recall_at_fpr"][limit]["value"] == pytest.approx(
                tpr[fpr <= float(limit)].max(), abs=1e-6
            )


def test_a_rate_that_the_photos_cannot_show_says_so():
    logits, labels, groups = answers(100, 2)
    point = measure(logits, labels, groups, ["cat", "other"])["per_class"]["cat"]["recall_at_fpr"]["0.001"]
    assert (point["low"], point["high"]) == (None, None)
    assert "an interval at 0.1 % needs 3,574 independent photos" in point["reason"]
    assert point["false_positive_rate"]["value"] == 0
    assert point["false_positive_rate"]["high"] > 0.05


def test_copies_of_photos_do_not_narrow_an_interval():
    logits, labels, groups = answers(200, 3)
    names = ["a", "b", "c"]
    once = measure(logits, labels, groups, names)
    copied = measure(np.repeat(logits, 5, axis=0), np.repeat(labels, 5), np.repeat(groups, 5) * 17 - 9, names)
    assert copied["photos"] == 1000
    assert copied["groups"] == 200
    for name in ("accuracy", "macro_f1", "roc_auc", "log_loss"):
        assert copied[name] == pytest.approx(once[name], abs=2e-6)
    assert copied["per_class"] == {
        label: {
            key: pytest.approx(value, abs=2e-6) if isinstance(value, dict) else 5 * value
            for key, value in row.items()
        }
        for label, row in once["per_class"].items()
    }


def test_the_same_seed_gives_the_same_bytes():
    logits, labels, groups = answers(300, 2)
    first, again, other = (
        json.dumps(measure(logits, labels, groups, ["a", "b"], seed=s), allow_nan=False) for s in (3, 3, 4)
    )
    assert first == again
    assert first != other


def numbers(value):
    """Every {"value", "low", "high"} in a nest of dicts and lists."""
    if isinstance(value, dict):
        if {"value", "low", "high"} <= set(value) and not isinstance(value["value"], list):
            yield value
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)


DEGENERATE = {
    "no photo": (np.zeros((0, 2)), [], []),
    "one photo": (np.array([[2.0, 0.0]]), [0], [5]),
    "one label": (np.random.default_rng(0).normal(size=(40, 2)), [1] * 40, range(40)),
    "ties everywhere": (np.full((40, 2), 0.5), [0, 1] * 20, range(40)),
    "all right": (np.eye(2)[[0, 1] * 20], [0, 1] * 20, range(40)),
    "all wrong": (np.eye(2)[[1, 0] * 20], [0, 1] * 20, range(40)),
    "one group": (np.random.default_rng(1).normal(size=(40, 2)), [0, 1] * 20, [3] * 40),
    "huge logits": (np.array([[1e30, -1e30], [-1e30, 1e30]] * 9), [0, 0] * 9, range(18)),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_degenerate_photos_give_null_and_a_reason(case):
    scores, labels, groups = DEGENERATE[case]
    found = measure(scores, np.array(labels, int), np.array(groups, int), ["cat", "not a cat"])
    json.dumps(found, allow_nan=False)
    for number in numbers(found):
        if number["low"] is None:
            assert number["high"] is None
            assert number["reason"]
        else:
            assert number["low"] <= number["value"] <= number["high"]


def test_what_is_null_is_only_what_the_photos_cannot_give():
    scores, labels, groups = DEGENERATE["one label"]
    found = measure(scores, np.array(labels), np.array(groups), ["cat", "not a cat"])
    assert found["roc_auc"]["value"] is None
    assert found["per_class"]["cat"]["recall"] == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "no photo has this label",
    }
    assert found["per_class"]["not a cat"]["recall"]["value"] is not None
    assert found["confusion_matrix"]["value"][0] is None


def test_no_mistake_is_not_certainty():
    scores, labels, groups = DEGENERATE["all right"]
    found = measure(scores, np.array(labels), np.array(groups), ["cat", "not a cat"])
    for name in ("accuracy", "macro_f1", "roc_auc"):
        assert found[name]["value"] == 1
        assert 0.8 < found[name]["low"] < 0.95


@pytest.mark.parametrize(
    ("scores", "labels", "groups", "names"),
    [
        (np.zeros((3, 2)), [0, 1], [0, 1], ["a", "b"]),
        (np.zeros((2, 3)), [0, 1], [0, 1], ["a", "b"]),
        (np.zeros((2, 2)), [0, 2], [0, 1], ["a", "b"]),
        (np.zeros((2, 2)), [0, -1], [0, 1], ["a", "b"]),
        (np.zeros((2, 2)), [0, 1], [0], ["a", "b"]),
        (np.zeros((2, 2)), [0, 1], [0, 1], ["a", "a"]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(scores, labels, groups, names):
    with pytest.raises(CatflapError) as caught:
        measure(scores, np.array(labels), np.array(groups), names)
    assert caught.value.fix


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_model_that_gives_no_numbers_is_refused(bad):
    scores = np.zeros((4, 2))
    scores[2, 1] = bad
    with pytest.raises(Refused):
        measure(scores, np.zeros(4, int), np.arange(4), ["a", "b"])


def test_a_thousand_labels_give_a_short_answer():
    logits, labels, groups = answers(4000, 300, shift=3)
    found = measure(logits, labels, groups, [str(c) for c in range(300)])
    assert found["confusion_matrix"] is None
    assert len(found["confusions"]) == 100
    frequent = [row["photos"] for row in found["confusions"]]
    assert frequent == sorted(frequent, reverse=True)
    wrong = logits.argmax(axis=1) != labels
    top = found["confusions"][0]
    same = (labels == int(top["true"])) & (logits.argmax(axis=1) == int(top["predicted"])) & wrong
    assert same.sum() == top["photos"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_set_gives_sound_numbers(data):
    n, k = data.draw(st.integers(0, 12)), data.draw(st.integers(2, 4))
    cells = st.lists(st.floats(-30, 30), min_size=n * k, max_size=n * k)
    logits = np.round(np.array(data.draw(cells)), data.draw(st.integers(0, 2))).reshape(n, k)
    labels = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)), int)
    groups = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), int)
    found = measure(logits, labels, groups, list("abcd"[:k]))
    json.dumps(found, allow_nan=False)
    for number in numbers(found):
        assert (
            number["value"] is None
            or number["low"] is None
            or (number["low"] <= number["value"] <= number["high"])
        )


def test_wilson_is_that_of_scipy():
    for hits, photos in ((0, 10), (3, 10), (10, 10), (999, 1000)):
        expected = stats.binomtest(hits, photos).proportion_ci(method="wilson")
        low, high = wilson(hits / photos, photos)
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_value_of_zero_has_no_interval_on_the_log_scale():
    found = positive(0.0, np.array([0.1, -0.2, 0.1]), np.arange(3))
    assert (found["value"], found["low"], found["high"]) == (0.0, None, None)


def test_student_table_is_that_of_scipy():
    for freedom, reach in STUDENT_T.items():
        assert reach == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-5)


@pytest.mark.parametrize("carriers", [2, 3, 4, 5, 6, 8, 10, 15, 30, 60])
def test_as_many_groups_as_carry_the_variance_are_the_degrees_of_freedom(carriers):
    """Groups of two photos that err alike carry equal parts; others carry nothing."""
    influence = np.repeat(np.append(np.tile([0.1, -0.1], carriers)[:carriers], np.zeros(9)), 2)
    variance, reach = clustered_variance(influence, np.repeat(np.arange(carriers + 9), 2))
    assert variance == pytest.approx(carriers * 0.2**2 * (carriers + 9) / (carriers + 8))
    assert reach == pytest.approx(stats.t.ppf(0.975, carriers), abs=1e-5)


def test_the_interval_of_a_rate_is_wilsons_at_the_sample_size_of_its_variance():
    """Of 40 bursts of five photos that are alike 12 are right: as 39 photos, whatever is said otherwise."""
    right = np.repeat(np.arange(40) < 12, 5).astype(float)
    bursts = np.repeat(np.arange(40), 5)
    found = rate(0.3, (right - 0.3) / 200, bursts, 200)
    shares = np.where(np.arange(40) < 12, 0.7, 0.3) ** 2  # of the variance
    reach = np.interp(1 / (shares.sum() ** 2 / (shares**2).sum()), [1 / 30, 1 / 15], [2.042272, 2.131450])
    low, high = wilson(0.3, 39, reach)
    assert (found["low"], found["high"]) == pytest.approx((float(low), float(high)), abs=1e-6)


def test_a_rate_of_one_keeps_the_sample_size_that_is_stated():
    """Its own is nothing: p (1 - p) is zero."""
    found = rate(1.0, np.tile([0.001, -0.001], 30), np.arange(60), 60)
    assert found["low"] == pytest.approx(60 / (60 + stats.t.ppf(0.975, 60) ** 2), abs=1e-5)


@pytest.mark.parametrize(("rate", "confidence"), [(0.5, 0.5), (0.01, 0.95), (0.2, 0.9), (0.001, 0.95)])
def test_the_least_groups_that_prove_a_rate_may_not_err(rate, confidence):
    """Also where they prove it just so: one in two, with one group, half of the time."""
    groups = groups_needed(rate, confidence)
    assert allowed_errors(groups, rate, confidence) == 0
    assert groups == 1 or allowed_errors(groups - 1, rate, confidence) is None


@pytest.mark.parametrize(("trials", "count"), [(1, 1), (7, 3), (40, 21)])
def test_a_binomial_quantile_is_where_scipys_tail_is(trials, count):
    tail = stats.binom.sf(count - 1, trials, 0.5)
    assert binomial_quantile(trials, 0.5, tail) == pytest.approx(count)
    between = (tail + stats.binom.sf(count - 2, trials, 0.5)) / 2
    assert binomial_quantile(trials, 0.5, between) == pytest.approx(count - 0.5)


@pytest.mark.parametrize("groups", [[0] * 10, [0] * 5 + [1] * 5])
def test_photos_that_are_all_alike_leave_the_interval_open(groups):
    """What rounding leaves of a variance that is zero is no certainty."""
    scores = np.tile(np.random.default_rng(1).dirichlet([1, 1], 5), (2, 1))
    found = measure(scores, np.array([0, 1, 1, 0, 1] * 2), np.array(groups), ("cat", "other"))
    for name in ("macro_f1", "log_loss"):
        low, high = found[name]["low"], found[name]["high"]
        assert low is None or high - low > 0.1, name


def test_effective_photos_of_equal_groups_are_the_groups():
    keys, groups = np.array([0] * 6 + [1] * 4), np.array([0, 0, 1, 1, 2, 2, 7, 7, 7, 7])
    assert effective_photos(keys, groups, 3).tolist() == [3.0, 1.0, 0.0]
    unequal = effective_photos(np.zeros(104, int), np.r_[np.zeros(100, int), [1, 2, 3, 4]], 1)
    assert unequal[0] == pytest.approx(104**2 / (100**2 + 4))


def test_operating_points_reach_what_is_stated_and_no_less_than_they_can():
    logits, labels, _ = answers(2000, 2)
    scores, positives = softmax(logits)[:, 0], labels == 0
    few = operating_point(scores, positives, max_fpr=0.05)
    assert few["proven"]
    assert few["missing"] == 0
    allowed = allowed_errors(few["negatives"], 0.05)
    assert few["false_positive_rate"]["value"] * few["negatives"] == pytest.approx(allowed, abs=0.01)
    many = operating_point(scores, positives, min_recall=0.95)
    assert many["recall"]["value"] >= 0.95
    assert (1 - many["recall"]["value"]) * many["positives"] == pytest.approx(
        allowed_errors(many["positives"], 0.05), abs=0.01
    )


@pytest.mark.parametrize(("goal", "value"), [("max_fpr", 0.001), ("min_recall", 0.999)])
def test_too_few_photos_say_how_many_are_missing(goal, value):
    logits, labels, _ = answers(300, 2)
    scores, positives = softmax(logits)[:, 0], labels == 0
    point = operating_point(scores, positives, **{goal: value})
    photos = int((positives if goal == "min_recall" else ~positives).sum())
    assert not point["proven"]
    assert point["groups"] == photos
    assert point["missing"] == 2995 - photos
    assert allowed_errors(2995, 0.001) == 0
    assert allowed_errors(2994, 0.001) is None


def test_a_rate_of_zero_is_proven_by_no_number_of_photos():
    logits, labels, _ = answers(300, 2)
    point = operating_point(softmax(logits)[:, 0], labels == 0, max_fpr=0.0)
    assert point["missing"] is None
    assert not point["proven"]
    assert point["false_positive_rate"]["value"] == 0


@pytest.mark.parametrize(("trials", "probability"), [(1, 0.5), (50, 0.01), (3000, 0.001), (400, 0.7)])
def test_binomial_tails_are_scipys(trials, probability):
    tails = binomial_tails(trials, probability)
    expected = stats.binom.sf(np.arange(len(tails)) - 1, trials, probability)
    np.testing.assert_allclose(tails, expected, atol=1e-12)
    assert len(tails) == trials + 1 or tails[-1] < 1e-12


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0, 20.0])
def test_the_cost_ratio_gives_the_least_cost(ratio):
    logits, labels, _ = answers(300, 2)
    scores, positives = np.round(softmax(logits)[:, 0], 2), labels == 0
    point = operating_point(scores, positives, cost_ratio=ratio)

    def cost(threshold):
        taken = scores >= threshold
        return (taken & ~positives).sum() + ratio * (~taken & positives).sum()

    reached = cost(np.inf if point["threshold"] is None else point["threshold"])
    assert reached == min(cost(threshold) for threshold in [*np.unique(scores), np.inf])


@pytest.mark.parametrize("positives", [[True, False, False], [True, True, True]])
def test_where_every_false_positive_is_allowed_or_none_can_be_each_photo_gets_the_label(positives):
    point = operating_point([0.2, 0.5, 0.9], positives, max_fpr=1.0)
    assert (point["threshold"], point["recall"]["value"], point["proven"]) == (0.2, 1.0, True)


def test_an_operating_point_without_photos_or_with_ties_has_no_threshold():
    assert operating_point([], np.zeros(0, bool), cost_ratio=2.0)["threshold"] is None
    tied = operating_point(np.full(10, 0.5), np.arange(10) < 5, max_fpr=0.1)
    assert tied["threshold"] is None
    assert tied["recall"]["value"] == 0
    assert tied["precision"]["reason"]
    empty = operating_point(np.zeros(0), np.zeros(0, bool), min_recall=0.9)
    assert empty["threshold"] is None
    json.dumps([tied, empty], allow_nan=False)


@pytest.mark.parametrize(
    "wish", [{}, {"max_fpr": 0.1, "min_recall": 0.9}, {"max_fpr": 1.5}, {"cost_ratio": -1}]
)
def test_an_operating_point_needs_one_wish(wish):
    with pytest.raises(CatflapError):
        operating_point(np.array([0.1, 0.9]), np.array([False, True]), **wish)
