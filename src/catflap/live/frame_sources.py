"""What SOURCE names (a camera, a stream, a video, a folder, JPEGs on stdin), and how each is read."""

from __future__ import annotations

import os
import re
import stat
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote, urlsplit, urlunsplit

from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, read_file
from catflap.live.frames import OpenSource, Source, SourceFrame, SourceLost
from catflap.live.timed_http import build_opener
from catflap.runtime.classifier import SUFFIXES, list_photos

CHUNK = 1 << 16
STREAMS = ("multipart/x-mixed-replace", "video/x-motion-jpeg")
PHOTOS = ("image/jpeg", "image/jpg")  # one photo, or a stream that does not say so
SCHEMES = ("rtsp", "rtsps", "http", "https")
FIX = "Name a camera (0 or /dev/video0), a stream (rtsp://…, http://…), a video, a folder, or - for stdin."
Response: TypeAlias = HTTPResponse | Any

# JPEG markers, ITU-T T.81 B.1.1
START = b"\xff\xd8\xff"
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = 0xD8, 0xD9, 0xDA
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends a scan: any marker but a restart


def find_source(text: str, frame: Frame, *, timeout: float, fps: float) -> Source:
    """The Source that `text` names; CatflapError when it names none.

    `timeout` is how many seconds a stream may give no frame. Photos of a folder, and JPEGs of a file on
    stdin, have no clock: `fps` says how many make a second. An address that gives one photo is asked again,
    at most `fps` times a second; for half of `timeout` it may give none.
    """
    limit = frame.max_bytes
    if text == "-":
        is_file = stat.S_ISREG(os.fstat(0).st_mode)
        pace = fps if is_file else None
        return Source("stdin", not is_file, lambda: _Pipe(0, limit, pace), paced=is_file)
    if re.fullmatch("[0-9]{1,3}", text):
        return Source(f"camera {text}", True, lambda: _open_capture(int(text), True, timeout))
    if "://" in text:
        return _stream(text, limit, timeout, fps)
    path = Path(text)
    try:
        if path.is_char_device():
            return Source(text, True, lambda: _open_capture(text, True, timeout))
        if text and path.is_dir():
            return Source(text, False, lambda: _Folder(text, limit, fps), paced=True)
        exists = path.is_file()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise CatflapError(f"There is no source {text!r}.", FIX)
    if text.lower().endswith(SUFFIXES):
        raise CatflapError(f"{text} is one photo.", "Use catflap predict, or name its folder.")
    return Source(text, False, lambda: _open_capture(str(path.resolve()), False, timeout))


def _stream(url: str, limit: int, timeout: float, fps: float) -> Source:
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as error:
        raise CatflapError(f"The source is not a valid URL: {error}.", FIX) from error
    if scheme not in SCHEMES or not host:
        raise CatflapError(f"A source cannot be reached with {parts.scheme}://.", FIX)
    public = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if scheme.startswith("rtsp"):
        return Source(public, True, lambda: _open_capture(url, True, timeout))
    return Source(public, True, lambda: _open_http(url, limit, timeout, fps), paced=True)


def _open_capture(target: int | str, live: bool, timeout: float) -> OpenSource:
    from catflap.live.opencv import Capture  # a second's import, which other sources do not need

    return Capture(target, live=live, timeout=timeout)


def _open_http(url: str, limit: int, timeout: float, fps: float) -> OpenSource:
    """Motion JPEG, split here, so that frames which are not classified are never decoded; or else a video."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, address, unquote(parts.username), unquote(parts.password or ""))
    opener = build_opener(
        urllib.request.HTTPDigestAuthHandler(passwords), urllib.request.HTTPBasicAuthHandler(passwords)
    )

    def request() -> Response:
        try:
            return opener.open(address, timeout=timeout)
        except (OSError, HTTPException, ValueError) as error:
            raise SourceLost(f"it cannot be opened: {getattr(error, 'reason', error)}") from error

    response = request()
    kind = response.headers.get_content_type()
    if kind in STREAMS:
        return _MotionJpeg(response, limit, timeout)
    first = b""
    if kind not in PHOTOS:
        try:
            first = response.read(len(START))
        except (OSError, HTTPException, ValueError) as error:
            raise SourceLost(f"the stream broke: {error or type(error).__name__}") from error
    if kind in PHOTOS or first == START:
        return _MotionJpeg(response, limit, timeout, first, request, 1 / fps)
    response.close()
    if kind.startswith("image/"):
        raise CatflapError(f"The address gives a photo of type {kind}.", "Set the camera to JPEG.")
    return _open_capture(url, True, timeout)


class _MotionJpeg:
    """JPEGs of an HTTP response that does not end, of which the bytes `first` were read already.

    With `request`, a response that ends after one JPEG is a photo, which is requested again every `pause`
    seconds. One bad answer is then a photo that cannot be read, not the loss of the camera.
    """

    def __init__(
        self,
        response: Response,
        limit: int,
        timeout: float,
        first: bytes = b"",
        request: Callable[[], Response] | None = None,
        pause: float = 0.0,
    ) -> None:
        self._limit = limit
        self._timeout = timeout
        self._request = request
        self._pause = pause
        self._due = monotonic() + pause
        self._last = b""  # the JPEG that came last
        self._good: float | None = None  # when a photo last came; None as long as it may be a stream
        self._begin(response)
        self._ready = self._splitter.feed(first)

    def read(self) -> SourceFrame:
        """The next JPEG, or a frame that cannot be loaded."""
        self._since = monotonic()
        try:
            while not self._ready:
                self._read_on()
        except SourceLost as error:
            if self._request is None or self._good is None:
                raise
            if monotonic() - self._good >= self._timeout / 2:
                raise
            self._found = 1  # the next read asks again
            self.close()
            return SourceFrame(partial(_no_photo, str(error)), raw=self._last)  # nothing new
        jpeg = self._last = self._ready.pop(0)
        self._good = self._good and monotonic()
        return SourceFrame(partial(bytes, jpeg), raw=jpeg)

    def close(self) -> None:
        """Close the connection."""
        self._response.close()

    def _begin(self, response: Response) -> None:
        self._response = response
        self._splitter = Splitter(self._limit)
        self._found = 0  # JPEGs in this response
        self._since = monotonic()

    def _read_on(self) -> None:
        try:
            chunk = self._response.read1(CHUNK)
        except (OSError, HTTPException, ValueError) as error:
            raise SourceLost(f"the stream broke: {error or type(error).__name__}") from error
        if chunk:
            self._ready = self._splitter.feed(chunk)
            self._found += len(self._ready)
            if not self._ready and monotonic() - self._since > self._timeout:
                raise SourceLost(f"no whole frame within {self._timeout:g} s")
            return
        if self._request is None or self._found != 1:
            raise SourceLost("the stream ended" if self._good is None else "the answer holds no JPEG")
        self.close()
        self._good = self._good or monotonic()
        sleep(max(0.0, self._due - monotonic()))
        self._due = monotonic() + self._pause
        self._begin(self._request())


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

    def read(self) -> SourceFrame | None:
        """The next JPEG; None when the pipe was closed."""
        while not self._ready:
            # not sys.stdin: a thread that waits in it would keep the interpreter from exiting
            chunk = os.read(self._descriptor, CHUNK)
            if not chunk:
                return None
            self._ready = self._splitter.feed(chunk)
        jpeg = self._ready.pop(0)
        self._count += 1
        clock = (self._count - 1) / self._fps if self._fps else None
        return SourceFrame(partial(bytes, jpeg), clock, raw=jpeg)

    def close(self) -> None:
        """Leave the pipe open: it belongs to the parent process."""


class _Folder:
    """The photos of a folder in the order of their names."""

    def __init__(self, folder: str, limit: int, fps: float) -> None:
        self._limit = limit
        self._fps = fps
        self._photos: Iterator[tuple[int, tuple[str, BadPhoto | None]]] = enumerate(list_photos(folder))

    def read(self) -> SourceFrame | None:
        """The next photo; None after the last one."""
        found = next(self._photos, None)
        if found is None:
            return None
        number, (path, fault) = found
        return SourceFrame(partial(_read_photo, path, fault, self._limit), number / self._fps, path)

    def close(self) -> None:
        """Do nothing; no file is open."""


def _read_photo(path: str, fault: BadPhoto | None, limit: int) -> bytes:
    if fault is not None:
        raise fault
    return read_file(path, limit)


class Splitter:
    """Cuts a stream of bytes into whole JPEGs, with or without multipart headers between; skips the rest.

    The markers are followed as the standard says, so a thumbnail inside does not end its photo.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._place = 0  # how far the current JPEG was followed; 0 before its start is found
        self._in_scan = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The JPEGs that are whole with these bytes; SourceLost when one is larger than the limit."""
        buffer = self._buffer
        buffer += chunk
        place, in_scan = self._place, self._in_scan
        found = []
        while True:
            if not place:
                start = buffer.find(START)
                del buffer[: start if start >= 0 else max(0, len(buffer) - len(START) + 1)]
                if start < 0:
                    break
                place, in_scan = 2, False
            if in_scan:
                marker = AFTER_SCAN.search(buffer, place)
                if marker is None:
                    place = max(place, len(buffer) - 1)
                    break
                place, in_scan = marker.start(), False
            if len(buffer) < place + 2:
                break
            kind = buffer[place + 1]
            if buffer[place] != 0xFF:  # no marker where one has to be: look for another start
                del buffer[:2]
                place = 0
            elif kind == END_OF_IMAGE:
                found.append(bytes(buffer[: place + 2]))
                del buffer[: place + 2]
                place = 0
            elif kind == START_OF_IMAGE:  # the JPEG before was cut off
                del buffer[:place]
                place = 0
            elif kind == 0xFF:  # a fill byte
                place += 1
            elif kind in WITHOUT_LENGTH:
                place += 2
            else:
                if len(buffer) < place + 4:
                    break
                after = place + 2 + max(2, int.from_bytes(buffer[place + 2 : place + 4], "big"))
                if len(buffer) < after:
                    break
                place, in_scan = after, kind == START_OF_SCAN
        self._place, self._in_scan = place, in_scan
        if len(buffer) > self._limit:
            raise SourceLost(f"a frame has more than {self._limit} bytes")
        return found
