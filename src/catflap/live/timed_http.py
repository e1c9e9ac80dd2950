"""HTTP requests with one deadline for all of it: name look-up, connection, TLS, request and answer headers.

urllib's own timeout is one for each read of a socket: a server that sends a byte now and then is never late.
"""

from __future__ import annotations

import socket
import ssl
import urllib.request
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Timer
from time import monotonic
from typing import Any


def build_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """A urllib opener whose `timeout` is that deadline; then it raises URLError, which says so.

    The answer's body has no deadline, only a timeout for each read. A name look-up cannot be cut off: it ends
    when the system's resolver gives up, and nothing is sent after the deadline.
    """
    return urllib.request.build_opener(_HttpHandler(), _HttpsHandler(), *handlers)


class _Deadline(HTTPConnection):
    """A connection that a timer cuts off when the answer's headers are not there in time."""

    def __init__(self, host: str, timeout: float, **rest: Any) -> None:
        super().__init__(host, timeout=timeout, **rest)
        self._seconds = timeout
        self._end = monotonic() + timeout
        self._is_late = False
        self._timer: Timer | None = None
        self._handle: socket.socket | None = None  # of the same connection; TLS takes over the first one
        self._create_connection = self._open

    def request(self, *args: Any, **rest: Any) -> None:
        """Connect and send."""
        try:
            super().request(*args, **rest)
        except (OSError, HTTPException) as error:
            raise self._named(error) from error

    def getresponse(self) -> HTTPResponse:
        """The status and headers."""
        try:
            response = super().getresponse()
            if self._is_late:  # headers that were cut off look like headers that ended
                raise TimeoutError
            return response
        except (OSError, HTTPException) as error:
            raise self._named(error) from error
        finally:
            self._release()

    def close(self) -> None:
        """Close the connection."""
        self._release()
        super().close()

    def _open(self, address: tuple[str, int], *_: object) -> socket.socket:
        failure: OSError = TimeoutError("timed out")
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            left = self._end - monotonic()
            if left <= 0:
                break
            opened = socket.socket(family, kind, protocol)
            opened.settimeout(left)
            try:
                opened.connect(place)
            except OSError as error:
                failure = error
                opened.close()
                continue
            opened.settimeout(self._seconds)
            self._handle = opened.dup()
            self._timer = Timer(max(0.0, self._end - monotonic()), self._cut)
            self._timer.daemon = True
            self._timer.start()
            return opened
        raise failure

    def _cut(self) -> None:
        self._is_late = True
        if self._handle is not None:
            with suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._handle is not None:
            self._handle.close()

    def _named(self, error: Exception) -> Exception:
        if self._is_late or isinstance(error, TimeoutError):
            return TimeoutError(f"no answer within {self._seconds:g} s")
        return error


class _TlsDeadline(_Deadline, HTTPSConnection):
    """The same over TLS, with the handshake."""


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        """Open an http:// address."""
        connection: Any = _Deadline
        return self.do_open(connection, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        """Open an https:// address."""
        connection: Any = _TlsDeadline
        return self.do_open(connection, request, context=ssl.create_default_context())
