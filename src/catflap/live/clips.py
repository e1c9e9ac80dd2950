"""The seconds around each decision as a film: a short memory of frames, and a file for each event."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread

from catflap.errors import CatflapError
from catflap.image import Photo
from catflap.live.frames import Shot
from catflap.live.opencv import film, small_jpeg
from catflap.live.sinks import CappedFolder

RATE = 10.0  # frames a second of a clip, at most
LONGEST = 60.0  # seconds of one clip, after its first decision, however many follow
SLACK = 1e-3  # seconds by which a frame may be early
Kept = tuple[float, bytes]  # the source's clock in seconds, and a JPEG


@dataclass
class _Clip:
    name: str
    frames: list[Kept]
    until: float
    latest: float


class Clips:
    """Keeps the last seconds of frames, and writes a film from so long before a decision to so long after.

    A decision within a clip prolongs it. Films are encoded on a thread of their own, one at a time. They
    lie in a CappedFolder, which deletes the oldest ones; `written` counts them.
    """

    def __init__(self, saved: CappedFolder, seconds: float, note: Callable[[str], None]) -> None:
        self.written = 0
        self._saved = saved
        self._seconds = seconds
        self._note = note
        self._failing = False
        self._recent: deque[Kept] = deque()
        self._shot: Shot | None = None
        self._clip: _Clip | None = None
        self._thread: Thread | None = None

    def see(self, shot: Shot, photo: Photo) -> None:
        """Remember a frame; the clip that it completes is written."""
        self._shot = shot
        last = self._recent[-1][0] if self._recent else -math.inf
        if shot.clock - last >= 1 / RATE - SLACK:
            jpeg = small_jpeg(photo)
            if jpeg is not None:
                self._recent.append((shot.clock, jpeg))
                if self._clip is not None:
                    self._clip.frames.append((shot.clock, jpeg))
        while self._recent and shot.clock - self._recent[0][0] > self._seconds + SLACK:
            self._recent.popleft()
        if self._clip is not None and shot.clock >= self._clip.until - SLACK:
            self.finish()

    def decided(self, label: str) -> str | None:
        """A decision about the frame seen last: the path that its clip will have; None without a frame."""
        if self._shot is None or not (self._recent or self._clip):
            return None
        clock = self._shot.clock
        if self._clip is None:
            name = self._saved.name(self._shot.time, self._shot.number, label, "mp4")
            self._clip = _Clip(name, list(self._recent), clock, clock + LONGEST)
        self._clip.until = min(clock + self._seconds, self._clip.latest)
        return self._saved.path(self._clip.name)

    def finish(self) -> None:
        """Write the clip that is open with what there is; while an earlier one is written, wait for it."""
        if self._clip is not None:
            clip, self._clip = self._clip, None
            self._join()
            self._thread = Thread(target=self._write, args=(clip,), name="clip", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Finish the open clip and wait until it is written."""
        self.finish()
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _write(self, clip: _Clip) -> None:
        try:
            data = film(on_the_beat(clip.frames, RATE), RATE)
        except Exception as error:  # whatever OpenCV or the disk is or does, the watch goes on
            if not self._failing:
                self._failing = True
                why = str(error) if isinstance(error, CatflapError) else f"{type(error).__name__}: {error}."
                self._note(f"The clip {clip.name} was not saved: {why} The watch goes on without clips.")
            return
        if self._failing:
            self._failing = False
            self._note("Clips are made again.")
        self.written += self._saved.put(clip.name, data)


def on_the_beat(frames: list[Kept], rate: float) -> Iterator[bytes]:
    """For each moment of an even beat the frame that was shown then, so that a clip runs in true time."""
    start, end = frames[0][0], frames[-1][0]
    place = 0
    for number in range(round((end - start) * rate) + 1):
        while place + 1 < len(frames) and frames[place + 1][0] <= start + number / rate + SLACK:
            place += 1
        yield frames[place][1]
