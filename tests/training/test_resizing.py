"""Resizing with torch gives what the Frame specifies, within two levels."""

from __future__ import annotations

import numpy as np
import pytest

from catflap import image
from catflap.exporting.golden_cases import scene
from catflap.image import Frame
from catflap.training.loop.resizing import resize


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 48), (90, 90), (333, 200), (40, 300)])
@pytest.mark.parametrize("mirror", [False, True])
def test_it_is_what_the_frame_says(filter: str, size: tuple[int, int], mirror: bool) -> None:
    frame = Frame(96, 64, "squash", filter)
    part = image.read_pixels(scene(3, 400, 300), Frame(*size))
    ours = resize(part, frame, mirror=mirror)
    assert (ours.shape, ours.dtype) == ((64, 96, 3), np.uint8)
    assert np.abs(ours.astype(int) - image.resize(part, frame, mirror=mirror)).max() <= 2


def test_parts_of_a_memory_map_are_left_as_they_are() -> None:
    part = image.read_pixels(scene(3, 400, 300), Frame(60, 50))[5:40, 7:50]
    part.flags.writeable = False
    before = part.copy()
    resize(part, Frame(32, 32))
    assert np.array_equal(part, before)
