"""What the word SOURCE names: a camera, a stream, a video, a folder of photos, or JPEGs on stdin."""

from __future__ import annotations

import os
import re
import stat
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote, urlsplit, urlunsplit

from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, read_file
from catflap.live.frames import Lost, OpenSource, Picture, Source
from catflap.live.mjpeg import START, Splitter
from catflap.runtime.classifier import SUFFIXES, list_photos

CHUNK = 1 << 16
STREAMS = ("multipart/x-mixed-replace", "video/x-motion-jpeg")
PHOTOS = ("image/jpeg", "image/jpg")  # or a stream that says no more of itself
Response: TypeAlias = HTTPResponse | Any
SCHEMES = ("rtsp", "rtsps", "http", "https")
FIX = "Name a camera (0 or /dev/video0), a stream (rtsp://…, http://…), a video, a folder, or - for stdin."


def find_source(word: str, frame: Frame, *, timeout: float, fps: float) -> Source:
    """The Source that a word names; CatflapError when it names none.

    `timeout` is how many seconds a stream may give nothing. Photos of a folder, and JPEGs of a file on
    stdin, have no clock: `fps` says how many make a second. An address that gives one photo is asked for it
    again, at most `fps` times a second; for half of `timeout` it may give none.
    """
    limit = frame.max_bytes
    if word == "-":
        waits = stat.S_ISREG(os.fstat(0).st_mode)
        return Source("stdin", not waits, lambda: _Pipe(0, limit, fps if waits else None), paced=waits)
    if re.fullmatch("[0-9]{1,3}", word):
        return Source(f"camera {word}", True, lambda: _captured(int(word), True, timeout))
    if "://" in word:
        return _stream(word, limit, timeout, fps)
    path = Path(word)
    try:
        if path.is_char_device():
            return Source(word, True, lambda: _captured(word, True, timeout))
        if word and path.is_dir():
            return Source(word, False, lambda: _Folder(word, limit, fps), paced=True)
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise CatflapError(f"There is no source {word!r}.", FIX)
    if word.lower().endswith(SUFFIXES):
        raise CatflapError(f"{word} is one photo.", "Use catflap predict, or name its folder.")
    return Source(word, False, lambda: _captured(str(path.resolve()), False, timeout))


def _stream(url: str, limit: int, timeout: float, fps: float) -> Source:
    try:
        parts = urlsplit(url)
        address = (parts.scheme.lower(), parts.hostname, parts.port)
    except ValueError as error:
        raise CatflapError(f"A source is not a proper URL: {error}.", FIX) from error
    if address[0] not in SCHEMES or not address[1]:
        raise CatflapError(f"A source cannot be reached with {parts.scheme}://.", FIX)
    host = parts.netloc.rpartition("@")[2]
    name = urlunsplit((parts.scheme, host, parts.path, "", ""))
    if address[0].startswith("rtsp"):
        return Source(name, True, lambda: _captured(url, True, timeout))
    return Source(name, True, lambda: _http(url, limit, timeout, fps), paced=True)


def _captured(target: int | str, live: bool, timeout: float) -> OpenSource:
    from catflap.live.opencv import Capture  # the import costs a second, which others need not pay

    return Capture(target, live=live, timeout=timeout)


def _http(url: str, limit: int, timeout: float, fps: float) -> OpenSource:
    """JPEGs, split here, so that frames which nobody judges are never decoded; or else a video."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    keys = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        keys.add_password(None, address, unquote(parts.username), unquote(parts.password or ""))
    opener = urllib.request.build_opener(
        urllib.request.HTTPDigestAuthHandler(keys), urllib.request.HTTPBasicAuthHandler(keys)
    )

    def ask() -> Response:
        try:
            return opener.open(address, timeout=timeout)
        except (OSError, HTTPException, ValueError) as error:
            raise Lost(f"it cannot be opened: {getattr(error, 'reason', error)}") from error

    response = ask()
    kind = response.headers.get_content_type()
    if kind in STREAMS:
        return _HttpJpegs(response, limit)
    first = b"" if kind in PHOTOS else _read(response.read, len(START))
    if kind in PHOTOS or first == START:
        return _HttpJpegs(response, limit, first, _Again(ask, 1 / fps, timeout / 2))
    response.close()
    if kind.startswith("image/"):
        raise CatflapError(f"The address gives a photo of the kind {kind}.", "Let the camera give JPEGs.")
    return _captured(url, True, timeout)


def _read(read: Callable[[int], bytes], count: int) -> bytes:
    try:
        return read(count)
    except (OSError, HTTPException, ValueError) as error:
        raise Lost(f"the stream broke: {error or type(error).__name__}") from error


@dataclass(frozen=True)
class _Again:
    """How one photo is asked for again: every `pause` seconds, for `patience` seconds also in vain."""

    ask: Callable[[], Response]
    pause: float
    patience: float


class _HttpJpegs:
    """JPEGs of an HTTP response that does not end, whose `first` bytes were read.

    With `again`, a response that ends after one JPEG is a photo, which is asked for again. One bad answer
    is then a photo that cannot be read, not the loss of the camera.
    """

    def __init__(
        self, response: Response, limit: int, first: bytes = b"", again: _Again | None = None
    ) -> None:
        self._limit = limit
        self._again = again
        self._due = monotonic() + (again.pause if again else 0.0)
        self._last = b""  # the JPEG that came last
        self._good: float | None = None  # when a photo last came; None as long as it may be a stream
        self._begin(response)
        self._ready = self._splitter.feed(first)

    def read(self) -> Picture:
        """The next JPEG, or a Picture without one."""
        try:
            while not self._ready:
                self._read_on()
        except Lost as error:
            if self._again is None or self._good is None or monotonic() - self._good >= self._again.patience:
                raise
            self._found = 1  # the next read asks again
            self.close()
            return Picture(partial(_no_photo, str(error)), raw=self._last)  # nothing new
        jpeg = self._last = self._ready.pop(0)
        self._good = self._good and monotonic()
        return Picture(lambda: jpeg, raw=jpeg)

    def close(self) -> None:
        """Hang up."""
        self._response.close()

    def _begin(self, response: Response) -> None:
        self._response = response
        self._splitter = Splitter(self._limit)
        self._found = 0  # JPEGs in this response

    def _read_on(self) -> None:
        chunk = _read(self._response.read1, CHUNK)
        if chunk:
            self._ready = self._splitter.feed(chunk)
            self._found += len(self._ready)
            return
        if self._again is None or self._found != 1:
            raise Lost("the stream ended" if self._good is None else "the answer holds no JPEG")
        self.close()
        self._good = self._good or monotonic()
        sleep(max(0.0, self._due - monotonic()))
        self._due = monotonic() + self._again.pause
        self._begin(self._again.ask())


def _no_photo(why: str) -> NoReturn:
    raise BadPhoto("unreadable", f"The camera gave no photo: {why}.", "Ask it less often: a lower --fps.")


class _Pipe:
    """JPEGs one after the other on a file descriptor; with `fps` they have a clock of their own."""

    def __init__(self, descriptor: int, limit: int, fps: float | None) -> None:
        self._descriptor = descriptor
        self._splitter = Splitter(limit)
        self._ready: list[bytes] = []
        self._fps = fps
        self._count = 0

    def read(self) -> Picture | None:
        """The next JPEG; None when the pipe was closed."""
        while not self._ready:
            # not sys.stdin: a thread that waits in it would stop the interpreter from ending
            chunk = os.read(self._descriptor, CHUNK)
            if not chunk:
                return None
            self._ready = self._splitter.feed(chunk)
        jpeg = self._ready.pop(0)
        self._count += 1
        return Picture(lambda: jpeg, (self._count - 1) / self._fps if self._fps else None, raw=jpeg)

    def close(self) -> None:
        """The pipe belongs to whoever made it."""


class _Folder:
    """The photos of a folder in the order of their names."""

    def __init__(self, folder: str, limit: int, fps: float) -> None:
        self._limit = limit
        self._fps = fps
        self._photos: Iterator[tuple[int, tuple[str, BadPhoto | None]]] = enumerate(list_photos(folder))

    def read(self) -> Picture | None:
        """The next photo; None after the last one."""
        found = next(self._photos, None)
        if found is None:
            return None
        number, (path, fault) = found
        return Picture(lambda: self._bytes(path, fault), number / self._fps, path)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _bytes(self, path: str, fault: BadPhoto | None) -> bytes:
        if fault is not None:
            raise fault
        return read_file(path, self._limit)
