"""Roles that cannot leak: whole groups, stratified by label, and stable when photos are added later.

Every group gets a number in 0..1 that depends on its members and the seed only: the smallest of their
draws, so that a group that grows can only move down. Within a label the groups are sorted by that
number and cut into test, calibration, validation and train where the shares end, each cut within half
a group. A fixed line through the middle of calibration and validation guarantees that a photo never
goes from test to train: only groups below the line may be test, only groups above it may be train,
however many photos are added. Where a label has so few groups that chance puts too many on one side, the
line wins by at most GIVE photos or 2 % of the label, and beyond that the shares win.

Rare labels, with fewer than MIN_GROUPS groups each, are cut together, as one label, after one group of each
has gone to train: every label is learnt, and all of them together are judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.data.duplicates import Hashes
from catflap.errors import CatflapError

SHARES = {"train": 0.6, "validation": 0.1, "calibration": 0.15, "test": 0.15}
FEW_SHARES = {"train": 0.7, "validation": 0.1, "calibration": 0.1, "test": 0.1}
FEW = 1_000  # photos; below, learning gains more from a photo than calibration and test do
ORDER = ("test", "calibration", "validation", "train")
TRAIN = ORDER.index("train")
NONE = len(ORDER)  # where no role is stated
GIVE = 4
GIVE_SHARE = 0.02
MIN_GROUPS = 10  # a label; fewer cannot fill four roles
MIN_RARE_GROUPS = 40  # of all labels with fewer, beside one of each, where not two labels have more

STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio

Codes: TypeAlias = npt.NDArray[np.int8]
Words: TypeAlias = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Assigned:
    """The role of each photo as its number in ORDER, (n,), and which photos are left out, (n,)."""

    roles: Codes
    left_out: npt.NDArray[np.bool_]


def usual_shares(photos: int) -> Mapping[str, float]:
    """The shares of the roles where nobody states others: few photos are rather learnt from than judged by.

    A set that grows beyond FEW moves no photo from test to train: its line is above those of test photos.
    """
    return FEW_SHARES if photos < FEW else SHARES


def check_seed(seed: int) -> None:
    """Refuse a seed that does not fit into 63 bits."""
    if not 0 <= seed < 1 << 63:
        raise CatflapError(f"The seed {seed} is not possible.", "Use 0 to 2^63 - 1.")


def check_shares(shares: Mapping[str, float]) -> None:
    """Refuse shares that are not four numbers of 0 or more that add up to 1."""
    fine = set(shares) == set(ORDER) and all(share >= 0 for share in shares.values())
    if not fine or abs(sum(shares.values()) - 1) > 1e-6 or not shares["train"] > 0:
        raise CatflapError(
            f"The shares of the roles are {dict(shares)}.",
            f"Give each of {', '.join(ORDER)} a share of 0 or more (train more than 0), 1 in all.",
        )


def draws(ids: Hashes, users: Positions, names: Sequence[str], seed: int) -> npt.NDArray[np.float64]:
    """A number in 0..1 for each photo from its id's leading 64 bits, or from its user group's name.

    `users` are numbers of `names`, -1 for photos without a user group; shapes (n,).
    """
    named = [hashlib.sha256(name.encode()).digest()[:8] for name in names]
    keys = np.frombuffer(b"".join(named), ">u8").astype(np.uint64)
    atoms = ids.copy()
    atoms[users >= 0] = keys[users[users >= 0]]
    mixed: npt.NDArray[np.float64] = mix(atoms ^ salt(f"catflap roles {seed}")).astype(np.float64) / 2.0**64
    return mixed


def assign(
    labels: npt.NDArray[np.integer],
    groups: Positions,
    draws: npt.NDArray[np.float64],
    shares: Mapping[str, float],
    stated: Codes | None = None,
) -> Assigned:
    """The role of each photo; arrays of the shape (n,), groups numbered from 0 with gaps.

    `stated` has the role that the source states, as its number in ORDER, or NONE. Stated roles hold; those
    that the source states nowhere are cut out of its train photos. When one group was stated into
    several roles, the photos outside the first of them in ORDER are left out.
    """
    group, count = _dense(groups)
    fixed = np.full(count, NONE, dtype=np.int8)
    left_out = np.zeros(len(labels), dtype=bool)
    wanted = dict(shares)
    if stated is not None and (stated < NONE).any():
        np.minimum.at(fixed, group, stated)
        left_out = (stated < NONE) & (stated != fixed[group])
        for code in np.unique(stated):
            if code < TRAIN:
                wanted[ORDER[code]] = 0.0
        wanted = {role: share / sum(wanted.values()) for role, share in wanted.items()}
    least = np.ones(count)
    np.minimum.at(least, group, draws)
    sizes = np.bincount(group[~left_out], minlength=count)
    stratum = _stratum(group, labels, count)
    rare = (np.bincount(stratum) < MIN_GROUPS)[stratum]
    roles = fixed.copy()
    free = np.flatnonzero(fixed >= TRAIN)
    free = free[np.lexsort((least[free], stratum[free]))]
    last = np.diff(stratum[free], append=-1) != 0  # of each label, the group furthest from test
    roles[free[last & rare[free]]] = TRAIN
    free = free[~(last & rare[free])]
    stratum = np.where(rare, stratum.max(initial=0) + 1, stratum)
    free = free[np.lexsort((least[free], stratum[free]))]
    edges = np.flatnonzero(np.diff(stratum[free], prepend=-1, append=-1))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = free[start:stop]
        roles[part] = _cut(sizes[part], least[part], wanted)
    return Assigned(roles[group], left_out)


def _cut(
    sizes: Positions, least: npt.NDArray[np.float64], shares: Mapping[str, float]
) -> npt.NDArray[np.intp]:
    """Cut one label's groups, in the order of their numbers, where the shares of the roles end."""
    total = float(sizes.sum())
    ends = np.cumsum([shares[role] for role in ORDER])[:TRAIN] * total
    line = shares["test"] + (shares["calibration"] + shares["validation"]) / 2
    below = float(sizes[least < line].sum())
    give = max(GIVE, GIVE_SHARE * total)
    ends[0] = min(ends[0], max(below, ends[0] - give))
    ends[-1] = max(ends[-1], min(below, ends[-1] + give))
    if shares["calibration"] + shares["validation"] == 0:  # the line itself is between test and train
        ends[:] = ends[0] if below < ends[1] else ends[-1]
    elif shares["validation"] == 0:  # what the line keeps from train goes to calibration
        ends[1] = ends[-1]
    elif shares["calibration"] == 0:  # what the line keeps from test goes to validation
        ends[1] = ends[0]
    ends = np.maximum.accumulate(ends)
    middle = np.cumsum(sizes) - sizes / 2
    cuts = np.searchsorted(middle, ends)
    needed = [int(shares[role] > 0) for role in ORDER]
    if len(sizes) >= sum(needed):  # a group for each role with a share
        for place in range(TRAIN):
            cuts[place] = max(cuts[place], (cuts[place - 1] if place else 0) + needed[place])
        for place in range(TRAIN - 1, -1, -1):
            end = cuts[place + 1] if place < TRAIN - 1 else len(sizes)
            cuts[place] = min(cuts[place], end - needed[place + 1])
    return np.searchsorted(cuts, np.arange(len(sizes)), side="right")


def _dense(groups: Positions) -> tuple[Positions, int]:
    """Groups numbered without gaps; cheaper than np.unique, which sorts."""
    present = np.zeros(int(groups.max(initial=-1)) + 1, dtype=bool)
    present[groups] = True
    numbers = np.cumsum(present) - 1
    return numbers[groups], int(present.sum())


def _stratum(group: Positions, labels: npt.NDArray[np.integer], count: int) -> Positions:
    """The label of each group: the most frequent one, the first of equals."""
    low = np.full(count, np.iinfo(np.int64).max)
    high = np.full(count, -1)
    np.minimum.at(low, group, labels)
    np.maximum.at(high, group, labels)
    mixed = np.flatnonzero(low != high)
    if len(mixed):
        members = np.flatnonzero((low != high)[group])
        pairs, votes = np.unique(np.stack([group[members], labels[members]]), axis=1, return_counts=True)
        order = np.lexsort((-pairs[1], votes))
        low[pairs[0, order]] = pairs[1, order]
    return low


def mix(bits: Words) -> Words:
    """Mix every bit into all others (the finaliser of SplitMix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def salt(text: str) -> np.uint64:
    """64 bits that differ from one purpose to another."""
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def shares(ids: npt.NDArray[np.str_], purpose: str, count: int) -> npt.NDArray[np.float64]:
    """`count` pseudo-random numbers in 0..1 for each hexadecimal id, (n, count), equal on all machines."""
    keys = np.array([int(id[:16], 16) for id in ids.tolist()], np.uint64)
    steps = np.arange(1, count + 1, dtype=np.uint64) * STEP
    mixed = mix(mix(keys ^ salt(purpose))[:, None] + steps)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
