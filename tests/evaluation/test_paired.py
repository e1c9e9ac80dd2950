"""Paired differences hold the truth; the verdict needs proof, and no label or slice may be sacrificed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from catflap.errors import CatflapError
from catflap.evaluation.intervals import holm
from catflap.evaluation.paired import change_kinds, compare_decisions, paired_difference

NAMES = ("cat", "other")


def two_models(rng, groups, wrong_a, wrong_b, shared=0.3):
    """Errors of two models on photos in groups of 1 to 4, a quarter of them more than one, as in scans."""
    sizes = 1 + (rng.random(groups) < 0.25) * rng.integers(1, 4, groups)
    owners = np.repeat(np.arange(groups), sizes)
    common = rng.normal(0, shared**0.5, groups)
    errors = []
    for rate in (wrong_a, wrong_b):
        own = rng.normal(0, (1 - shared) ** 0.5, groups)
        score = 0.9**0.5 * (common + own)[owners] + rng.normal(0, 0.1**0.5, len(owners))
        errors.append(score < stats.norm.ppf(rate))
    return errors[0], errors[1], owners


@pytest.mark.parametrize(
    ("groups", "wrong_a", "wrong_b"),
    [(60, 0.1, 0.12), (150, 0.05, 0.05), (500, 0.02, 0.03), (2000, 0.01, 0.01), (2000, 0.003, 0.003)],
)
def test_the_interval_of_a_difference_holds_the_truth(groups, wrong_a, wrong_b):
    """95 to 98 % in 1,000 sets each; here 300, whose standard error is 0.013."""
    rng, held = np.random.default_rng(20), 0
    for _ in range(300):
        a, b, owners = two_models(rng, groups, wrong_a, wrong_b)
        found = paired_difference(b.astype(int) - a, owners)
        held += found["low"] <= wrong_b - wrong_a <= found["high"]
    assert held / 300 > 0.95 - 3 * 0.013


def test_holm_is_the_published_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def decisions(truth, wrong, unsure=()):
    words = list(truth)
    for place in wrong:
        words[place] = "other" if truth[place] == "cat" else "cat"
    for place in unsure:
        words[place] = "unsure"
    return words


def compare(truth, before, after, groups=None, slices=None, margin=0.01):
    found = compare_decisions(
        before, after, truth, np.arange(len(truth)) if groups is None else groups, NAMES, slices or {}, margin
    )
    json.dumps(found, allow_nan=False)
    return found


TRUTH = ["cat", "other"] * 1000


def test_the_same_decisions_may_replace_where_the_photos_are_enough():
    found = compare(TRUTH, TRUTH, TRUTH)
    assert (found["verdict"], found["changed"], found["needed"]) == ("yes", 0, None)
    few = compare(TRUTH[:100], TRUTH[:100], TRUTH[:100])
    assert few["verdict"] == "not shown"
    enough = few["needed"]
    assert compare(TRUTH[:enough], TRUTH[:enough], TRUTH[:enough])["verdict"] == "yes"
    assert "independent photos would" in few["why"]


def test_copies_of_few_photos_prove_nothing():
    assert compare(TRUTH, TRUTH, TRUTH, groups=np.arange(2000) // 20)["verdict"] == "not shown"


def test_more_wrong_decisions_are_refused_and_so_are_fewer_right_ones():
    worse = compare(TRUTH, decisions(TRUTH, range(10)), decisions(TRUTH, range(80)))
    assert worse["verdict"] == "no"
    assert worse["wrong"]["difference"]["value"] == 0.035
    silent = compare(TRUTH, decisions(TRUTH, range(10)), decisions(TRUTH, range(10), range(10, 80)))
    assert silent["verdict"] == "no"
    assert silent["wrong"]["difference"]["value"] == 0
    assert "fewer right decisions" in silent["why"]
    assert compare(TRUTH, decisions(TRUTH, range(80)), TRUTH)["verdict"] == "yes"


def test_a_slice_may_not_pay_for_the_rest():
    night = np.arange(2000) < 60
    before, after = decisions(TRUTH, range(1000, 1040)), decisions(TRUTH, range(20))
    found = compare(TRUTH, before, after, slices={"folder night": night})
    assert found["wrong"]["difference"]["value"] < 0
    assert (found["verdict"], found["worse"]) == ("no", ["folder night"])
    assert compare(TRUTH, before, after)["verdict"] == "yes"


def test_kinds_of_change():
    kinds = change_kinds(
        ["cat", "cat", "unsure", "other", "unsure", "unsure"],
        ["cat", "unsure", "cat", "third", "other", "unknown"],
        ["cat"] * 6, ("cat", "other", "third"),
    )  # fmt: skip
    assert kinds == ["same", "worse", "better", "other", "worse", "other"]


def test_other_photos_and_impossible_margins_are_errors():
    with pytest.raises(CatflapError, match="same photos"):
        compare(TRUTH, TRUTH[:-1], TRUTH)
    with pytest.raises(CatflapError, match="The margin is 0"):
        compare(TRUTH, TRUTH, TRUTH, margin=0)
