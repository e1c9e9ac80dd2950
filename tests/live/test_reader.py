"""Frames of a live source, no more than are wanted, and outage at once."""

from __future__ import annotations

from collections.abc import Iterator
from time import sleep

import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.live.frames import LatestFrames, Shot, Source, SourceFrame, SourceLost, Stop, all_frames


class Script:
    """Gives what a test says: a number is a frame of that grey, "lost" an outage, "silence" three seconds."""

    def __init__(self, *words: int | str) -> None:
        self._words: Iterator[int | str] = iter(words)

    def read(self) -> SourceFrame | None:
        sleep(0.1)  # until the frame before was taken
        word = next(self._words, None)
        if word == "lost":
            raise SourceLost("it was unplugged")
        if word == "silence":
            sleep(3)
            return self.read()
        if word is None:
            return None
        pixels = np.full((8, 8, 3), word, np.uint8)
        return SourceFrame(lambda: pixels, raw=pixels)

    def close(self) -> None:
        pass


def found(*words: int | str, pace: float, stalled: float = 0.4) -> list[int | str]:
    """The numbers of the frames that came, and the kinds of outage."""
    script = Script(*words)
    shots = LatestFrames(Source("script", True, lambda: script), script, Stop(), stalled, 60.0, pace)
    return [one.number if isinstance(one, Shot) else one.kind for one in shots]


def test_a_video_that_cannot_be_read_on_says_what_to_check() -> None:
    with pytest.raises(CatflapError, match=r"it was unplugged\. Check the file, and watch it again\."):
        list(all_frames(Script(1, "lost"), Stop()))


@pytest.mark.slow
def test_a_loss_is_told_also_when_newer_frames_came_before_the_next_was_wanted() -> None:
    assert found(1, "lost", 2, 3, 4, pace=2.0, stalled=5.0) == [1, "lost", 4]


@pytest.mark.slow
def test_silence_is_told_while_the_next_frame_is_not_wanted_yet_and_no_old_one_follows() -> None:
    assert found(1, 2, "silence", 3, pace=2.5, stalled=1.0) == [1, "frozen", 3]


@pytest.mark.slow
def test_the_last_frame_of_a_pipe_comes_also_when_it_has_to_wait() -> None:
    assert found(1, "silence", 2, 3, pace=0.1)[-1] == 3
    assert found(1, 2, 3, pace=0.3)[-1] == 3
