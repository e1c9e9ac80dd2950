"""`catflap` with a search of small frames in which every head counts as poor, so that recipes are tried.

With minutes a random start is tried, too: forty photos of 160 px count as many and small.
"""

from __future__ import annotations

import pytest

from catflap.cli.main import run
from catflap.training import deciding
from catflap.training.search import candidates, halving, random_start

SMALL = (
    ("efficientnet_lite0", 32, False), ("efficientnet_lite0", 48, True), ("efficientnet_lite1", 48, False),
)  # fmt: skip


def poor_heads(patch: pytest.MonkeyPatch) -> None:
    """Drawn photos need no more pixels, and their heads are too good for a search to go on from."""
    patch.setattr(candidates, "ORDER", SMALL)
    for room in (halving, deciding):
        patch.setattr(room, "GOOD_HEAD", 1.1)


def many_small(patch: pytest.MonkeyPatch) -> None:
    """What is many and small, moved to what the drawn photos are."""
    patch.setattr(random_start, "MANY_PHOTOS", 10)
    patch.setattr(random_start, "SMALL_SIDE", 160)


if __name__ == "__main__":
    poor_heads(pytest.MonkeyPatch())
    many_small(pytest.MonkeyPatch())
    run()
