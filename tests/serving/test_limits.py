"""More than the server can do, keys, TLS, and the end."""

from __future__ import annotations

import base64
import json
import signal
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.matrix import mostly_slow
from tests.serving.bundles import RED, make_bundle
from tests.serving.client import PATIENCE, Server, certificate, eventually, form, running

KEY = "a-key-of-many-letters-1234"


def test_more_photos_than_the_queue_holds_are_429(slow: Path) -> None:
    with running(slow, "--queue", "2", cores=2) as server, ThreadPoolExecutor(12) as clients:
        replies = list(clients.map(server.predict, [RED] * 12))
        statuses = [reply.status for reply in replies]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 3
        refused = next(reply for reply in replies if reply.status == 429)
        seconds = int(refused.headers["retry-after"])
        assert seconds >= 1
        assert refused.json()["error"] == {
            "what": "Too many requests: 2 are queued.",
            "fix": f"Retry after {seconds} s.",
        }
        assert server.predict(RED).status == 200, "and then it answers again"
        assert server.metric("catflap_queue") == 0
        assert server.metric("catflap_running") == 0
        assert server.metric("catflap_requests_total", route="/predict", status="429") == statuses.count(429)


@pytest.mark.slow
def test_what_cannot_be_done_by_the_deadline_is_503_or_504(slow: Path) -> None:
    words = ("--deadline", "0.5", "--queue", "20")  # a job begins in that time, and 20 take longer
    with running(slow, *words, cores=2) as server, ThreadPoolExecutor(20) as clients:
        statuses = {reply.status for reply in clients.map(server.predict, [RED] * 20)}
        assert statuses <= {200, 503, 504}
        assert 503 in statuses, "those that never began"
        body, headers = form(*[("a.jpg", RED)] * 20)
        assert server.ask("/predict", body, headers).status in (503, 504)
        eventually(lambda: server.metric("catflap_running") == 0)
        tensor = {"name": "photo", "datatype": "BYTES", "shape": [20]}
        tensor["data"] = [base64.b64encode(RED).decode()] * 20
        reply = server.ask("/v2/models/slow/infer", json.dumps({"inputs": [tensor]}).encode())
        assert reply.status == 504
        eventually(lambda: server.metric("catflap_running") == 0)
        assert server.metric("catflap_queue") == 0, "what was given up is not worked on"


@pytest.mark.slow
def test_a_client_that_leaves_gives_its_place_back(slow: Path) -> None:
    head = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        % len(RED)
    )
    with running(slow, "--queue", "40", cores=2) as server:
        leaving = [server.raw(head + RED) for _ in range(30)]
        eventually(lambda: server.metric("catflap_queue") > 10)
        for connection in leaving:
            connection.close()
        eventually(lambda: server.metric("catflap_queue") == 0)
        assert (
            server.metric(
                "catflap_decisions_total", model="slow", version=server.models["slow"], decision="cat"
            )
            < 25
        )
        assert server.predict(RED).status == 200


@pytest.mark.slow
def test_slow_clients_do_not_keep_the_others_waiting(quick: Path) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 40000\r\n\r\n"
    with running(quick, "--queue", "4", "--upload-timeout", "30") as server:
        crawling = [server.raw(head + b"\xff\xd8") for _ in range(60)]
        crawling += [server.raw(b"POST /predict HTT") for _ in range(60)]
        for connection in crawling[:60]:
            connection.sendall(b"\0")
        assert [server.predict(RED).status for _ in range(20)] == [200] * 20
        for connection in crawling:
            connection.close()


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_an_endless_head_is_cut_off(server: Server, before: bytes) -> None:
    head = before + b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: "
    with server.raw(head) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(bytes([65]) * 100_000_000)
    assert server.metric("process_resident_memory_bytes") < 400e6
    assert server.predict(RED).status == 200


@pytest.mark.slow
def test_heads_that_stall_are_closed(quick: Path) -> None:
    with running(quick) as server:
        whole = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        stalled = [server.raw(begun) for begun in (b"", b"GET /hea", whole[:-2], whole + b"GET")]
        for connection in stalled:
            while connection.recv(1 << 16):
                pass
            connection.close()
        assert server.predict(RED).status == 200


def test_a_flood_of_silent_connections_keeps_nobody_out(quick: Path) -> None:
    with running(quick, "--connections", "50") as server:
        flood = [server.raw(b"") for _ in range(300)]
        assert server.predict(RED).status == 200
        assert server.metric("catflap_closed_connections_total", reason="crowded") >= 200
        for connection in flood[:100]:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        for connection in flood:
            connection.close()


@pytest.mark.slow
def test_many_connections_need_no_higher_ulimit_and_flood_no_log(quick: Path) -> None:
    """The soft limit of open files is raised; below a low hard limit the log names a lower cap."""
    with running(quick, files=(400, 400)) as server:
        assert "at most 100 connections are open at once" in server.log()
        flood = [server.raw(b"") for _ in range(500)]
        assert server.predict(RED).status == 200
        assert len(server.log().splitlines()) < 10
        for connection in flood:
            connection.close()
    with running(quick, files=(256, 4096)) as server:
        flood = [server.raw(b"") for _ in range(500)]
        assert server.metric("catflap_connections") >= 500
        assert server.log() == ""
        for connection in flood:
            connection.close()


@pytest.mark.slow
def test_a_client_that_never_reads_costs_little_memory_and_is_cut(tmp_path: Path) -> None:
    """A bundle file is sent in pieces from the bundle's own memory, not copied for each request."""
    heavy = make_bundle(tmp_path / "heavy.catflap", padding=20_000_000)
    with running(heavy) as server:
        server.ask("/bundle/fp32.onnx")
        before = server.metric("process_resident_memory_bytes")
        deaf = [server.raw(b"GET /bundle/fp32.onnx HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(60)]
        eventually(lambda: server.metric("catflap_connections") >= 60)
        assert server.predict(RED).status == 200
        assert server.metric("process_resident_memory_bytes") < before + 20_000_000
        for connection in deaf:
            connection.close()


@pytest.mark.slow
def test_many_large_bodies_do_not_fill_the_memory(quick: Path) -> None:
    """Eight bodies of the largest size may be held; more get 429."""
    size = 900_000
    head = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % size
    )
    with running(quick, "--max-mb", "1", "--upload-timeout", "30") as server:
        holding = [server.raw(head + bytes(size - 1)) for _ in range(8)]
        eventually(lambda: server.metric("catflap_held_bytes") == 8 * (size - 1))
        assert server.predict(bytes(size)).status == 429
        for connection in holding:
            connection.close()
        eventually(lambda: server.metric("catflap_held_bytes") == 0)
        assert server.predict(RED).status == 200


@pytest.mark.parametrize("number", mostly_slow([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
def test_a_signal_lets_the_server_finish_what_it_began(slow: Path, number: signal.Signals) -> None:
    def begun() -> float:
        there = server.metric("catflap_queue") + server.metric("catflap_running")
        return there + sum(reply.done() for reply in asked)

    with running(slow, cores=2) as server, ThreadPoolExecutor(6) as clients:
        asked = [clients.submit(server.predict, RED) for _ in range(6)]
        eventually(lambda: begun() == 6)
        server.process.send_signal(number)
        assert [reply.result().status for reply in asked] == [200] * 6
        assert server.process.wait(PATIENCE) == 0
        with pytest.raises(ConnectionRefusedError):
            server.predict(RED)
        assert server.log() == ""


def test_who_asked_before_the_signal_is_answered(quick: Path) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with running(quick, "--queue", "500") as server:
        asking = [server.raw(head % len(RED) + RED) for _ in range(100)]
        server.process.send_signal(signal.SIGTERM)
        for connection in asking:
            with connection:
                assert connection.recv(12) == b"HTTP/1.1 200"
        assert server.process.wait(PATIENCE) == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", [b"/predict", b"/v2/models/cat/infer"])
def test_uploads_that_are_open_at_the_end_are_told_and_leave_no_noise(quick: Path, path: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"
    with running(quick, "--upload-timeout", "600", "--deadline", "0.1") as server:
        open_ones = [server.raw(head % path + b"\xff\xd8") for _ in range(30)]
        eventually(lambda: server.metric("catflap_held_bytes") == 60)
        assert server.stop() == 0
        for connection in open_ones:
            with connection:
                answer = connection.recv(1 << 16)
                assert answer.startswith(b"HTTP/1.1 503")
                assert (
                    b"The server is shutting down. Retry." in answer
                    or b'"what": "The server is shutting down."' in answer
                )
        assert server.log().splitlines() == [
            "uvicorn.error: Cancel 30 running task(s), timeout graceful shutdown exceeded"
        ]


@pytest.mark.slow
def test_a_stalled_upload_does_not_keep_the_server_from_ending(quick: Path) -> None:
    with running(quick, "--upload-timeout", "600", "--deadline", "0.1") as server:
        stalled = server.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
        eventually(lambda: server.ask("/healthz").status == 200)
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 30
        stalled.close()


@pytest.mark.slow
def test_a_killed_server_starts_again_on_its_port(quick: Path) -> None:
    with running(quick) as server:
        open_ones = [server.raw(b"") for _ in range(5)]
        assert server.predict(RED).status == 200
        server.process.kill()
        server.process.wait()
        with running(quick, port=server.port) as again:
            assert again.predict(RED).status == 200
        for connection in open_ones:
            connection.close()


@pytest.fixture(scope="module")
def guarded(quick: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A server that asks for a key and speaks TLS."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text(f"# who: the tests\n\nanother-key-of-many-letters\n{KEY}\n")
    key, cert = certificate(folder)
    tls = ssl.create_default_context(cafile=str(cert))
    words = (quick, "--keys", keys, "--tls-cert", cert, "--tls-key", key)
    with running(*words, tls=tls) as server:
        yield server


BASIC = base64.b64encode(f"anybody:{KEY}".encode()).decode()


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}, {"Authorization": f"Basic {BASIC}"}]
)
def test_a_key_opens_every_route(guarded: Server, headers: dict[str, str]) -> None:
    assert guarded.predict(RED, **headers).status == 200
    for path in ("/metrics", "/v2/models/cat", "/", "/docs", "/openapi.json", "/bundle/bundle.json"):
        assert guarded.ask(path, headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": f"Bearer {KEY}x"}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": "# who: the tests"},
        {"Authorization": "Bearer"}, {"Authorization": "Basic ???"}, {"Authorization": f"Digest {KEY}"},
        {"X-API-Key": "schlüssel-mit-vielen-zeichen".encode().decode("latin-1")},
    ],
)  # fmt: skip
def test_without_the_key_only_the_health_is_told(guarded: Server, headers: dict[str, str]) -> None:
    reply = guarded.predict(RED, **headers)
    assert reply.status == 401
    assert "Basic" in reply.headers["www-authenticate"]
    for path in ("/metrics", "/v2", "/v2/models/cat", "/", "/docs", "/openapi.json", "/bundle/bundle.json"):
        assert guarded.ask(path, headers=headers).status == 401
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert guarded.ask(path, headers=headers).status == 200


def test_plain_http_to_a_tls_port_harms_nobody(guarded: Server) -> None:
    with guarded.raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") as connection:
        assert not connection.recv(100).startswith(b"HTTP/1.1 200")
    assert guarded.ask("/healthz").status == 200


def test_a_key_file_with_a_short_key_is_refused(tmp_path: Path, quick: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("short\n")
    with (
        pytest.raises(AssertionError, match="one of fewer than 16 characters"),
        running(quick, "--keys", keys),
    ):
        pass
