"""Numbers that look random and follow from what they are drawn for alone, on every machine."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio

Words = npt.NDArray[np.uint64]


def mix(bits: Words) -> Words:
    """Spread every bit over all bits (the finaliser of SplitMix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def salt(text: str) -> np.uint64:
    """64 bits that tell one purpose from another."""
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def shares(ids: npt.NDArray[np.str_], purpose: str, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in 0..1 for each hexadecimal id, (n, count)."""
    keys = np.array([int(id[:16], 16) for id in ids.tolist()], np.uint64)
    steps = np.arange(1, count + 1, dtype=np.uint64) * STEP
    mixed = mix(mix(keys ^ salt(purpose))[:, None] + steps)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
