"""Bundles to HTTP: the verb `serve`; the one file that owns uvicorn."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from catflap.errors import CatflapError, system_reason
from catflap.progress import nobody
from catflap.serving.app import CROWDED, create_app
from catflap.serving.service import Service, close_service, open_service
from catflap.serving.settings import ServeSettings
from catflap.stopping import stopped_by_signals

STALLED = 10.0  # seconds that the head of a request may take
LONGEST = 320 << 10  # bytes of a head; asyncio reads 256 KiB at a time, of which the first may be a body's
SPARE = 100  # connections beyond twice --connections; more are closed unheard
HURRIED = 0.2  # seconds in which who asked before the end is let in
GRACE = 5  # seconds beyond the deadline that open requests get when the server stops


def serve(
    settings: ServeSettings,
    ready: Callable[[dict[str, Any]], None] = nobody,
    note: Callable[[str], None] = nobody,
) -> None:
    """Serve bundles until SIGTERM, SIGHUP or Ctrl-C, then answer what was asked and return.

    `ready` is told the address and the versions once the server listens; `note` what the operator
    should know. Raises Refused when a bundle fails its verification here.
    """
    with _bind(settings) as listener, ExitStack() as starting:
        certificate = _certificate(settings)  # as the address before bundles, which take their time
        service = open_service(settings, note)
        starting.callback(close_service, service)
        server = _server(service, certificate)
        _quiet(note)
        _listen(listener, settings)
        host, port = listener.getsockname()[:2]
        if not service.keys and not ipaddress.ip_address(host).is_loopback:
            note("Whoever reaches this address can ask; --keys asks for a key.")
        url = f"{'https' if certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        models = {name: service.models.versions(name)[0].version for name in service.models.names()}

        def end() -> None:
            server.should_exit = True

        with stopped_by_signals(end):  # uvicorn raises the signal again when it is done
            ready({"url": url, "models": models})
            starting.pop_all()  # from here on the application closes the service
            asyncio.run(_serve(server, listener))


def _server(service: Service, certificate: ssl.SSLContext | None) -> uvicorn.Server:
    """What answers, with our limits."""
    limits = service.settings.limits
    config = uvicorn.Config(
        create_app(service),
        lifespan="on",
        http=_Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=int(limits.deadline) + GRACE,
    )
    config.load()
    config.ssl = certificate
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn's server, which lets in who had asked when it was told to end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening a little later, for the system resets connections that nobody has taken."""
        await asyncio.sleep(HURRIED)
        await super().shutdown(sockets)


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    sweeping = asyncio.create_task(_close_stalled(server))
    await server.serve(sockets=[listener])
    sweeping.cancel()


async def _close_stalled(server: uvicorn.Server) -> None:
    """Close connections that do not get on with the head of a request, for uvicorn waits forever."""
    while True:
        await asyncio.sleep(STALLED / 2)
        connections: set[Any] = {*server.server_state.connections}
        for connection in connections:
            if connection.head_since and monotonic() - connection.head_since > STALLED:
                connection.transport.close()


class _Connection(HttpToolsProtocol):
    """uvicorn's connection, which takes no endless head; `head_since` is when one began, or None.

    Where more than `most` are open, the application is told with each request; far beyond, nobody is heard.
    """

    head_since: float | None = None
    head_bytes = 0
    most = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is due."""
        self.head_since = monotonic()
        super().connection_made(transport)
        self.most = self.config.limit_concurrency or 0
        self.limit_concurrency = None  # else uvicorn itself refuses, in plain text and uncounted
        if len(self.connections) > 2 * self.most + SPARE:
            transport.abort()

    def on_message_begin(self) -> None:
        """The first byte of a head is there."""
        self.head_since, self.head_bytes = monotonic(), 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.head_since = None
        if len(self.connections) > self.most:
            self.scope["extensions"] = {CROWDED: {}}
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes of heads and bodies."""
        super().data_received(data)
        if self.head_since is not None:
            self.head_bytes += len(data)
            if self.head_bytes > LONGEST and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")


def _bind(settings: ServeSettings) -> socket.socket:
    """A socket with our address, at which nobody is answered before `_listen`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is stated; with it, answers wait 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, UnicodeError) as error:
        listener.close()
        raise _taken(settings, error) from error
    return listener


def _listen(listener: socket.socket, settings: ServeSettings) -> None:
    try:
        listener.listen(2048)
    except OSError as error:  # somebody else was faster
        raise _taken(settings, error) from error


def _taken(settings: ServeSettings, error: Exception) -> CatflapError:
    why = system_reason(error)
    return CatflapError(
        f"Cannot listen on {settings.host} port {settings.port}: {why}.",
        "Use another --port, or 0 for a free one.",
    )


def _certificate(settings: ServeSettings) -> ssl.SSLContext | None:
    """The TLS certificate with its key; None where neither was named."""
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:  # ssl.SSLError, too
        raise CatflapError(
            f"The TLS certificate or key cannot be used: {error}.", "Give both as PEM files that fit."
        ) from error
    return context


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
