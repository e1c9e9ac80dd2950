"""The verb `serve`: address, TLS, limit of open files, and the operator's log."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from threading import Lock
from time import monotonic
from typing import Any

from catflap.errors import CatflapError, system_reason
from catflap.image import silence_libtiff
from catflap.progress import ignore
from catflap.serving.app import create_app
from catflap.serving.connections import SPARE, Guard, Listener, run_server, uvicorn_server
from catflap.serving.serve_settings import ServeSettings
from catflap.serving.service import close_service, open_service
from catflap.stopping import stopped_by_signals

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

OTHER_FILES = 200  # file descriptors for everything that is no connection
UNSENT = 64 << 10  # bytes of a response that the kernel holds for a client that reads slowly
DEAD_PEER = 30_000  # ms without an acknowledgement after which the kernel gives a connection up
LOG_LINES, LOG_SECONDS = 20, 10.0  # at most so many lines in so many seconds


def serve(
    settings: ServeSettings,
    ready: Callable[[dict[str, Any]], None] = ignore,
    note: Callable[[str], None] = ignore,
) -> None:
    """Serve bundles until SIGTERM, SIGHUP or Ctrl-C, then answer the open requests and return.

    `ready` is called with the address and the versions once the server listens; `note` with each line for
    the operator. Raises Refused when a bundle fails its verification here.
    """
    note = LogLimiter(note)
    with bind(settings.host, settings.port) as listener, ExitStack() as starting:
        certificate = _certificate(settings)  # before the bundles, whose verification takes a while
        service = open_service(settings, note)
        starting.callback(close_service, service)
        listener.guard = guard = Guard(settings.limits, service.metrics.closed)
        service.metrics.watch("catflap_connections", "Open connections.", guard.__len__)
        _raise_file_limit(guard, note)
        _quiet_libraries(note)
        server = uvicorn_server(create_app(service), guard, settings.limits, certificate)
        try:
            listener.listen()
        except OSError as error:  # another process was faster
            raise _cannot_listen(settings.host, settings.port, error) from error
        host, port = listener.getsockname()[:2]
        if not service.keys and not ipaddress.ip_address(host).is_loopback:
            note("Warning: no authentication. Anyone who can reach this address can use it. Set --keys.")
        url = f"{'https' if certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        models = {name: service.models.versions(name)[0].version for name in service.models.names()}

        def stop() -> None:
            server.should_exit = True

        with stopped_by_signals(stop):  # uvicorn raises the signal again when it is done
            ready({"url": url, "models": models})
            starting.pop_all()  # from here on the application closes the service
            asyncio.run(run_server(server, guard, listener))


def bind(host: str, port: int) -> Listener:
    """A socket with an address; clients are refused until it listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is stated; without it, responses wait 40 ms
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for name, value in (("TCP_NOTSENT_LOWAT", UNSENT), ("TCP_USER_TIMEOUT", DEAD_PEER)):
        if hasattr(socket, name):  # accepted connections inherit them
            with suppress(OSError):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: Exception) -> CatflapError:
    return CatflapError(
        f"Cannot listen on {host} port {port}: {system_reason(error)}.",
        "Use another --port, or 0 for a free one.",
    )


def _certificate(settings: ServeSettings) -> ssl.SSLContext | None:
    """The TLS certificate with its key; None without --tls-cert."""
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:  # also ssl.SSLError
        raise CatflapError(
            f"The TLS certificate or key cannot be used: {error}.", "Give both as PEM files that match."
        ) from error
    return context


def _raise_file_limit(guard: Guard, note: Callable[[str], None]) -> None:
    """Allow this process a file descriptor for each connection, or lower the cap of connections."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = guard.most + SPARE + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    if soft != resource.RLIM_INFINITY and soft < guard.most + SPARE + OTHER_FILES:
        most = max(1, soft - SPARE - OTHER_FILES)
        note(
            f"This process may open {soft} files, so at most {most} connections are open at once (ulimit -n)."
        )
        guard.most = most


class LogLimiter:
    """Passes lines on to the operator's log: at most 20 in 10 seconds, then only how many were left out."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._write = write
        self._clock = clock
        self._lock = Lock()
        self._since = -LOG_SECONDS
        self._lines = self._left_out = 0

    def __call__(self, line: str) -> None:
        """Log a line, or leave it out."""
        with self._lock:
            now, left_out = self._clock(), 0
            if now - self._since >= LOG_SECONDS:
                left_out, self._left_out = self._left_out, 0
                self._since, self._lines = now, 0
            self._lines += 1
            is_shown = self._lines <= LOG_LINES
            self._left_out += not is_shown
        if left_out:
            self._write(f"{left_out} more lines were left out of this log.")
        if is_shown:
            self._write(line)


class _LibraryLog(logging.Handler):
    """Passes errors of uvicorn and asyncio on to the operator, a line each, without tracebacks."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        with suppress(Exception):
            self._note(" ".join(f"{record.name}: {record.getMessage()}".split())[:500])


def _quiet_libraries(note: Callable[[str], None]) -> None:
    """Log what uvicorn and asyncio report; silence libtiff, which prints on stderr for each damaged photo."""
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [_LibraryLog(note)]
        logger.propagate = False
    silence_libtiff()
