"""Everything that uses OpenCV: cameras, streams and videos; the preview's picture; the video of a clip."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # OpenCV would write on stderr; errors are raised instead
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from catflap.errors import BadPhoto, CatflapError
from catflap.image import Photo, Pixels, inspect
from catflap.live.frames import SourceFrame, SourceLost

QUALITY = 80  # of the JPEGs of the preview and of clips
PREVIEW_WIDTH = 960  # px, at most
CLIP_WIDTH = 640  # px, at most
SLACK = 1e-3  # seconds by which a frame may be early

cv2.setNumThreads(1)  # else each call uses every core, which the network needs


class Capture:
    """An opened camera, stream or video; a live one raises SourceLost where a file ends."""

    def __init__(self, target: int | str, *, live: bool, timeout: float) -> None:
        self._live = live
        if isinstance(target, int) or target.startswith("/dev/"):
            api = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
            self._capture = cv2.VideoCapture(target, api)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            limit = max(1, int(timeout * 1000))
            options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
            if live:  # each further decoding thread would delay the frames by one
                options += [cv2.CAP_PROP_N_THREADS, 1]
            self._capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, options)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceLost("it cannot be opened")
        self._period = 1 / max(1.0, min(1000.0, self._capture.get(cv2.CAP_PROP_FPS) or 25.0))
        self._clock = -self._period

    def read(self) -> SourceFrame | None:
        """The next frame; None at the end of a video."""
        is_good, bgr = self._capture.read()
        if not is_good or bgr is None:
            if self._live:
                raise SourceLost("it gave no frame")
            return None
        if self._live:
            return SourceFrame(partial(_rgb, bgr), raw=cast("Pixels", bgr))
        position = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        # some videos give no position, or one that goes back
        self._clock = position if position > self._clock else self._clock + self._period
        return SourceFrame(partial(_rgb, bgr), self._clock)

    def close(self) -> None:
        """Release the camera or the connection."""
        self._capture.release()


def _rgb(bgr: Any) -> Pixels:
    return cv2.cvtColor(bgr, cv2.COLOR_GRAY2RGB if bgr.ndim == 2 else cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]


def draw_preview(pixels: Pixels, text: str, region: tuple[int, int, int, int] | None) -> bytes:
    """A JPEG of a frame, RGB (H, W, 3), with a line of text and the classified region in pixels."""
    picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    if region is not None:
        cv2.rectangle(picture, region[:2], region[2:], (0, 255, 255), 2)
    picture = _shrink(picture, PREVIEW_WIDTH)
    ascii_text = text.encode("ascii", "replace").decode()
    font, white = (cv2.FONT_HERSHEY_SIMPLEX, 0.8), (255, 255, 255)
    # A bold text behind a thin one is no outline in OpenCV 5, whose bold letters are wider: a box is.
    (width, height), below = cv2.getTextSize(ascii_text, *font, 1)
    cv2.rectangle(picture, (0, 0), (width + 16, height + below + 14), (0, 0, 0), cv2.FILLED)
    cv2.putText(picture, ascii_text, (8, height + 8), *font, white, 1, cv2.LINE_AA)
    return _jpeg(picture)


def draw_notice(text: str) -> bytes:
    """A JPEG that shows no frame, only a line of text."""
    return draw_preview(np.zeros((360, 640, 3), np.uint8), text, None)


def clip_jpeg(photo: Photo) -> bytes | None:
    """A frame, RGB (H, W, 3) or a JPEG's bytes, as a small JPEG; None when OpenCV cannot read it."""
    if isinstance(photo, bytes):
        try:
            is_wide = inspect(photo).width >= 2 * CLIP_WIDTH
        except BadPhoto:
            return None
        flags = cv2.IMREAD_REDUCED_COLOR_2 if is_wide else cv2.IMREAD_COLOR
        picture = cv2.imdecode(np.frombuffer(photo, np.uint8), flags)
    else:
        picture = cv2.cvtColor(np.asarray(photo), cv2.COLOR_RGB2BGR)
    return None if picture is None else _jpeg(_shrink(picture, CLIP_WIDTH))


class VideoFile:
    """An MP4 file (MPEG-4 Part 2) that is written frame by frame, at `rate` frames a second, in true time.

    Each moment of an even beat shows the frame that was there then. The first frame gives the size.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "clip.mp4"
        self._writer: Any = None
        self._size = (0, 0)
        self._start = self._clock = 0.0
        self._picture: Any = None  # of the latest frame
        self._written = 0

    def add(self, clock: float, jpeg: bytes) -> None:
        """Add a frame that was taken at `clock`, in seconds, not before the last one."""
        picture: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        if self._writer is None:
            self._start = clock
            self._size = (picture.shape[1] & ~1, picture.shape[0] & ~1)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), codec, self._rate, self._size)
        while self._start + self._written / self._rate < clock - SLACK:
            self._writer.write(self._picture)
            self._written += 1
        fits = picture.shape[1::-1] == self._size
        self._picture = picture if fits else cv2.resize(picture, self._size)
        self._clock = clock

    def finish(self) -> bytes:
        """The file; CatflapError when it could not be written, or when there was no frame."""
        try:
            if self._writer is not None:
                while self._written <= round((self._clock - self._start) * self._rate):
                    self._writer.write(self._picture)
                    self._written += 1
                self._writer.release()
            if not self._path.is_file() or not self._path.stat().st_size:
                raise CatflapError(
                    "OpenCV cannot write a video here.", f"Make room in {Path(self._folder.name).parent}."
                )
            return self._path.read_bytes()
        finally:
            self.close()

    def close(self) -> None:
        """Delete it."""
        if self._writer is not None:
            self._writer.release()
        self._folder.cleanup()


def _shrink(picture: Any, width: int) -> Any:
    if picture.shape[1] <= width:
        return picture
    size = (width, max(2, picture.shape[0] * width // picture.shape[1]))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _jpeg(picture: Any) -> bytes:
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])
