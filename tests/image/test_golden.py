"""The golden vectors: what any implementation of the Frame has to reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.image import Frame, Pixels, read_pixels
from tests.image.make_golden import vectors

FOLDER = Path(__file__).with_name("golden")
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "vectors.json").read_text())


def stored_pixels(name: str) -> Pixels:
    """A vector's PNG is RGB of the frame's size, which every Frame leaves as it is."""
    photo = (FOLDER / name).read_bytes()
    width, height = (int.from_bytes(photo[place : place + 4], "big") for place in (16, 20))
    return read_pixels(photo, Frame(width, height))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["photo"]))
def test_a_photo_becomes_its_stored_pixels(vector: dict[str, Any]) -> None:
    frame = Frame.from_json(vector["frame"])
    got, expected = read_pixels(FOLDER / vector["photo"], frame), stored_pixels(vector["pixels"])
    assert got.shape == expected.shape == (frame.height, frame.width, 3)
    assert np.abs(got.astype(int) - expected).max() <= vector["tolerance"]


def test_the_vectors_are_those_of_the_script() -> None:
    made = {f"{name}.{suffix}": frame.to_json() for name, (_, suffix, frame, _) in vectors().items()}
    assert made == {vector["photo"]: vector["frame"] for vector in VECTORS}


def test_the_orientations_differ() -> None:
    turned = [stored_pixels(f"orientation_{number}.frame.png").tobytes() for number in range(1, 9)]
    assert len(set(turned)) == 8
