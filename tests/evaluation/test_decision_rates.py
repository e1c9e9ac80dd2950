"""Rates of decided, right, wrong and unsure photos, counted by hand; points as the Classifier decides."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from catflap.evaluation.decision_rates import (
    decision_rates,
    in_words,
    many_unsure,
    mean_size,
    point_decisions,
    sets_in_words,
)

NAMES = ["cat", "dog", "fox"]
SAID = ["cat", "cat", "dog", "unsure", "fox", "unknown", "dog", "dog"]
TRUTH = np.array([0, 0, 0, 1, 2, 2, 1, 0])


def test_rates_are_the_counts() -> None:
    rates = decision_rates(SAID, TRUTH, np.arange(8), NAMES)
    assert rates["counts"] == {"right": 4, "wrong": 2, "unsure": 1, "unknown": 1}
    shares = {name: rates[name]["value"] for name in ("decided", "right", "wrong", "unsure", "unknown")}
    assert shares == {"decided": 0.75, "right": 0.5, "wrong": 0.25, "unsure": 0.125, "unknown": 0.125}
    assert rates["wrong_when_decided"]["value"] == pytest.approx(2 / 6, abs=1e-6)
    cat = rates["per_label"]["cat"]
    assert (cat["photos"], cat["predicted"]) == (4, 2)
    assert cat["counts"] == {"right": 2, "wrong": 2, "unsure": 0, "unknown": 0}
    assert json.loads(json.dumps(rates, allow_nan=False)) == rates
    assert in_words(rates) == "Of 8 photos: 6 decided, 2 of them wrong, 1 unsure, 1 unknown."


def test_copies_of_a_photo_do_not_narrow_an_interval() -> None:
    once = decision_rates(SAID, TRUTH, np.arange(8), NAMES)
    copied = decision_rates(SAID * 5, np.tile(TRUTH, 5), np.tile(np.arange(8), 5), NAMES)
    assert copied["wrong"] == once["wrong"]
    assert copied["groups"] == once["groups"] == 8
    apart = decision_rates(SAID * 5, np.tile(TRUTH, 5), np.arange(40), NAMES)
    assert apart["wrong"]["high"] < once["wrong"]["high"]


def test_no_photos_and_labels_without_photos_have_a_reason() -> None:
    empty = decision_rates([], np.zeros(0, int), np.zeros(0, int), NAMES)
    assert empty["wrong"]["value"] is None
    assert empty["wrong"]["reason"]
    assert in_words(empty) == "There are no photos."
    assert many_unsure(empty) == ""
    refused = decision_rates(["unsure"], np.array([0]), np.array([0]), NAMES)
    assert refused["wrong_when_decided"]["reason"] == "no photo was decided"
    assert "100 % are unsure" in many_unsure(refused)


def test_a_point_decides_its_label_or_the_likeliest_other() -> None:
    probabilities = np.array([[0.3, 0.5, 0.2], [0.29, 0.31, 0.4], [0.9, 0.05, 0.05]])
    point = {"label": "cat", "threshold": 0.3}
    assert point_decisions(point, probabilities, NAMES) == ["cat", "fox", "cat"]


def test_of_two_sizes_the_interval_of_their_mean_is_agresti_and_coulls() -> None:
    counts = np.array([1] * 80 + [2] * 20)
    found = mean_size(counts, np.arange(100), 2)
    share = (20 + 2) / (100 + 4)
    half = 1.959964 * math.sqrt(share * (1 - share) / (100 + 4))
    assert found["value"] == 1.2
    assert found["low"] == pytest.approx(1 + share - half, abs=0.003)
    assert found["high"] == pytest.approx(1 + share + half, abs=0.003)


def test_copies_of_photos_change_no_interval_of_a_mean_size() -> None:
    counts = np.array([1] * 13 + [2] * 5 + [4] * 2)
    twice = mean_size(np.repeat(counts, 2), np.repeat(np.arange(20), 2), 4)
    assert twice == mean_size(counts, np.arange(20), 4)


def test_photos_of_a_group_whose_sets_differ_as_any_two_do_count_singly() -> None:
    """Of 100 pairs 64 have sets of 1 and 1 label, 32 of 1 and 2, 4 of 2 and 2: as single photos by chance."""
    counts = np.repeat([[1, 1], [1, 2], [2, 2]], [64, 32, 4], axis=0).ravel()
    found = mean_size(counts, np.repeat(np.arange(100), 2), 2)
    share = (0.2 * 198 + 2) / (198 + 4)
    half = 1.959964 * math.sqrt(share * (1 - share) / (198 + 4))
    assert (found["low"], found["high"]) == pytest.approx((1 + share - half, 1 + share + half), abs=1e-6)


def test_sets_are_stated_with_what_they_reached() -> None:
    covered = {"value": 0.96, "low": 0.9, "high": 0.98}
    sets = {"threshold": 0.12, "error_rate": 0.05, "covered": covered, "mean_size": {"value": 1.25}}
    words = sets_in_words({**sets, "sizes": {"1": 80, "2": 15, "3": 5}})
    assert "at least 95 % of photos" in words
    assert "of 100 test photos 96.0 % (90.0 to 98.0 %), with 1.25 labels on average" in words
    assert "80 sets of one label" in words
