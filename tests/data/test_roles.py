"""Roles: whole groups, exact shares, and no way from test to train."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catflap.data.roles import (
    FEW_SHARES,
    NONE,
    ORDER,
    SHARES,
    assign,
    check_shares,
    draws,
    mix,
    shares,
    usual_shares,
)
from catflap.errors import CatflapError

TEST, TRAIN = ORDER.index("test"), ORDER.index("train")


def photos(seed: int, count: int, labels: int, largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random ids, labels and groups: group after group of 1 to `largest` photos of one label."""
    dice = np.random.default_rng(seed)
    sizes = dice.integers(1, largest + 1, count)
    group = np.repeat(np.arange(count), sizes)[:count]
    label = dice.integers(0, labels, count)[group]
    return dice.integers(0, 2**64, count, dtype=np.uint64), label, group


def roles_of(ids: np.ndarray, label: np.ndarray, group: np.ndarray, seed: int = 0) -> np.ndarray:
    drawn = draws(ids, np.full(len(ids), -1), [], seed)
    return assign(label, group, drawn, SHARES).roles


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(400, 3000), st.integers(2, 5), st.integers(1, 3))
def test_shares_are_met_within_one_group_and_groups_are_whole(
    seed: int, count: int, labels: int, largest: int
) -> None:
    ids, label, group = photos(seed, count, labels, largest)
    roles = roles_of(ids, label, group)
    for number in range(labels):
        mine = roles[label == number]
        slack = largest + (0 if len(mine) >= 300 and largest == 1 else 0.02 * len(mine) + 4)
        for code, role in enumerate(ORDER):
            assert abs((mine == code).sum() - SHARES[role] * len(mine)) <= slack
    first = np.full(group.max() + 1, -1)
    first[group] = roles
    assert (first[group] == roles).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(200, 1500), st.integers(1, 1500))
def test_adding_photos_never_moves_an_old_one_from_test_to_train(seed: int, count: int, more: int) -> None:
    ids, label, group = photos(seed, count + more, 2, 1)
    before = roles_of(ids[:count], label[:count], group[:count])
    after = roles_of(ids, label, group)[:count]
    assert not ((before == TEST) & (after == TRAIN)).any()
    assert not ((before == TRAIN) & (after == TEST)).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(300, 1500))
def test_copies_added_to_test_photos_do_not_pull_them_into_train(seed: int, count: int) -> None:
    """A group that grows, and two groups that a new photo joins, only move towards test."""
    ids, label, group = photos(seed, count, 2, 1)
    before = roles_of(ids, label, group)
    dice = np.random.default_rng(seed)
    grown = np.flatnonzero(before == TEST)[:20]
    bridged = np.stack([grown[:5], np.flatnonzero(before == TRAIN)[:5]])
    group = group.copy()
    group[bridged[1]] = group[bridged[0]]
    label[bridged[1]] = label[bridged[0]]
    new = dice.integers(0, 2**64, len(grown), dtype=np.uint64)
    after = roles_of(
        np.concatenate([ids, new]),
        np.concatenate([label, label[grown]]),
        np.concatenate([group, group[grown]]),
    )
    assert not ((before == TEST) & (after[:count] == TRAIN)).any()


def test_small_labels_fill_every_role() -> None:
    for seed in range(200):
        ids, label, group = photos(seed, 24, 2, 1)
        roles = roles_of(ids, label, group)
        for number in range(2):
            if (label == number).sum() >= 4:
                assert set(roles[label == number].tolist()) == {0, 1, 2, 3}


def test_roles_depend_on_ids_and_the_seed_but_not_on_order() -> None:
    ids, label, group = photos(3, 1000, 3, 1)
    roles = roles_of(ids, label, group)
    shuffled = np.random.default_rng(1).permutation(1000)
    assert (roles_of(ids[shuffled], label[shuffled], group[shuffled]) == roles[shuffled]).all()
    assert (roles_of(ids, label, group, seed=1) != roles).mean() > 0.3


def test_bits_are_mixed_as_splitmix64_does() -> None:
    """The published outputs of the seed 1234567: a photo's role must not change with a version of Catflap."""
    states = (np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).tolist()
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mix(np.array(states, np.uint64)).tolist() == expected


def test_the_roles_of_these_photos_are_the_same_in_every_version() -> None:
    ids = np.arange(24, dtype=np.uint64) * np.uint64(0x123456789ABCDEF)
    roles = roles_of(ids, np.arange(24) % 2, np.arange(24) // 2 * 2 + np.arange(24) % 2)
    assert "".join(map(str, roles.tolist())) == "333231233303103333033111"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(10, 30), st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_every_role_with_a_share_gets_a_group(seed: int, count: int, weights: list[int]) -> None:
    """Also where one group has most of a label's photos."""
    dice = np.random.default_rng(seed)
    group = np.repeat(np.arange(count), np.where(np.arange(count) == seed % count, 40, 1))
    ids = dice.integers(0, 2**64, len(group), dtype=np.uint64)
    wanted = {role: weight / sum(weights) for role, weight in zip(ORDER, weights, strict=True)}
    drawn = draws(ids, np.full(len(ids), -1), [], seed)
    assert set(assign(np.zeros(len(ids), int), group, drawn, wanted).roles.tolist()) == {0, 1, 2, 3}


def test_user_groups_are_drawn_by_their_name() -> None:
    users = np.repeat(np.arange(50), 8)
    names = [f"animal {number}" for number in range(50)]
    one = draws(np.arange(400, dtype=np.uint64), users, names, 0)
    other = draws(np.arange(400, 800, dtype=np.uint64), users, names, 0)
    assert (one == other).all()
    assert len(np.unique(one)) == 50


def test_stated_roles_hold_and_the_missing_ones_come_out_of_train() -> None:
    ids, label, group = photos(5, 2000, 2, 1)
    stated = np.where(np.arange(2000) % 4 == 0, TEST, TRAIN).astype(np.int8)
    drawn = draws(ids, np.full(2000, -1), [], 0)
    found = assign(label, group, drawn, SHARES, stated)
    assert ((found.roles == TEST) == (stated == TEST)).all()
    assert set(found.roles.tolist()) == {0, 1, 2, 3}
    assert abs((found.roles == TRAIN).mean() - 0.75 * 0.6 / 0.85) < 0.01
    assert not found.left_out.any()


def test_copies_stated_into_train_and_test_stay_in_test_only() -> None:
    ids, label, group = photos(5, 400, 2, 1)
    stated = np.where(np.arange(400) % 4 == 0, TEST, TRAIN).astype(np.int8)
    stated[399] = NONE
    group = group.copy()
    group[[1, 399]] = group[0]  # 0 is stated test, 1 train, 399 nothing
    found = assign(label, group, draws(ids, np.full(400, -1), [], 0), SHARES, stated)
    assert found.roles[[0, 1, 399]].tolist() == [TEST] * 3
    assert np.flatnonzero(found.left_out).tolist() == [1]


@pytest.mark.parametrize(
    "shares",
    [
        {"train": 1.0},
        {**SHARES, "test": 0.5},
        {**SHARES, "train": 0.0, "test": 0.75},
        {**SHARES, "train": 0.9, "test": -0.15},
    ],
)
def test_shares_that_make_no_sense_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(CatflapError, match="shares"):
        check_shares(shares)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 200), st.integers(2, 9))
def test_every_rare_label_is_learnt_and_all_of_them_together_are_judged(
    seed: int, labels: int, each: int
) -> None:
    ids = np.random.default_rng(seed).integers(0, 2**64, labels * each, dtype=np.uint64)
    label, group = np.repeat(np.arange(labels), each), np.arange(labels * each)
    roles = assign(label, group, draws(ids, np.full(len(ids), -1), [], seed), FEW_SHARES).roles
    assert set(label[roles == TRAIN]) == set(range(labels))
    spare = len(ids) - labels
    for code, role in enumerate(ORDER):
        count = (roles == code).sum() - (labels if code == TRAIN else 0)
        assert abs(count - FEW_SHARES[role] * spare) <= 0.02 * spare + 6, role


def test_a_set_that_outgrows_the_shares_of_few_photos_moves_none_from_test_to_train() -> None:
    ids, label, group = photos(5, 4000, 2, 1)
    drawn = draws(ids, np.full(len(ids), -1), [], 0)
    few = assign(label[:900], group[:900], drawn[:900], usual_shares(900)).roles
    many = assign(label, group, drawn, usual_shares(4000)).roles[:900]
    assert usual_shares(900) == FEW_SHARES
    assert usual_shares(4000) == SHARES
    assert not ((few == TEST) & (many == TRAIN)).any()


@pytest.mark.parametrize("named", [("validation",), ("calibration",), ("calibration", "validation")])
def test_where_the_source_names_roles_the_others_leak_no_photo_into_train_either(
    named: tuple[str, ...],
) -> None:
    """A tenth of the photos has the named roles; those that are cut out of the rest grow fivefold."""
    leaked, without_share = 0, 0
    for seed in range(12):
        ids, label, group = photos(seed, 7500, 1, 1)
        stated = np.full(len(ids), TRAIN, np.int8)
        for place, role in enumerate(named):
            stated[place :: 10 * len(named)] = ORDER.index(role)
        drawn = draws(ids, np.full(len(ids), -1), [], 0)
        few = assign(label[:1500], group[:1500], drawn[:1500], SHARES, stated[:1500]).roles
        many = assign(label, group, drawn, SHARES, stated).roles[:1500]
        leaked += ((few == TEST) & (many == TRAIN)).sum() + ((few == TRAIN) & (many == TEST)).sum()
        without_share += sum(
            ((few == code) != (stated[:1500] == code)).sum() for code in map(ORDER.index, named)
        )
    assert (leaked, without_share) == (0, 0)


def cut(shares: dict[str, float], below: int, count: int = 100) -> list[int]:
    """How many photos of one label get each role, where so many draws are below the line at 0.5."""
    drawn = np.append(np.linspace(0.01, 0.49, below), np.linspace(0.51, 0.99, count - below))
    found = assign(np.zeros(count, int), np.arange(count), drawn, shares).roles
    return np.bincount(found, minlength=len(ORDER)).tolist()


@pytest.mark.parametrize(
    ("shares", "below", "counts"),
    [
        ((0.3, 0.2, 0.2, 0.3), 50, [30, 20, 20, 30]),
        ((0.3, 0.2, 0.2, 0.3), 72, [30, 20, 22, 28]),  # those below the line may not be train
        ((0.3, 0.2, 0.2, 0.3), 90, [30, 20, 24, 26]),  # by at most four photos
        ((0.3, 0.2, 0.2, 0.3), 28, [28, 22, 20, 30]),  # those above it may not be test
        ((0.3, 0.2, 0.2, 0.3), 10, [26, 24, 20, 30]),
        ((0.3, 0.4, 0.0, 0.3), 72, [30, 42, 0, 28]),
        ((0.3, 0.0, 0.4, 0.3), 28, [28, 0, 42, 30]),
        ((0.5, 0.0, 0.0, 0.5), 52, [52, 0, 0, 48]),
        ((0.5, 0.0, 0.0, 0.5), 48, [48, 0, 0, 52]),
        ((0.5, 0.0, 0.0, 0.5), 70, [54, 0, 0, 46]),
    ],
)
def test_the_line_wins_by_at_most_four_photos_and_no_role_without_a_share_gets_one(
    shares: tuple[float, ...], below: int, counts: list[int]
) -> None:
    assert cut(dict(zip(ORDER, shares, strict=True)), below) == counts


def test_a_group_that_outweighs_all_others_leaves_each_role_a_group() -> None:
    """It has the highest number, so that all shares end in it."""
    group = np.append(np.arange(9), np.full(400, 9))
    drawn = np.append(np.linspace(0.1, 0.5, 9), np.full(400, 0.9))
    found = assign(np.zeros(409, int), group, drawn, dict.fromkeys(ORDER, 0.25)).roles
    assert np.unique(found).tolist() == [0, 1, 2, 3]


def test_a_rare_label_is_learnt_though_its_photos_drew_the_lowest_numbers() -> None:
    label = np.repeat([0, 1], [30, 2])
    drawn = np.append(np.linspace(0.1, 0.9, 30), [0.0, 0.01])
    assert assign(label, np.arange(32), drawn, SHARES).roles[31] == TRAIN


def test_a_group_of_several_labels_is_of_the_most_frequent_one_and_of_the_first_of_equals() -> None:
    """The group with the lowest number is test, but train where it is the only one of its label."""
    for own, role in (([0, 1], TRAIN), ([1, 0], TRAIN), ([0, 1, 1], TEST), ([1, 0, 0], TRAIN)):
        label = np.append(own, np.ones(30, int))
        group = np.append(np.zeros(len(own), int), np.arange(1, 31))
        drawn = np.append(np.zeros(len(own)), np.linspace(0.1, 0.9, 30))
        assert set(assign(label, group, drawn, SHARES).roles[: len(own)]) == {role}


def test_no_photos_have_no_roles() -> None:
    nothing = np.zeros(0, int)
    found = assign(nothing, nothing, np.zeros(0), SHARES)
    assert (found.roles.tolist(), found.left_out.tolist()) == ([], [])


def test_numbers_by_id_are_those_of_splitmix64_in_whole_numbers() -> None:
    """A photo's crops and its part of a cross-fit depend on them, so no version may change them."""
    ids = ["0123456789abcdef" + "0" * 48, "f" * 64]
    whole, step = 2**64 - 1, 0x9E3779B97F4A7C15

    def mixed(bits: int) -> int:
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & whole
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & whole
        return bits ^ bits >> 31

    for id, row in zip(ids, shares(np.array(ids), "a purpose", 3).tolist(), strict=True):
        start = mixed(int(id[:16], 16) ^ int(hashlib.sha256(b"a purpose").hexdigest()[:16], 16))
        assert row == [(mixed(start + n * step & whole) >> 11) / 2**53 for n in (1, 2, 3)]
