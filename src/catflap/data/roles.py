"""Roles that cannot leak: whole groups, stratified by label, stable when photos are added."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

SHARES = {"train": 0.6, "validation": 0.1, "calibration": 0.15, "test": 0.15}
ORDER = ("test", "calibration", "validation", "train")


def draw(ids: list[str], seed: int) -> npt.NDArray[np.float64]:
    """A number in 0..1 for each id that depends on nothing but the id and the seed."""
    salt = f"catflap roles {seed} ".encode()
    digests = b"".join(hashlib.blake2b(salt + id.encode(), digest_size=8).digest() for id in ids)
    return np.frombuffer(digests, "<u8").astype(np.float64) / 2.0**64


def assign(
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    draws: npt.NDArray[np.float64],
    shares: Mapping[str, float],
) -> npt.NDArray[np.str_]:
    """The role of each photo, shape (n,); every group has one role, every label its shares."""
    names, group = np.unique(groups, return_inverse=True)
    count = len(names)
    least = np.ones(count)
    np.minimum.at(least, group, draws)
    sizes = np.bincount(group, minlength=count)
    votes = np.zeros((count, int(labels.max()) + 1), np.int64)
    np.add.at(votes, (group, labels), 1)
    stratum = votes.argmax(axis=1)
    split = shares["test"] + (shares["calibration"] + shares["validation"]) / 2
    late = least >= split
    roles = np.empty(count, dtype=np.int8)
    for label in np.unique(stratum):
        members = np.flatnonzero(stratum == label)
        members = members[np.lexsort((names[members], least[members]))]
        roles[members] = _fill(sizes[members], late[members], shares)
    return np.array(ORDER)[roles][group]


def _fill(
    sizes: npt.NDArray[np.int64], late: npt.NDArray[np.bool_], shares: Mapping[str, float]
) -> npt.NDArray[np.int8]:
    """Cut one label's groups, in the order of their draws, where the shares of the roles end."""
    ends = np.cumsum([shares[role] for role in ORDER])[:-1] * sizes.sum()
    middle = np.cumsum(sizes) - sizes / 2
    return np.searchsorted(ends, middle).astype(np.int8)
