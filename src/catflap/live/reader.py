"""Frames in time: every frame of what waits for us, the latest one of what does not."""

from __future__ import annotations

from collections.abc import Generator
from threading import Condition, Event, Thread
from time import monotonic, time

from catflap.errors import CatflapError
from catflap.image import Pixels
from catflap.live.frames import Lost, OpenSource, Outage, Picture, Shot, Source, Stop

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a lost source is opened again; it doubles
TICK = 0.2  # seconds after which a wait looks whether it should end
PARTING = 2.0  # seconds that a source has to let go


def open_first(source: Source) -> OpenSource:
    """Open a source for the first time, when it still may be a slip of the pen; CatflapError."""
    try:
        return source.open()
    except Lost as error:
        raise CatflapError(
            f"{source.name} cannot be watched: {error}.", "Check its name, and that nobody else uses it."
        ) from error


def waiting_shots(opened: OpenSource, stop: Stop) -> Generator[Shot]:
    """Every frame of a source that waits for us, such as a video, until it ends."""
    number, clock = 0, 0.0
    try:
        while not stop.asked:
            try:
                picture = opened.read()
            except Lost as error:
                raise CatflapError(
                    f"The source cannot be read on: {error}.", "Check the file, and watch it again."
                ) from error
            if picture is None:
                return
            number += 1
            clock = max(clock, picture.clock or 0.0)
            yield Shot(picture, number, clock, monotonic(), time())
    finally:
        opened.close()


def latest_shots(
    source: Source, opened: OpenSource, stop: Stop, stalled: float, still: float, pace: float = 0.0
) -> Generator[Shot | Outage]:
    """The latest frame of a live source, again and again; Trouble where there is none.

    A thread reads every frame into one slot, so a slow judge sees fewer frames and never old ones. A
    source that fails is opened again, with growing pauses; `stalled` seconds without a frame are told, and
    so are `still` seconds of the very same picture, which is not judged until it changes. `pace` is the
    least time between two frames in seconds.
    """
    slot = _Slot(source, opened, still)
    told, due = False, 0.0
    try:
        while not stop.asked:
            if not told and slot.is_silent(stalled):
                told = True
                yield Outage("frozen", f"no frame for {stalled:g} s")
            found = slot.take(due)
            if isinstance(found, Shot):
                told, due = False, monotonic() + pace
                yield found
            elif isinstance(found, Outage):
                told = True
                yield found
            elif slot.is_over:
                return
    finally:
        slot.close()


class _Slot:
    """A thread that reads a live source, the one frame that it last read, and outage until it is told."""

    def __init__(self, source: Source, opened: OpenSource, still: float) -> None:
        self._ended = False
        self._source = source
        self._still = still
        self._raw: bytes | Pixels | None = None  # of the frame before
        self._frozen = False
        self._news = Condition()
        self._stop = Event()
        self._latest: Shot | None = None
        self._outage: Outage | None = None
        self._number = 0
        self._start = self._last = self._changed = monotonic()
        self._thread = Thread(target=self._run, args=(opened,), name="reader", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the source ended and all that it gave was taken."""
        with self._news:
            return self._ended and self._latest is None and self._outage is None

    def is_silent(self, seconds: float) -> bool:
        """Whether no frame came for so long; one that still lies here is old then, and goes."""
        with self._news:
            silent = not self._ended and monotonic() - self._last > seconds
            if silent:
                self._latest = None
            return silent

    def take(self, due: float) -> Shot | Outage | None:
        """Trouble as soon as there is any, the latest frame from the time `due` on; None after a while."""

        def is_ready() -> bool:
            if self._outage is None and self._latest is not None:
                return monotonic() >= due
            return self._outage is not None or self._ended

        with self._news:
            early = due - monotonic()
            self._news.wait_for(is_ready, min(TICK, early) if early > 0 else TICK)
            found: Shot | Outage | None = self._outage
            if found is not None:
                self._outage = None
            elif monotonic() >= due:
                found, self._latest = self._latest, None
            return found

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(PARTING)

    def _put(self, found: Shot | Outage) -> None:
        with self._news:
            if isinstance(found, Shot):
                self._latest = found
            else:
                self._outage, self._latest = found, None
            self._news.notify()

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
                kind = "" if isinstance(error, Lost) else f"{type(error).__name__}: "
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
            picture = opened.read()
            if picture is None:
                return
            shot = self._shot(picture)
            if not self._is_frozen(shot):
                self._put(shot)
            elif not self._frozen:
                self._put(Outage("frozen", f"the same picture for {self._still:g} s"))
                self._frozen = True

    def _is_frozen(self, shot: Shot) -> bool:
        """Whether the picture has not changed for too long: the camera's clock stands still, ours goes on."""
        if not shot.picture.repeats(self._raw):
            self._raw = shot.picture.raw
            self._changed = shot.taken
            self._frozen = False
        return shot.taken - self._changed > self._still

    def _shot(self, picture: Picture) -> Shot:
        self._number += 1
        self._last = monotonic()
        return Shot(picture, self._number, self._last - self._start, self._last, time())
