"""What travels from a source to the judge: one frame, or the news that there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from catflap.image import Photo, Pixels


class Lost(Exception):
    """A source that was there gives no frames any more; the text says why. It is opened again."""


@dataclass(frozen=True)
class Picture:
    """A frame as a source gives it: `photo` makes what the classifier takes.

    `clock` is its time on the source's own clock in seconds, None where that is the clock on the wall;
    `path` its file, where it has one. `raw` is what a live source gave, to be compared with the next one.
    """

    photo: Callable[[], Photo]
    clock: float | None = None
    path: str | None = None
    raw: bytes | Pixels | None = None

    def repeats(self, before: bytes | Pixels | None) -> bool:
        """Whether it is what the source gave `before`, to the last bit: no real scene is without noise."""
        if isinstance(self.raw, np.ndarray) and isinstance(before, np.ndarray):
            some = slice(None, None, 64)  # rows, which tell nearly always
            is_alike = self.raw.shape == before.shape and np.array_equal(self.raw[some], before[some])
            return is_alike and np.array_equal(self.raw, before)
        return isinstance(self.raw, bytes) and isinstance(before, bytes) and self.raw == before


class OpenSource(Protocol):
    """A source that was opened; it gives frames until it is closed."""

    def read(self) -> Picture | None:
        """The next frame; None at the end of a file. Raises Lost."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True)
class Source:
    """Where frames come from; `name` is for people and shows no password.

    A `live` source goes on whether we keep up or not; any other waits for us. One that may be `paced` gives
    as many photos a second as it is told to.
    """

    name: str
    live: bool
    open: Callable[[], OpenSource]
    paced: bool = False


@dataclass(frozen=True)
class Shot:
    """A frame to judge: its `number` among those read, from 1, and three times in seconds.

    `clock` is the source's own, which never goes back; `taken` is time.monotonic when the frame was
    here, and `time` the clock on the wall at that moment, since 1970.
    """

    picture: Picture
    number: int
    clock: float
    taken: float
    time: float


@dataclass(frozen=True)
class Outage:
    """A live source without frames: "lost" when it says so, "frozen" when it says nothing new."""

    kind: str
    why: str


@dataclass
class Stop:
    """Whether somebody `asked` the watch to end; a plain field, for a signal handler may take no lock."""

    asked: bool = False
