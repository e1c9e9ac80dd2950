"""What is watched, in a browser: the latest frame with its decision, as Motion JPEG over HTTP."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from urllib.parse import urlsplit

from catflap.errors import CatflapError, system_reason

VIEWERS = 4
STALE = 10.0  # seconds that a viewer may take for a frame
PAGE = (
    b"<!doctype html><meta charset=utf-8><title>Catflap</title>"
    b"<style>body{margin:0;background:#111}img{display:block;margin:auto;max-width:100%}</style>"
    b'<img src="stream" alt="what the camera sees, with the decision">'
)
BOUNDARY = "frame"


class Preview:
    """A small server; `viewers` is how many look, so that nobody draws for nobody.

    It is `private` when only this machine can reach it. Then it answers only to a name of this machine:
    a page from elsewhere, whose own name somebody let lead here, would else see what the camera sees.
    """

    def __init__(self, host: str, port: int) -> None:
        self.viewers = 0
        self._news = Condition()
        self._jpeg = b""
        self._number = 0
        self._closed = False
        try:
            self._server = (_Server6 if ":" in host else _Server)((host, port), partial(_Viewer, self))
        except (OSError, OverflowError, TypeError, ValueError) as error:  # the last two: it is no host name
            why = system_reason(error)
            raise CatflapError(
                f"Cannot listen on {host} port {port}: {why}.",
                "Use another port, or an address of this machine.",
            ) from error
        self._host = host.lower()
        self.port = int(self._server.server_address[1])
        self.private = ipaddress.ip_address(str(self._server.server_address[0])).is_loopback
        Thread(target=self._server.serve_forever, args=(0.2,), name="preview", daemon=True).start()

    def answers_to(self, host: str) -> bool:
        """Whether it may be asked under the name in a Host header."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            is_here = name in ("localhost", self._host) or ipaddress.ip_address(name).is_loopback
        except ValueError:
            is_here = False
        return is_here or not self.private

    def show(self, jpeg: bytes) -> None:
        """Show a frame to whoever looks."""
        with self._news:
            self._jpeg = jpeg
            self._number += 1
            self._news.notify_all()

    def close(self) -> None:
        """End the pictures of every viewer and stop listening."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

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

    def next(self, after: int) -> tuple[int, bytes | None]:
        """The first frame later than `after`, with its number; None when there will be none.

        When nothing comes for a while it is the same frame again, so that a viewer who left is noticed.
        """
        with self._news:
            self._news.wait_for(lambda: self._closed or self._number > after, STALE)
            return self._number, None if self._closed else self._jpeg


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A viewer that left is nothing to tell."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Viewer(BaseHTTPRequestHandler):
    timeout = STALE

    def __init__(self, preview: Preview, *rest: object) -> None:
        self._preview = preview
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The page, or the stream in it."""
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
        """Say nothing on stderr."""

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
        while True:
            number, jpeg = self._preview.next(number)
            if jpeg is None:
                return
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
