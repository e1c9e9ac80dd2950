"""The preview: the latest frame with its decision, as Motion JPEG over HTTP, for a browser."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from catflap.errors import BadPhoto, CatflapError, system_reason
from catflap.image import Frame, Photo, read_whole
from catflap.live.opencv import draw_notice, draw_preview
from catflap.live.watch_settings import Region, pixel_box

VIEWERS = 4  # who see the stream at a time
CONNECTIONS = 16  # open at a time, with those that asked nothing yet
HEAD_SECONDS = 10.0  # that a connection has for its request
FRAME_SECONDS = 10.0  # that a viewer has to take a frame
DRAW_EVERY = 1 / 15  # seconds between two pictures
PAGE = (
    b'<!doctype html><html lang="en"><meta charset=utf-8><title>Catflap</title>'
    b'<meta name="viewport" content="width=device-width, initial-scale=1">'
    b"<style>body{margin:0;background:#111}img{display:block;margin:auto;max-width:100%}</style>"
    b'<main><h1 style="position:absolute;clip-path:inset(50%)">What the camera sees</h1>'
    b'<img src="stream" alt="What the camera sees, with the decision"></main></html>'
)
BOUNDARY = "frame"


class Preview:
    """A small server. Frames are drawn on the threads of its viewers, and only while there are any.

    It is `private` when only this machine can reach it. Then it answers only to a name of this machine: a
    page from elsewhere could otherwise let its own name lead here, and see what the camera sees.
    """

    def __init__(
        self,
        host: str,
        port: int,
        frame: Frame | None = None,
        region: Region | None = None,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        self.viewers = 0
        self._frame = frame or Frame()
        self._region = region
        self._news = Condition()
        self._drawing = Lock()
        self._shown: Photo | None = None  # the latest frame; None for a notice
        self._text = "waiting for a frame"
        self._number = 1  # of the latest frame or notice
        self._drawn = (0, b"")  # the number of what was drawn last, and its JPEG
        self._drawn_at = 0.0
        self._is_closed = False
        try:
            server = _Server6 if ":" in host else _Server
            self._server = server((host, port), partial(_Viewer, self), head_seconds)
        except (OSError, OverflowError, TypeError, ValueError) as error:  # the last two: not a host name
            raise CatflapError(
                f"Cannot listen on {host} port {port}: {system_reason(error)}.",
                "Use another port, or an address of this machine.",
            ) from error
        self._host = host.lower()
        self.port = int(self._server.server_address[1])
        self.private = ipaddress.ip_address(str(self._server.server_address[0])).is_loopback
        Thread(target=self._server.serve_forever, args=(0.2,), name="preview", daemon=True).start()

    def show(self, photo: Photo | None, text: str) -> None:
        """Show a frame with a line of text, or without a frame only the text."""
        with self._news:
            self._shown, self._text = photo, text
            self._number += 1
            self._news.notify_all()

    def close(self) -> None:
        """End the stream of every viewer and stop listening."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def answers_to(self, host: str) -> bool:
        """Whether it may be asked under the name in a Host header."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            is_here = name in ("localhost", self._host) or ipaddress.ip_address(name).is_loopback
        except ValueError:
            is_here = False
        return is_here or not self.private

    def join(self) -> bool:
        """Count a viewer, unless there are enough."""
        with self._news:
            if self.viewers >= VIEWERS:
                return False
            self.viewers += 1
            return True

    def leave(self) -> None:
        """Count one less."""
        with self._news:
            self.viewers -= 1

    def next(self, after: int) -> tuple[int, bytes] | None:
        """The first picture later than number `after`, with its number; None when there will be none.

        When nothing comes for a while it is the same picture again, so that a viewer who left is noticed.
        """
        with self._news:
            self._news.wait_for(lambda: self._is_closed or self._number > after, FRAME_SECONDS)
            if self._is_closed:
                return None
        with self._drawing:  # one viewer draws for all
            with self._news:
                soon = self._drawn_at + DRAW_EVERY - monotonic()
                self._news.wait_for(lambda: self._is_closed, max(0.0, soon))
                number, photo, text = self._number, self._shown, self._text
            if self._drawn[0] != number:
                self._drawn = number, self._draw(photo, text)
                self._drawn_at = monotonic()
            return self._drawn

    def _draw(self, photo: Photo | None, text: str) -> bytes:
        if photo is None:
            return draw_notice(text)
        try:
            pixels: Any = read_whole(photo, self._frame) if isinstance(photo, bytes) else photo
        except BadPhoto as error:
            return draw_notice(error.what)
        height, width = pixels.shape[:2]
        box = None if self._region is None else pixel_box(self._region, width, height)
        return draw_preview(pixels, text, box)


class _Server(ThreadingHTTPServer):
    """Threads for at most CONNECTIONS; one that has sent no request in time is closed."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any, head_seconds: float) -> None:
        self.waiting: dict[socket.socket, float] = {}  # connections without a request, and their deadline
        self._head_seconds = head_seconds
        self._open = 0
        self._counting = Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or close it where there are enough."""
        with self._counting:
            is_full = self._open >= CONNECTIONS
            self._open += not is_full
            if not is_full:
                self.waiting[request] = monotonic() + self._head_seconds
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._counting:
                self._open -= 1
                self.waiting.pop(request, None)

    def service_actions(self) -> None:
        """Cut off connections that are late; called a few times a second."""
        with self._counting:
            now = monotonic()
            for request in [one for one, deadline in self.waiting.items() if deadline < now]:
                del self.waiting[request]
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Ignore a viewer that left."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Viewer(BaseHTTPRequestHandler):
    timeout = FRAME_SECONDS

    def __init__(self, preview: Preview, *rest: object) -> None:
        self._preview = preview
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Send the page, or the stream in it."""
        self.server.waiting.pop(self.connection, None)  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        if not self._preview.answers_to(self.headers.get("Host", "")):
            self._head(421, "text/plain", 0)  # Misdirected Request, RFC 9110
        elif path == "/":
            self._head(200, "text/html; charset=utf-8", len(PAGE))
            self.wfile.write(PAGE)
        elif path != "/stream":
            self._head(404, "text/plain", 0)
        elif not self._preview.join():
            self._head(503, "text/plain", 0)
        else:
            try:
                with suppress(OSError):
                    self._stream()
            finally:
                self._preview.leave()

    def log_message(self, *_: object) -> None:
        """Write nothing on stderr."""

    def _head(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _stream(self) -> None:
        self._head(200, f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        number = 0
        while (picture := self._preview.next(number)) is not None:
            number, jpeg = picture
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")  # FRAME_SECONDS for all of it
