"""Bundles to HTTP: the verb `serve`; the one file that owns uvicorn."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from catflap.errors import CatflapError
from catflap.serving.app import create_app
from catflap.serving.service import open_service
from catflap.serving.settings import Settings

STALLED = 10.0  # seconds that a connection may have without a whole head of a request
GRACE = 5  # seconds beyond the deadline that open requests get when the server stops


def _nobody(told: object) -> None:
    """Tell nobody."""


def serve(
    settings: Settings,
    ready: Callable[[dict[str, Any]], None] = _nobody,
    note: Callable[[str], None] = _nobody,
) -> None:
    """Serve bundles until SIGTERM or Ctrl-C, then answer what was asked and return.

    `ready` is told the address and the versions once the server listens; `note` what the operator
    should know. Raises Refused when a bundle fails its verification here.
    """
    service = open_service(settings, note)
    listener = _listen(settings)
    config = uvicorn.Config(
        create_app(service),
        lifespan="on",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.limits.connections,
        timeout_graceful_shutdown=int(settings.limits.deadline) + GRACE,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        listener.close()
        raise CatflapError(
            f"The TLS certificate or key cannot be used: {error}.", "Give both as PEM files that fit."
        ) from error
    _quiet(note)
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls_certificate else "http"
    models = {name: service.shelf.versions(name)[0].version for name in service.shelf.names()}
    server = uvicorn.Server(config)
    with _stopped_by_signals(server):
        ready({"url": f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", "models": models})
        asyncio.run(_serve(server, listener))


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Being stopped is no failure: uvicorn raises the signal again when it is done, and here it ends."""

    def stop(*_: object) -> None:
        server.should_exit = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    sweeping = asyncio.create_task(_close_stalled(server))
    await server.serve(sockets=[listener])
    sweeping.cancel()


async def _close_stalled(server: uvicorn.Server) -> None:
    """Close connections that began a request and did not finish its head, for uvicorn waits forever."""
    before: dict[Any, Any] = {}
    while True:
        await asyncio.sleep(STALLED)
        connections: set[Any] = {*server.server_state.connections}
        idle = {
            connection: connection.cycle
            for connection in connections
            if connection.cycle is None or connection.cycle.response_complete
        }
        for connection, cycle in idle.items():
            if connection in before and before[connection] is cycle:
                connection.transport.close()
        before = idle


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is stated; with it, answers wait 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except (OSError, UnicodeError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise CatflapError(
            f"Cannot listen on {settings.host} port {settings.port}: {why}.",
            "Use another --port, or 0 for a free one.",
        ) from error
    return listener


class _Notes(logging.Handler):
    """Hands what uvicorn and asyncio complain about to the operator, a line each, without tracebacks."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one record."""
        with suppress(Exception):
            self._note(" ".join(f"{record.name}: {record.getMessage()}".split())[:500])


def _quiet(note: Callable[[str], None]) -> None:
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [_Notes(note)]
        logger.propagate = False
