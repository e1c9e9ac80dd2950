"""`catflap` with a search of small frames in which every head counts as poor, so that recipes are tried."""

from __future__ import annotations

import pytest

from catflap.cli.main import run
from catflap.training import candidates, search

SMALL = (
    ("efficientnet_lite0", 32, False), ("efficientnet_lite0", 48, True), ("efficientnet_lite1", 48, False),
)  # fmt: skip


def poor_heads(patch: pytest.MonkeyPatch) -> None:
    """Drawn photos need no more pixels, and their heads are too good for a search to go on from."""
    patch.setattr(candidates, "ORDER", SMALL)
    patch.setattr(search, "GOOD_HEAD", 1.1)


if __name__ == "__main__":
    poor_heads(pytest.MonkeyPatch())
    run()
