"""A deadline for each connection in every state, and a cap on their number; owns uvicorn.

uvicorn waits forever for a client that sends or reads nothing, and so do its peers: granian and hypercorn
have no deadline for a response that is not read. Guard keeps the state of each connection:

    handshake ─▶ head ─▶ body ─▶ answer ─▶ send ─▶ idle ─▶ head …
                                             └──▶ linger (the answer came before the whole body)

One sweep a second closes what has been in its state for too long. At the cap, a new connection takes the
place of the oldest in the state that has the most, so that no flood of one kind keeps others out.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from enum import Enum
from functools import partial
from time import monotonic
from typing import Any, TypeAlias, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from catflap.serving.serve_settings import ServeLimits

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]

SWEEP = 1.0  # seconds between two sweeps
HANDSHAKE, HEAD, IDLE, LINGER = 10.0, 10.0, 5.0, 5.0  # seconds in these states
SLACK = 5.0  # seconds beyond the application's own deadlines for body and answer
WINDOW, FLOOR = 10.0, 4096  # seconds in which a client reads at least FLOOR bytes a second
HEAD_BYTES, HEADERS = 32 << 10, 100  # of one request
PIPELINED = 3  # requests of one connection that wait for their turn
SPARE = 100  # connections beyond the cap, of which only health routes and metrics are answered
CHUNK = 32 << 10  # bytes of a large response that are handed to a connection at once
ACCEPTED = 64  # connections that are accepted in a row, before those that are open get their turn
DRAIN = 0.2  # seconds at the end in which connections that the kernel holds are still accepted
GRACE = 5  # seconds beyond the deadline that open requests get at the end
BACKLOG = 2048  # connections that the kernel holds until they are accepted
UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
# keys of an ASGI scope: the Connection and the number of the request; whether too many connections are open
CONNECTION, CROWDED = "catflap.connection", "catflap.crowded"


class State(Enum):
    """What a connection waits for."""

    IDLE = "idle"  # the next request
    HEAD = "head"  # the rest of the head of a request
    HANDSHAKE = "handshake"  # TLS
    LINGER = "linger"  # a body that nobody reads, so that the client reads the answer and not a reset
    SEND = "send"  # the client to read the response
    BODY = "body"  # the rest of the body
    ANSWER = "answer"  # the application; never gives way


class Guard:
    """All connections of a server by state, the oldest in it first."""

    def __init__(self, limits: ServeLimits, count_closed: Callable[[str], None]) -> None:
        self.most = limits.connections
        self._count_closed = count_closed
        self._deadlines = {
            State.HEAD: HEAD, State.IDLE: IDLE, State.LINGER: LINGER + SLACK,
            State.BODY: limits.upload + SLACK, State.ANSWER: limits.deadline + SLACK,
        }  # fmt: skip
        self._states: dict[State, dict[Connection, None]] = {state: {} for state in State}
        self._handshakes: dict[int, tuple[socket.socket, float]] = {}  # by file descriptor

    def __len__(self) -> int:
        """How many connections are open."""
        return sum(map(len, self._states.values())) + len(self._handshakes)

    def in_state(self, state: State) -> list[Connection]:
        """The connections in a state, the oldest in it first."""
        return list(self._states[state])

    def admit(self, accepted: socket.socket) -> bool:
        """Take in a new connection, at the cap instead of another; False when there is no room at all."""
        if len(self) >= self.most:
            self._close_one()
            if len(self) >= self.most + SPARE:
                self._count_closed("refused")
                return False
        self._handshakes[accepted.fileno()] = accepted, monotonic()
        return True

    def update(self, connection: Connection) -> None:
        """Move a connection into the state that it now is in, as the newest there; if gone, it stays gone."""
        if connection.is_lingering:
            state = State.LINGER
        elif connection.is_sending:
            state = State.SEND
        elif connection.begun > connection.answered:
            state = State.ANSWER if connection.complete > connection.answered else State.BODY
        else:
            state = State.HEAD if connection.has_begun_head else State.IDLE
        if state is connection.state or connection.is_gone:  # but its request may still be answered
            return
        self._states[connection.state].pop(connection, None)
        connection.state, connection.since = state, monotonic()
        self._states[state][connection] = None

    def connected(self, connection: Connection) -> None:
        """The TLS handshake, if any, is done."""
        accepted = connection.transport.get_extra_info("socket")
        if self._handshakes.pop(accepted.fileno(), None) is None:  # it gave way before it began
            connection.is_gone = True
            connection.transport.abort()
        self.update(connection)

    def disconnected(self, connection: Connection) -> None:
        """The connection is gone, or about to be."""
        connection.is_gone = True
        self._states[connection.state].pop(connection, None)

    async def watch(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep(monotonic())

    def sweep(self, now: float) -> None:
        """Close every connection that is too late."""
        for state, seconds in self._deadlines.items():
            for connection in self.in_state(state):
                if connection.since + seconds < now:
                    self._close(connection, state.value)
        for connection in self.in_state(State.SEND):
            unread = connection.transport.get_write_buffer_size()
            if not unread and connection.is_answered and not connection.transport.is_closing():
                connection.is_sending = False
                self.update(connection)
            elif now - connection.since >= WINDOW and (unread or connection.transport.is_closing()):
                read = connection.written - unread
                if read - connection.read < FLOOR * WINDOW:
                    self._close(connection, State.SEND.value)
                connection.since, connection.read = now, read
        for number, (accepted, since) in list(self._handshakes.items()):
            if accepted.fileno() != number:  # closed meanwhile
                del self._handshakes[number]
            elif since + HANDSHAKE < now:
                self._drop_handshake(number, State.HANDSHAKE.value)

    def _close_one(self) -> None:
        """Close the oldest connection of the state with the most of them: a flood makes room for itself."""
        crowds = {state: len(self._states[state]) for state in State if state is not State.ANSWER}
        crowds[State.HANDSHAKE] = len(self._handshakes)
        state = max(crowds, key=crowds.__getitem__)
        if not crowds[state]:
            return
        if state is State.HANDSHAKE:
            self._drop_handshake(next(iter(self._handshakes)), "crowded")
        else:
            self._close(next(iter(self._states[state])), "crowded")

    def _close(self, connection: Connection, reason: str) -> None:
        if reason != State.IDLE.value:  # that is the usual end of a connection
            self._count_closed(reason)
        self.disconnected(connection)
        connection.transport.abort()

    def _drop_handshake(self, number: int, reason: str) -> None:
        self._count_closed(reason)
        accepted, _ = self._handshakes.pop(number)
        with suppress(OSError):
            accepted.shutdown(socket.SHUT_RDWR)  # asyncio, which owns it, notices and closes it


class Listener(socket.socket):
    """A listening socket that asks a Guard before it hands on a connection."""

    guard: Guard

    def listen(self, backlog: int = BACKLOG, /) -> None:
        """Let the kernel hold many connections; asyncio's own backlog is what it accepts in a row."""
        super().listen(BACKLOG)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; ConnectionAbortedError, which asyncio skips, when there is no room for it."""
        accepted, address = super().accept()
        if self.guard.admit(accepted):
            return accepted, address
        accepted.close()
        raise ConnectionAbortedError


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which reports its state to a Guard and limits the size of heads and pipelines.

    Of its requests, `begun` have arrived with their head, `complete` with their body; `answered` are done.
    `has_begun_head` is set while the head of the next one is due or has begun. `is_sending` is set while the
    client has to read a response, `is_lingering` while the rest of a body is dropped; `is_gone` when the
    connection closes, `is_lost` once uvicorn knows. `written` is the number of bytes of bodies handed to the
    transport; `read` is how many of them the client had read at the last look.
    """

    def __init__(self, guard: Guard, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.guard = guard
        self.state = State.HANDSHAKE
        self.since = monotonic()
        self.written = self.read = 0
        self.is_answered = self.is_sending = self.is_lingering = self.is_gone = self.is_lost = False
        self.has_begun_head, self._in_head, self._head_bytes = True, True, 0
        self.begun = self.complete = self.answered = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head of a request is due."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=CHUNK // 2)
        self.guard.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side closed it."""
        self.guard.disconnected(self)
        super().connection_lost(exc)
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        """Bytes of heads and bodies."""
        if self._in_head:
            self._head_bytes += len(data)
            # httptools skips the body of a request that asks to upgrade, as Java's client does by default
            if upgrade := UPGRADE.search(data, 0, data.find(b"\r\n\r\n") + 1 or len(data)):
                data = data[: upgrade.start()] + b"\r\nx-upgrade:" + data[upgrade.end() :]
        super().data_received(data)
        self.guard.update(self)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self.send_400_response(f"The head of the request has more than {HEAD_BYTES} bytes.")
        elif self.headers and len(self.headers) > HEADERS:  # trailers behind a chunked body count, too
            self.send_400_response(f"The request has more than {HEADERS} headers.")

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self.has_begun_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is complete: the request begins, or waits for those before it."""
        self.has_begun_head, self._in_head, self._head_bytes = False, False, 0
        if self.begun - self.answered > PIPELINED or len(self.headers) > HEADERS:
            raise ValueError("too many pipelined requests or headers")  # which uvicorn answers with 400
        if self.parser.should_upgrade():
            raise ValueError("a request to upgrade whose headers came in pieces, or CONNECT")
        scope = cast(Scope, self.scope)
        scope[CONNECTION], scope[CROWDED] = (self, self.begun), len(self.guard) > self.guard.most
        if self.begun == self.answered:  # what is unread of the responses before counts no more
            self.is_sending = False
        self.begun += 1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._in_head = True
        self.complete += 1
        super().on_message_complete()

    def end_response(self, request: int) -> None:
        """The application is done with a request."""
        self.answered = request + 1
        self.is_answered, self.is_lingering = True, False
        self.is_sending = self.transport.is_closing() or self.transport.get_write_buffer_size() > 0
        self.guard.update(self)


async def guarded(app: Any, scope: Scope, receive: Any, send: Any) -> None:
    """An ASGI application whose every response is bounded, also when the request was not read to its end."""
    if CONNECTION not in scope:  # the lifespan; or another server than ours
        await app(scope, receive, send)
        return
    connection, request = scope[CONNECTION]
    try:
        await app(scope, receive, partial(_send, connection, request, receive, send))
    finally:
        connection.end_response(request)


async def _send(connection: Connection, request: int, receive: Any, send: Any, message: Message) -> None:
    """Send a part of a response; after the last, drop what still comes of the request, then close.

    A body that was not read would otherwise be taken for the next request, or keep the connection open; and
    a connection that is closed at once resets the client before it has read the response.
    """
    if message["type"] == "http.response.start":
        transport = connection.transport
        connection.is_answered, connection.is_sending = False, True
        connection.read = connection.written - transport.get_write_buffer_size()
        connection.since = monotonic()  # from now on the client has to read at a minimal rate
        connection.guard.update(connection)
        if request >= connection.complete:
            others = [header for header in message["headers"] if header[0].lower() != b"connection"]
            message = {**message, "headers": [*others, (b"connection", b"close")]}
        await send(message)
        return
    connection.written += len(message.get("body", b""))
    if message.get("more_body") or request < connection.complete:
        await send(message)
        return
    await send({**message, "more_body": True})
    connection.is_lingering = True
    connection.guard.update(connection)
    with suppress(TimeoutError, asyncio.CancelledError):  # at shutdown the loop cancels what lingers
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body"})


def uvicorn_server(
    app: Any, guard: Guard, limits: ServeLimits, certificate: ssl.SSLContext | None = None
) -> uvicorn.Server:
    """uvicorn's server for an application whose connections a Guard watches."""
    config = uvicorn.Config(
        partial(guarded, app),
        lifespan="on",
        interface="asgi3",
        http=cast(Any, partial(Connection, guard)),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=ACCEPTED,
        timeout_keep_alive=int(IDLE),
        timeout_graceful_shutdown=int(limits.deadline) + GRACE,
    )
    config.load()
    config.ssl = certificate
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn's server, which at its end first accepts the connections that the kernel holds."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening a little later, because the kernel resets connections that were not accepted."""
        await asyncio.sleep(DRAIN)
        await super().shutdown(sockets)


async def run_server(server: uvicorn.Server, guard: Guard, listener: Listener) -> None:
    """Serve until the server is asked to exit."""
    sweeping = asyncio.create_task(guard.watch())
    await server.serve(sockets=[listener])
    sweeping.cancel()
