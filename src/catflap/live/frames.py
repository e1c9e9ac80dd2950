"""Frames and their times: all of a video or folder, the latest of a camera; lost sources are opened again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from threading import Condition, Event, Thread
from time import monotonic, time
from typing import Protocol

import numpy as np

from catflap.errors import CatflapError
from catflap.image import Photo, Pixels

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a lost source is opened again; it doubles
TICK = 0.2  # seconds after which a wait checks whether the watch should stop
CLOSE_SECONDS = 2.0  # that a source has to close


class SourceLost(Exception):
    """A source that was there gives no frames any more; the text says why. It is opened again."""


@dataclass(frozen=True)
class SourceFrame:
    """A frame as a source gives it: `load` returns what the classifier takes, or raises BadPhoto.

    `clock` is its time on the source's own clock in seconds, None for a live source; `path` its file, where
    it has one. `raw` is what a live source sent, to be compared with the next one.
    """

    load: Callable[[], Photo]
    clock: float | None = None
    path: str | None = None
    raw: bytes | Pixels | None = None


class OpenSource(Protocol):
    """A source that was opened; it gives frames until it is closed."""

    def read(self) -> SourceFrame | None:
        """The next frame; None at the end of a file. Raises SourceLost."""

    def close(self) -> None:
        """Release it."""


@dataclass(frozen=True)
class Source:
    """Where frames come from; `name` is for people and shows no password.

    A `live` source goes on whether its frames are read or not; any other waits. A `paced` one gives as many
    photos a second as `--fps` says.
    """

    name: str
    live: bool
    open: Callable[[], OpenSource]
    paced: bool = False


@dataclass(frozen=True)
class Shot:
    """A frame to classify: its `number` among those read, from 1, and three times in seconds.

    `clock` is the source's own, which never goes back; `taken` is time.monotonic when the frame arrived, and
    `time` the wall clock at that moment, since 1970.
    """

    load: Callable[[], Photo]
    path: str | None
    number: int
    clock: float
    taken: float
    time: float


@dataclass(frozen=True)
class Outage:
    """A live source without frames: "lost" when it says so, "frozen" when it gives nothing new."""

    kind: str
    why: str


@dataclass
class Stop:
    """Whether the watch should end; a plain field, because a signal handler may take no lock."""

    requested: bool = False


def open_first(source: Source) -> OpenSource:
    """Open a source for the first time, when a failure may be a typing error; CatflapError."""
    try:
        return source.open()
    except SourceLost as error:
        raise CatflapError(
            f"{source.name} cannot be watched: {error}.",
            "Check its name, and that no other program uses it.",
        ) from error


def all_frames(opened: OpenSource, stop: Stop) -> Generator[Shot]:
    """Every frame of a source that waits, such as a video, until it ends."""
    number, clock = 0, 0.0
    try:
        while not stop.requested:
            try:
                frame = opened.read()
            except SourceLost as error:
                raise CatflapError(
                    f"The source cannot be read any further: {error}.", "Check the file, and watch it again."
                ) from error
            if frame is None:
                return
            number += 1
            clock = max(clock, frame.clock or 0.0)
            yield Shot(frame.load, frame.path, number, clock, monotonic(), time())
    finally:
        opened.close()


class LatestFrames:
    """The latest frame of a live source, again and again; an Outage where there is none.

    A thread reads every frame into one slot from now on, so a slow classifier gets fewer frames and never old
    ones. A source that fails is opened again, with growing pauses. `stalled` seconds without a frame are an
    Outage, and so are `still` seconds of exactly the same picture, which is not classified until it changes.
    `interval` is the least time between two frames in seconds.
    """

    def __init__(
        self,
        source: Source,
        opened: OpenSource,
        stop: Stop,
        stalled: float,
        still: float,
        interval: float = 0.0,
    ) -> None:
        self._reader = _Reader(source, opened, still)
        self._stop = stop
        self._stalled = stalled
        self._interval = interval
        self._in_outage = False
        self._due = 0.0

    def __iter__(self) -> Iterator[Shot | Outage]:
        return self

    def __next__(self) -> Shot | Outage:
        while not self._stop.requested:
            found = self._reader.take(self._due, None if self._in_outage else self._stalled)
            if found is not None:
                self._in_outage = isinstance(found, Outage)
                if not self._in_outage:
                    self._due = monotonic() + self._interval
                return found
            if self._reader.is_finished():
                break
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Stop reading and close the source."""
        self._reader.close()


class _Reader:
    """A thread that reads a live source, the latest frame, and an outage that was not reported yet."""

    def __init__(self, source: Source, opened: OpenSource, still: float) -> None:
        self._source = source
        self._still = still
        self._raw: bytes | Pixels | None = None  # of the frame before
        self._is_still = False
        self._news = Condition()
        self._stop = Event()
        self._ended = False
        self._latest: Shot | None = None
        self._outage: Outage | None = None
        self._number = 0
        self._start = self._last = self._changed = monotonic()
        self._thread = Thread(target=self._run, args=(opened,), name="reader", daemon=True)
        self._thread.start()

    def take(self, due: float, stalled: float | None) -> Shot | Outage | None:
        """An outage as soon as there is one, the latest frame from the time `due` on; None after a moment.

        After `stalled` seconds without a new frame an unused one is old, and an outage takes its place.
        """
        with self._news:
            now = monotonic()
            if not self._ended and stalled is not None and now - self._last > stalled:
                self._latest = None
                return Outage("frozen", f"no frame for {stalled:g} s")
            if self._outage is None and not self._ended and (self._latest is None or now < due):
                self._news.wait(min(TICK, due - now) if due > now else TICK)
                now = monotonic()
            if self._outage is not None:
                outage, self._outage = self._outage, None
                return outage
            if now < due:
                return None
            shot, self._latest = self._latest, None
            return shot

    def is_finished(self) -> bool:
        """Whether the source ended and everything that it gave was taken."""
        with self._news:
            return self._ended and self._latest is None and self._outage is None

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self, opened: OpenSource | None) -> None:
        wait = FIRST_WAIT
        while not self._stop.is_set():
            before = self._number
            try:
                opened = opened or self._source.open()
                self._read_all(opened)
                break
            except Exception as error:  # a driver may raise anything, and the watch goes on
                wait = FIRST_WAIT if self._number > before else min(2 * wait, LONGEST_WAIT)
                kind = "" if isinstance(error, SourceLost) else f"{type(error).__name__}: "
                self._put(Outage("lost", f"{kind}{error}"))
            finally:
                if opened is not None:
                    opened.close()
                    opened = None
            self._stop.wait(wait)
        with self._news:
            self._ended = True
            self._news.notify()

    def _read_all(self, opened: OpenSource) -> None:
        while not self._stop.is_set():
            frame = opened.read()
            if frame is None:
                return
            now = self._last = monotonic()
            self._number += 1
            if not _is_same(frame.raw, self._raw):
                self._raw, self._changed, self._is_still = frame.raw, now, False
            if now - self._changed <= self._still:
                self._put(Shot(frame.load, frame.path, self._number, now - self._start, now, time()))
            elif not self._is_still:
                self._put(Outage("frozen", f"the same picture for {self._still:g} s"))
                self._is_still = True

    def _put(self, found: Shot | Outage) -> None:
        with self._news:
            if isinstance(found, Shot):
                self._latest = found
            else:
                self._outage, self._latest = found, None
            self._news.notify()


def _is_same(raw: bytes | Pixels | None, before: bytes | Pixels | None) -> bool:
    """Whether two frames are equal to the last bit, which those of a real scene never are: it has noise."""
    if isinstance(raw, np.ndarray) and isinstance(before, np.ndarray):
        some = slice(None, None, 64)  # rows, which nearly always differ already
        is_alike = raw.shape == before.shape and np.array_equal(raw[some], before[some])
        return is_alike and np.array_equal(raw, before)
    return isinstance(raw, bytes) and isinstance(before, bytes) and raw == before
