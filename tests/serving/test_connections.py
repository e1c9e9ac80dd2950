"""Clients that misbehave in every state of a connection; time passes by `Guard.sweep`, not by waiting."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from catflap.serving.connections import HEADERS, PIPELINED, SPARE, Connection, Guard, State, uvicorn_server
from catflap.serving.serve import LogLimiter, bind
from catflap.serving.serve_settings import ServeLimits
from tests import loops
from tests.serving.client import PATIENCE, certificate

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
UNREAD = b"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx"
LARGE = memoryview(bytes(4 << 20))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/hello answers at once, /echo with the number of bytes of the body, /large with 4 MB, /never never."""
    if scope["type"] != "http":
        return
    body: bytes | memoryview = b"hello"
    if scope["path"] == "/echo":
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        body = str(size).encode()
    elif scope["path"] == "/large":
        body = LARGE
    elif scope["path"] == "/never":
        await asyncio.sleep(PATIENCE)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, len(body), 32768):
        piece = body[start : start + 32768]
        await send({"type": "http.response.body", "body": piece, "more_body": start + 32768 < len(body)})


class Running:
    """A server in this process: its guard, its port, and why it closed connections."""

    def __init__(self, limits: ServeLimits) -> None:
        self.closed = Counter[str]()
        self.guard = Guard(limits, lambda reason: self.closed.update([reason]))
        self.port = 0
        self.sockets: list[socket.socket] = []

    async def send(self, data: bytes, *, window: int = 0) -> socket.socket:
        """A new connection on which these bytes were sent and nothing else."""
        one = socket.socket()
        if window:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        one.setblocking(False)
        self.sockets.append(one)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(one, ("127.0.0.1", self.port))
        await loop.sock_sendall(one, data)
        return one

    async def read(self, one: socket.socket, until: bytes = b"") -> bytes:
        """What the server sends until it has sent `until`, or closes."""
        data = b""
        while not (until and until in data):
            try:
                piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(one, 1 << 16), PATIENCE)
            except ConnectionError:
                return data
            if not piece:
                return data
            data += piece
        return data

    async def state(self, state: State, count: int = 1) -> list[Connection]:
        """The connections in a state, once there are so many."""
        return await eventually(
            lambda: (there := self.guard.in_state(state)) and len(there) == count and there
        )

    async def answers(self) -> bool:
        """Whether a new client is answered."""
        return b"hello" in await self.read(await self.send(GET), b"hello")


async def eventually(value: Callable[[], Any]) -> Any:
    """The value, once it is true."""
    end = monotonic() + PATIENCE
    while not (found := value()):
        assert monotonic() < end, "it never happened"
        await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def running(limits: ServeLimits, tls: ssl.SSLContext | None = None) -> AsyncIterator[Running]:
    one = Running(limits)
    with bind("127.0.0.1", 0) as listener:
        listener.guard, one.port = one.guard, listener.getsockname()[1]
        server = uvicorn_server(app, one.guard, limits, tls)
        server.config.lifespan = "off"
        listener.listen()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started)
            yield one
        finally:
            for client in one.sockets:
                client.close()
            server.should_exit = server.force_exit = True
            await serving


def run(test: Callable[[Running], Awaitable[None]], limits: ServeLimits | None = None, **more: Any) -> None:
    """Run a test beside a server, on one event loop."""

    async def main() -> None:
        async with running(limits or ServeLimits(), **more) as server:
            await asyncio.wait_for(test(server), 2 * PATIENCE)

    loops.run(main())


KINDS = {
    "nothing at all": (b"", State.HEAD, 10),
    "half a head": (b"GET /hello HTTP/1.1\r\nHost:", State.HEAD, 10),
    "nothing after an answer": (GET, State.IDLE, 5),
    "half a head after an answer": (GET + b"GET /hel", State.HEAD, 10),
    "half a body": (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", State.BODY, 35),
    "chunks without end": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", State.BODY, 35,
    ),
    "an application without end": (b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n", State.ANSWER, 15),
    "a body that is not read": (UNREAD, State.LINGER, 10),
    "chunks that are not read": (
        b"GET /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", State.LINGER, 10,
    ),
    "a response that the client does not read": (b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", State.SEND, 10),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_has_a_deadline(kind: str) -> None:
    data, state, seconds = KINDS[kind]

    async def test(server: Running) -> None:
        await server.send(data, window=4096)
        [connection] = await server.state(state)
        server.guard.sweep(connection.since + seconds - 1)
        assert len(server.guard) == 1, "it has some time left"
        for _ in range(1 + (state is State.SEND)):  # the kernel takes much of a response before it stalls
            server.guard.sweep(connection.since + seconds + 1)
        assert len(server.guard) == 0
        assert server.closed == Counter([] if state is State.IDLE else [state.value])
        await eventually(connection.transport.is_closing)
        assert await server.answers()

    run(test)


def test_a_byte_now_and_then_does_not_extend_a_deadline() -> None:
    async def test(server: Running) -> None:
        client = await server.send(b"GET /hello HTTP/1.1\r\nHost: a\r\nX: ")
        [connection] = await server.state(State.HEAD)
        begun = connection.since
        for _ in range(3):
            await asyncio.get_running_loop().sock_sendall(client, b"y")
            await asyncio.sleep(0.01)
        assert connection.since == begun

    run(test)


@pytest.mark.slow
def test_a_client_that_reads_slowly_but_steadily_gets_everything() -> None:
    async def test(server: Running) -> None:
        client = await server.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", window=1 << 16)
        [connection] = await server.state(State.SEND)
        read = b""
        while len(read) < len(LARGE):
            before, end = len(read), connection.since + 10.1
            while len(read) < before + 300_000:
                if not (piece := await asyncio.get_running_loop().sock_recv(client, 1 << 16)):
                    break
                read += piece
            server.guard.sweep(end)  # as if that had taken ten seconds
            assert not server.closed, f"cut after {len(read)} bytes"
            if len(read) > len(LARGE):
                break
            connection.since = min(connection.since, monotonic())
        assert read.startswith(b"HTTP/1.1 200")
        assert read.endswith(bytes(1000))

    run(test)


def test_a_client_that_trickles_is_cut() -> None:
    async def test(server: Running) -> None:
        client = await server.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", window=4096)
        [connection] = await server.state(State.SEND)
        await eventually(connection.transport.get_write_buffer_size)
        server.guard.sweep(connection.since + 10.1)
        while not server.closed:  # the kernel's buffers may take something at first
            await asyncio.get_running_loop().sock_recv(client, 100)
            await asyncio.sleep(0.01)
            server.guard.sweep(connection.since + 10.1)
        assert server.closed == Counter(["send"])

    run(test)


def test_an_unread_body_ends_the_connection_after_the_answer() -> None:
    """The rest of the body is dropped, so that the client reads the answer and not a reset."""

    async def test(server: Running) -> None:
        client = await server.send(UNREAD)
        answer = await server.read(client, b"hello")
        assert b"connection: close" in answer
        await asyncio.get_running_loop().sock_sendall(client, bytes(999_999))
        assert await server.read(client) == b""
        await eventually(lambda: len(server.guard) == 0)
        assert not server.closed

    run(test)


def test_a_body_that_arrives_with_its_head_keeps_the_connection() -> None:
    async def test(server: Running) -> None:
        client = await server.send(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert b"close" not in await server.read(client, b"hello")
        await asyncio.get_running_loop().sock_sendall(client, GET)
        assert b"hello" in await server.read(client, b"hello")

    run(test)


def test_pipelined_requests_are_answered_in_order_up_to_a_number() -> None:
    async def test(server: Running) -> None:
        client = await server.send(
            b"".join(
                b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (size, bytes(size))
                for size in range(1, 5)
            )
        )
        data = b""
        while len(re.findall(rb"\r\n\r\n\d", data)) < 4:
            data += await server.read(client, b"\r\n\r\n")
        assert re.findall(rb"\r\n\r\n(\d)", data) == [b"%d" % size for size in range(1, 5)]
        flood = await server.send(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n" * (PIPELINED + 2))
        assert b"400 Bad Request" in await server.read(flood)

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /hello HTTP/1.1\r\n" + b"a: b\r\n" * (HEADERS + 1) + b"\r\n",
        b"GET /hello HTTP/1.1\r\n" + b"a: b\r\n" * (HEADERS + 2),
        b"GET /hello HTTP/1.1\r\nHost: " + b"a" * 40_000,
        b"GET /" + b"a" * 40_000,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"a: b\r\n" * (HEADERS + 2),
        b"\x16\x03\x01\x02\x00\x01 hello\r\n\r\n",
        b"CONNECT /hello HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_too_large_a_head_and_what_is_no_http_is_400(data: bytes) -> None:
    async def test(server: Running) -> None:
        client = await server.send(data)
        assert b"HTTP/1.1 400" in await server.read(client)
        assert await server.answers()

    run(test)


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
def test_a_request_to_upgrade_is_answered_as_http(upgrade: bytes) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"
    head += b"Content-Length: 3\r\n\r\nabc"

    async def test(server: Running) -> None:
        client = await server.send(head % upgrade)
        assert (await server.read(client, b"\r\n\r\n3")).startswith(b"HTTP/1.1 200")
        assert server.guard.in_state(State.IDLE), "it did not have to be closed"

    run(test)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][1] is not State.ANSWER])
def test_at_the_cap_a_new_client_takes_the_place_of_the_oldest_of_a_flood(kind: str) -> None:
    data, state, _ = KINDS[kind]

    async def test(server: Running) -> None:
        for count in range(1, 6):
            await server.send(data, window=4096)
            await server.state(state, count)
        for _ in range(3):
            assert await server.answers()
        assert len(server.guard) <= 5
        assert set(server.closed) == {"crowded"}
        assert len(server.guard.in_state(state)) >= 1 or state is State.IDLE

    run(test, ServeLimits(connections=5))


@pytest.mark.slow
def test_clients_that_are_being_answered_never_give_way() -> None:
    async def test(server: Running) -> None:
        busy = [await server.send(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(3)]
        await server.state(State.ANSWER, 3)
        for count in range(4, SPARE + 4):
            busy.append(await server.send(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"))
            await server.state(State.ANSWER, count)
        assert len(server.guard) > server.guard.most
        refused = await server.send(GET)
        assert await server.read(refused) == b"", "there is no room at all"
        assert server.closed["refused"] >= 1
        assert len(server.guard.in_state(State.ANSWER)) == len(busy)

    run(test, ServeLimits(connections=3))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    key, cert = certificate(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_a_tls_handshake_has_a_deadline_and_counts_at_the_cap(tls: ssl.SSLContext) -> None:
    async def test(server: Running) -> None:
        clients = [await server.send(b"") for _ in range(3)]
        await eventually(lambda: len(server.guard) == 3)
        last = await server.send(b"")
        assert await server.read(clients[0]) == b""
        assert server.closed == Counter(["crowded"])
        server.guard.sweep(monotonic() + 11)
        assert server.closed == Counter({"crowded": 1, "handshake": 3})
        assert await server.read(last) == b""

    run(test, ServeLimits(connections=3), tls=tls)


def test_tls_connections_have_the_same_deadlines(tls: ssl.SSLContext, tmp_path: Path) -> None:
    async def test(server: Running) -> None:
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readexactly(100)
        writer.transport.pause_reading()
        [connection] = await server.state(State.SEND)
        await eventually(connection.transport.get_write_buffer_size)
        for _ in range(3):
            server.guard.sweep(connection.since + 10.1)
        assert server.closed == Counter(["send"])
        writer.transport.abort()

    run(test, tls=tls)


def test_a_flood_of_log_lines_becomes_one_number() -> None:
    lines: list[str] = []
    clock = iter([0.0] * 1000 + [11.0] * 5).__next__
    log = LogLimiter(lines.append, clock)
    for number in range(1000):
        log(f"line {number}")
    assert lines == [f"line {number}" for number in range(20)]
    log("later")
    assert lines[20:] == ["980 more lines were left out of this log.", "later"]
