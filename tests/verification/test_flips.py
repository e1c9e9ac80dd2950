"""2,000 flipped bytes and 500 truncations of a bundle: none is accepted, none crashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import decode_members, load_bundle
from catflap.errors import BadArtifact
from catflap.verification.verify import verify


@pytest.mark.slow
def test_no_flipped_byte_is_accepted(tiny_bundle: Path, tmp_path: Path) -> None:
    """Any place, any other value; each tenth through the whole of verify."""
    whole = tiny_bundle.read_bytes()
    random, path = np.random.default_rng(0), tmp_path / "flipped.catflap"
    places, flips = random.integers(0, len(whole), 2000), random.integers(1, 256, 2000)
    for number, (place, flip) in enumerate(zip(places.tolist(), flips.tolist(), strict=True)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        with pytest.raises(BadArtifact):
            load_bundle(path)
        if number % 10 == 0:
            assert not verify(path).passed
    path.write_bytes(whole)
    assert verify(path).passed


def test_no_truncation_is_accepted(tiny_bundle: Path) -> None:
    whole = tiny_bundle.read_bytes()
    for length in np.random.default_rng(1).integers(0, len(whole), 500).tolist():
        with pytest.raises(BadArtifact):
            decode_members(whole[:length])
