"""What is kept of decisions: their frames, their clips and the field log, all written by one thread."""

from __future__ import annotations

import math
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from catflap.artifacts.folder import write_atomically
from catflap.errors import BadPhoto, CatflapError, system_reason
from catflap.image import Frame, Photo, encode, read_whole
from catflap.live.delivery import Event, Tally
from catflap.live.frames import TICK, Shot, Stop
from catflap.live.watch_settings import WatchSettings
from catflap.runtime.classifier import Classifier, Prediction
from catflap.runtime.recording import Recorder

QUALITY = 90  # of saved frames
CLIP_RATE = 10.0  # frames a second of a clip, at most
CLIP_LONGEST = 60.0  # seconds of one clip, after its first decision, however many follow
SLACK = 1e-3  # seconds by which a frame may be early
CAPACITY = 16  # frames that wait for the thread; then the newest is lost
CLOSE_SECONDS = 5.0  # at the end for what waits
NICE = 10  # of the thread on Linux, so that the network comes first
SAVED = re.compile(r"\d{8}T\d{6}\.\d{3}-\d{6,}-[^/]*\.(jpg|mp4)")
TOO_SLOW = "the disk or the processor is too slow"


class CappedFolder:
    """A folder of frames and clips, of at most `limit` bytes; the oldest make room.

    Only files that are named like its own are ever deleted. A full disk is noted once, until it has room
    again.
    """

    def __init__(self, folder: Path, limit: int, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._limit = limit
        self._note = note
        self._is_failing = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = sorted(entry.name for entry in os.scandir(folder) if SAVED.fullmatch(entry.name))
            self._sizes = {name: (folder / name).stat().st_size for name in names}
        except OSError as error:
            raise CatflapError(
                f"Frames cannot be saved in {folder}: {system_reason(error)}.",
                "Name a folder that can be written.",
            ) from error
        self.bytes = sum(self._sizes.values())

    def path(self, name: str) -> str:
        """Where a file of that name is."""
        return str(self._folder / name)

    def put(self, name: str, data: bytes) -> str:
        """Save a file; "", or the reason why that failed."""
        if len(data) > self._limit:
            return "it is larger than --save-mb"
        while self._sizes and self.bytes + len(data) > self._limit:
            oldest = next(iter(self._sizes))
            with suppress(OSError):
                (self._folder / oldest).unlink(missing_ok=True)
            self.bytes -= self._sizes.pop(oldest)
        try:
            write_atomically(self._folder / name, data, durable=False)
        except CatflapError as error:
            if not self._is_failing:
                self._is_failing = True
                self._note(f"{error.what} {error.fix} The watch goes on without saving.")
            return error.what
        if self._is_failing:
            self._is_failing = False
            self._note(f"Frames and clips are saved in {self._folder} again.")
        self._sizes[name] = len(data)
        self.bytes += len(data)
        return ""


def file_name(shot: Shot, decision: str, suffix: str) -> str:
    """The name of a saved file: when its frame was taken, the number of that, and what was decided."""
    stamp = datetime.fromtimestamp(shot.time).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    word = re.sub(r"[^A-Za-z0-9_]+", "-", decision)[:40]
    return f"{stamp}-{shot.number:06}-{word}.{suffix}"


class Archive:
    """Writes frames and clips of decisions and the field log on one thread; no method waits for the disk.

    Of a live source a frame is lost when too many wait for the thread; a file waits. The three `tallies`
    count what was written and lost. A clip shows from `clip_seconds` before a decision to as long after it; a
    decision within a clip prolongs it.
    """

    def __init__(
        self,
        settings: WatchSettings,
        classifier: Classifier,
        recorder: Recorder | None,
        note: Callable[[str], None],
        stop: Stop,
        *,
        lossless: bool,
    ) -> None:
        self.saved, self.clips, self.logged = Tally("save"), Tally("clips"), Tally("log")
        self._classifier = classifier
        self._recorder = recorder
        self._note = note
        self._stop = stop
        self._lossless = lossless
        self._seconds = settings.clip_seconds
        folders = {
            folder: CappedFolder(folder, settings.save_bytes, note)
            for folder in (settings.save, settings.clips)
            if folder is not None
        }  # in one folder, frames and clips share its limit
        self._save = None if settings.save is None else folders[settings.save]
        self._clips = None if settings.clips is None else folders[settings.clips]
        if self._clips is not None:
            import catflap.live.opencv  # noqa: F401  now, for it takes a second

        # the caller's side of clips: names and times
        self._last = -math.inf  # when a frame was last remembered, on the source's clock
        self._remembered = False
        self._clip = ""  # the name of the open clip
        self._until = self._latest = 0.0  # when it ends, and when it has to
        # the thread's side: pictures
        self._recent: deque[tuple[float, bytes]] = deque()  # the source's clock, and a JPEG
        self._video: Any = None  # the VideoFile of the open clip
        self._clips_fail = False
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._frames = 0  # of those that wait
        self._news = Condition()
        self._is_closed = False
        self._thread = Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    @property
    def tallies(self) -> list[Tally]:
        """Those of what was asked for."""
        pairs = ((self._save, self.saved), (self._clips, self.clips), (self._recorder, self.logged))
        return [tally for part, tally in pairs if part is not None]

    def see(self, shot: Shot, photo: Photo) -> None:
        """Remember a frame for clips; the clip that it completes is finished."""
        if self._clip and shot.clock > self._until + 1 / CLIP_RATE:
            self.finish_clip()  # without this frame, which came long after it should have ended
        if shot.clock - self._last >= 1 / CLIP_RATE - SLACK:
            self._last, self._remembered = shot.clock, True
            self._put(self.clips, "frame", shot.clock, photo)
        if self._clip and shot.clock >= self._until - SLACK:
            self.finish_clip()

    def decided(self, shot: Shot, photo: Photo | None, decision: str) -> Event:
        """A decision about the frame `shot`: where its photo and its clip will be, for the event.

        Without `photo` the frame is the last one before an outage.
        """
        paths = {}
        if self._save is not None and photo is not None:
            name = file_name(shot, decision, "jpg")
            self._put(self.saved, "save", name, photo)
            paths["saved"] = self._save.path(name)
        if self._clips is not None and self._remembered:
            if not self._clip and len(self._waiting) > 4 * CAPACITY:  # clips that the disk does not take
                self.clips.lost += 1
                return paths
            if not self._clip:
                self._clip = file_name(shot, decision, "mp4")
                self._latest = shot.clock + CLIP_LONGEST
                self._put(None, "begin")
            self._until = min(shot.clock + self._seconds, self._latest)
            paths["clip"] = self._clips.path(self._clip)
        return paths

    def finish_clip(self) -> None:
        """End the open clip with what there is."""
        if self._clip:
            self._put(None, "end", self._clip)
            self._clip = ""

    def log(self, photo: Photo, prediction: Prediction, path: str, regular: bool) -> None:
        """Record a frame in the field log; not `regular` when it is there for what it decided."""
        if self._recorder is not None:
            self._put(self.logged, "log", photo, prediction, path, regular)

    def close(self) -> None:
        """Write what waits and the open clip, within some seconds; the rest is lost."""
        self.finish_clip()
        with self._news:
            self._is_closed = True
            self._news.notify_all()
        self._thread.join(CLOSE_SECONDS)
        with self._news:
            for counted, kind, *_ in self._waiting:
                lost = self.clips if kind == "end" else counted
                if lost is not None:
                    lost.lost += 1
            self._waiting.clear()

    def _put(self, counted: Tally | None, *item: Any) -> None:
        """Leave work to the thread; only frames, which are `counted`, can be too many."""
        with self._news:
            while counted is not None and self._frames >= CAPACITY:
                if not self._lossless or self._stop.requested:
                    counted.lost += 1
                    counted.why = TOO_SLOW
                    return
                self._news.wait(TICK)
            self._frames += counted is not None
            self._waiting.append((counted, *item))
            self._news.notify_all()

    def _run(self) -> None:
        if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
            with suppress(OSError):  # Linux takes the number of a thread here
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self._news:
                while not self._waiting:
                    if self._is_closed:
                        return
                    self._news.wait()
                counted, kind, *item = self._waiting.popleft()
                self._frames -= counted is not None
                self._news.notify_all()
            try:
                if kind == "log":
                    photo, prediction, path, regular = item
                    assert self._recorder is not None
                    self._recorder(self._classifier, photo, prediction, "watch", path=path, regular=regular)
                    self.logged.delivered += 1
                elif kind == "save":
                    self._save_frame(*item)
                else:
                    self._film(kind, *item)
            except Exception as error:  # whatever the disk or a library does, the watch goes on
                self._fail(kind, error)
            del item  # else its picture stays in memory while the next one is waited for

    def _save_frame(self, name: str, photo: Photo) -> None:
        assert self._save is not None
        if not (isinstance(photo, bytes) and photo.startswith(b"\xff\xd8")):
            photo = encode(whole_frame(photo, self._classifier.frame), "JPEG", quality=QUALITY)
        why = self._save.put(name, photo)
        self.saved.delivered += not why
        self.saved.lost += bool(why)
        self.saved.why = why or self.saved.why

    def _film(self, kind: str, *item: Any) -> None:
        """Remember a frame, begin a clip with those remembered, add to it, or end it."""
        from catflap.live.opencv import VideoFile, clip_jpeg

        if kind == "frame":
            clock, photo = item
            jpeg = clip_jpeg(photo)
            if jpeg is None:
                return
            self._recent.append((clock, jpeg))
            while clock - self._recent[0][0] > self._seconds + SLACK:
                self._recent.popleft()
            if self._video is not None:
                self._video.add(clock, jpeg)
        elif kind == "begin":
            self._video = VideoFile(CLIP_RATE)
            for clock, jpeg in self._recent:
                self._video.add(clock, jpeg)
        elif self._video is not None:
            video, self._video = self._video, None
            assert self._clips is not None
            why = self._clips.put(item[0], video.finish())
            self.clips.delivered += not why
            self.clips.lost += bool(why)
            self.clips.why = why or self.clips.why
            if self._clips_fail:
                self._clips_fail = False
                self._note("Clips are made again.")

    def _fail(self, kind: str, error: Exception) -> None:
        why = (
            str(error) if isinstance(error, CatflapError | BadPhoto) else f"{type(error).__name__}: {error}."
        )
        tally = {"save": self.saved, "log": self.logged}.get(kind, self.clips)
        tally.lost += 1
        tally.why = why
        if tally is not self.clips:
            return
        if self._video is not None:
            with suppress(Exception):
                self._video.close()
            self._video = None
        if not self._clips_fail:
            self._clips_fail = True
            self._note(f"A clip was not saved: {why} The watch goes on without clips.")


def whole_frame(photo: Photo, frame: Frame) -> Any:
    """All the pixels of a frame, RGB (H, W, 3)."""
    return read_whole(photo, frame) if isinstance(photo, bytes) else photo
