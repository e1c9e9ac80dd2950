"""Folds, wrong labels, outliers and same pictures, each on its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catflap.curation import out_of_fold as room
from catflap.curation.audit import make_pool, most_like
from catflap.curation.out_of_fold import (
    _sample,
    assign_folds,
    confusions,
    distances,
    fit_space,
    outlier_scores,
    wrong_labels,
)
from catflap.curation.suspects import mixed, same_picture, two_labels
from catflap.data.phash import MIRROR


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_near_duplicates_share_a_fold_and_every_label_is_in_every_fold(data: st.DataObject) -> None:
    classes = data.draw(st.integers(2, 4))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=classes * 4, max_size=80))
    groups = np.repeat(np.arange(len(sizes)) * 7, sizes)
    labels = np.repeat(np.arange(len(sizes)) % classes, sizes)
    folds = assign_folds(labels, groups, classes, data.draw(st.integers(0, 9)))
    for group in np.unique(groups):
        assert len(set(folds[groups == group].tolist())) == 1
    counts = [
        {label: len(set(groups[(labels == label) & (folds == fold)].tolist())) for label in range(classes)}
        for fold in range(int(folds.max()) + 1)
    ]
    for label in range(classes):
        spread = [count[label] for count in counts]
        assert min(spread) >= 1
        assert max(spread) - min(spread) <= 1


def test_the_deal_and_the_sample_go_label_by_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups of each label in the order that was drawn, on from where the last one ended."""
    labels = np.random.default_rng(0).integers(0, 7, 500)
    drawn = np.random.default_rng(3).permutation(500)
    order = np.concatenate([drawn[labels[drawn] == label] for label in range(8)])
    assert assign_folds(labels, np.arange(500), 8, 3)[order].tolist() == [place % 2 for place in range(500)]
    monkeypatch.setattr(room, "FITTED", 90)
    firsts = np.concatenate([np.flatnonzero(labels == label)[:11] for label in range(8)])
    assert _sample(labels, 8).tolist() == sorted(firsts.tolist())


def test_the_deal_depends_on_the_seed_and_nothing_else() -> None:
    labels, groups = np.arange(60) % 2, np.arange(60)
    assert np.array_equal(assign_folds(labels, groups, 2, 1), assign_folds(labels, groups, 2, 1))
    assert not np.array_equal(assign_folds(labels, groups, 2, 1), assign_folds(labels, groups, 2, 2))


@pytest.mark.parametrize("classes", [2, 5])
def test_planted_wrong_labels_are_found_and_counted(classes: int) -> None:
    dice = np.random.default_rng(classes)
    true = np.arange(2000) % classes
    message = dice.dirichlet(np.ones(classes), 2000) * 0.3
    message[np.arange(2000), true] += 0.7
    labels = true.copy()
    labels[:60] = (true[:60] + 1) % classes
    found = wrong_labels(labels, message.astype(np.float32))
    assert found[:60].mean() >= 0.9
    assert found[60:].mean() <= 0.005
    joint = confusions(labels, message.astype(np.float32))
    assert joint.sum() == 2000
    assert 50 <= joint.sum() - np.trace(joint) <= 70


def test_what_lies_far_from_its_label_is_an_outlier() -> None:
    dice = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    features = dice.normal(0, 1, (1000, 40)).astype(np.float32) + 3 * labels[:, None]
    features[:8] += dice.normal(0, 6, (8, 40))
    space = fit_space(features, labels, 2)
    score = outlier_scores(distances(space, features, labels))
    assert (score[:8] >= 0.5).all()
    assert (score[8:] >= 0.5).sum() == 0
    assert score.min() == 0
    assert score.max() < 1


def test_photos_that_are_all_alike_have_no_outlier() -> None:
    features = np.ones((40, 16), np.float32)
    labels = np.arange(40) % 2
    score = outlier_scores(distances(fit_space(features, labels, 2), features, labels))
    assert score.tolist() == [0.0] * 40


def test_groups_of_two_labels_are_mixed() -> None:
    labels = np.array([0, 1, 0, 0, 1, 1, 0])
    groups = np.array([5, 5, 7, 7, 9, -1, -1])
    assert mixed(labels, groups).tolist() == [0, 1]
    assert mixed(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_only_near_hashes_of_a_group_show_the_same() -> None:
    base = 0x0123456789ABCDEF
    hashes = np.array([base, base ^ 0b101, base ^ MIRROR, base ^ 0xFFFF0000, base], np.uint64)
    groups, labels = np.array([1, 1, 1, 1, 2]), np.array([0, 1, 0, 1, 1])
    assert {*zip(*map(np.ndarray.tolist, same_picture(groups, hashes)), strict=True)} == {
        (0, 1),
        (0, 2),
        (1, 2),
    }
    assert {*zip(*map(np.ndarray.tolist, two_labels(labels, groups, hashes)), strict=True)} == {
        (0, 1),
        (1, 2),
    }
    assert [len(part) for part in same_picture(groups[:1], hashes[:1])] == [0, 0]


def test_the_most_like_are_of_the_label_and_of_other_groups() -> None:
    angles = np.radians([0, 1, 2, 3, 4, 50])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels, groups = np.array([0, 0, 0, 0, 1, 0]), np.array([0, 0, 1, 1, 2, 3])
    pool = make_pool(np.arange(6) + 100, features, labels, groups)
    assert most_like(pool, features[0], 0, 0, 3) == [102, 105]
    assert most_like(pool, features[0], 1, 0, 3) == [104]
    assert most_like(pool, features[0], 7, 0, 3) == []
