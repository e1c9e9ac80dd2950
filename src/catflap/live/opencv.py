"""Cameras, streams and videos through OpenCV, and the preview's picture; the one file that owns it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # it would write on stderr; what it says, we say
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from catflap.errors import BadPhoto, CatflapError
from catflap.image import Photo, Pixels, inspect
from catflap.live.frames import Lost, Picture

QUALITY = 80  # of the preview's JPEGs
WIDEST = 960  # px of the preview
CLIP_WIDEST = 640  # px of a clip


class Capture:
    """An opened camera, stream or video; a live one raises Lost where a file ends."""

    def __init__(self, target: int | str, *, live: bool, timeout: float) -> None:
        self._live = live
        if isinstance(target, int) or target.startswith("/dev/"):
            api = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
            self._capture = cv2.VideoCapture(target, api)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            patience = max(1, int(timeout * 1000))
            options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, patience, cv2.CAP_PROP_READ_TIMEOUT_MSEC, patience]
            if live:  # each decoding thread more would keep a frame back
                options += [cv2.CAP_PROP_N_THREADS, 1]
            self._capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, options)
        if not self._capture.isOpened():
            self._capture.release()
            raise Lost("it cannot be opened")
        self._period = 1 / max(1.0, min(1000.0, self._capture.get(cv2.CAP_PROP_FPS) or 25.0))
        self._clock = -self._period

    def read(self) -> Picture | None:
        """The next frame; None at the end of a video."""
        good, bgr = self._capture.read()
        if not good or bgr is None:
            if self._live:
                raise Lost("it gave no frame")
            return None
        if self._live:
            return Picture(partial(_rgb, bgr), raw=cast("Pixels", bgr))
        return Picture(partial(_rgb, bgr), self._next_clock())

    def close(self) -> None:
        """Let go of the camera or the connection."""
        self._capture.release()

    def _next_clock(self) -> float:
        """Where the video is, in seconds; one frame further where it does not say or goes back."""
        said = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        self._clock = said if said > self._clock else self._clock + self._period
        return self._clock


def annotated(pixels: Pixels, text: str, region: tuple[int, int, int, int] | None) -> bytes:
    """A JPEG of a frame, RGB (H, W, 3), with a line of text and the judged region in pixels, for people."""
    picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    if region is not None:
        cv2.rectangle(picture, region[:2], region[2:], (0, 255, 255), 2)
    picture = _narrow(picture, WIDEST)
    shown = text.encode("ascii", "replace").decode()
    for colour, thick in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(picture, shown, (8, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, colour, thick, cv2.LINE_AA)
    return _jpeg(picture)


def notice(text: str) -> bytes:
    """A JPEG that shows no frame, only a line of text, for people."""
    return annotated(np.zeros((360, 640, 3), np.uint8), text, None)


def small_jpeg(photo: Photo) -> bytes | None:
    """A frame, RGB (H, W, 3) or a JPEG's bytes, as a JPEG for a clip; None when OpenCV cannot read it."""
    if isinstance(photo, bytes):
        try:
            wide = inspect(photo).width >= 2 * CLIP_WIDEST
        except BadPhoto:
            return None
        how = cv2.IMREAD_REDUCED_COLOR_2 if wide else cv2.IMREAD_COLOR
        picture = cv2.imdecode(np.frombuffer(photo, np.uint8), how)
    else:
        picture = cv2.cvtColor(np.asarray(photo), cv2.COLOR_RGB2BGR)
    return None if picture is None else _jpeg(_narrow(picture, CLIP_WIDEST))


def film(jpegs: Iterable[bytes], rate: float) -> bytes:
    """JPEGs as an MP4 file (MPEG-4 Part 2), `rate` a second, of the first one's size; CatflapError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer, size = None, (0, 0)
        for jpeg in jpegs:
            picture: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if writer is None:
                size = (picture.shape[1] & ~1, picture.shape[0] & ~1)
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
            writer.write(picture if picture.shape[1::-1] == size else cv2.resize(picture, size))
        if writer is not None:
            writer.release()
        if not path.is_file() or not path.stat().st_size:
            raise CatflapError("OpenCV cannot write a film here.", f"Make room in {Path(folder).parent}.")
        return path.read_bytes()


def _narrow(picture: Any, widest: int) -> Any:
    height, width = picture.shape[:2]
    if width <= widest:
        return picture
    size = (widest, max(2, height * widest // width))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _jpeg(picture: Any) -> bytes:
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def _rgb(bgr: Any) -> Pixels:
    return cv2.cvtColor(bgr, cv2.COLOR_GRAY2RGB if bgr.ndim == 2 else cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]
