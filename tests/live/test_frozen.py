"""A live source that repeats itself, and one that shows a still scene."""

from __future__ import annotations

from itertools import islice
from time import sleep

import numpy as np
import pytest

from catflap.image import Pixels
from catflap.live.frames import LatestFrames, OpenSource, Outage, Shot, Source, SourceFrame, Stop

SCENE = np.full((200, 300, 3), 90, np.uint8)


class Sensor:
    """Gives `frames` over and over, decoded or as bytes, a hundred a second."""

    def __init__(self, frames: list[Pixels], raw_bytes: bool) -> None:
        self._frames, self._raw_bytes, self._count = frames, raw_bytes, 0

    def read(self) -> SourceFrame:
        sleep(0.01)
        pixels = self._frames[self._count % len(self._frames)].copy()
        self._count += 1
        return SourceFrame(lambda: pixels, raw=pixels.tobytes() if self._raw_bytes else pixels)

    def close(self) -> None:
        pass


def found(frames: list[Pixels], raw_bytes: bool, count: int) -> list[Shot | Outage]:
    sensor: OpenSource = Sensor(frames, raw_bytes)
    shots = LatestFrames(Source("sensor", True, lambda: sensor), sensor, Stop(), stalled=60, still=0.3)
    try:
        return list(islice(shots, count))
    finally:
        shots.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("raw_bytes", [False, True])
def test_the_same_picture_is_told_once_and_judged_no_more(raw_bytes: bool) -> None:
    shots = LatestFrames(
        Source("sensor", True, lambda: sensor), sensor := Sensor([SCENE], raw_bytes), stop := Stop(), 60, 0.3
    )
    for one in shots:
        if isinstance(one, Outage):
            break
    assert one == Outage("frozen", "the same picture for 0.3 s")
    sensor._frames = [SCENE, SCENE + 1]
    assert isinstance(next(shots), Shot), "the first other picture ends it"
    stop.requested = True
    assert [one for one in shots if isinstance(one, Outage)] == []


@pytest.mark.parametrize("raw_bytes", [False, True])
def test_a_still_scene_with_the_least_noise_is_no_frozen_camera(raw_bytes: bool) -> None:
    """One pixel of one channel that flickers by one level."""
    other = SCENE.copy()
    other[123, 17, 2] += 1
    assert not any(isinstance(one, Outage) for one in found([SCENE, other], raw_bytes, 100))


def test_pictures_of_another_size_differ() -> None:
    assert not any(isinstance(one, Outage) for one in found([SCENE, SCENE[:100]], False, 60))
