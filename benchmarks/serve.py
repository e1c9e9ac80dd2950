"""How near the server comes to the limit of the processor: requests/s, latency and memory.

A closed loop of clients posts one photo again and again to `catflap serve`, a process of its own, while
the clients share the cores with it. The limit is the same Classifier called in one process by as many threads
as the server has. Both are measured in turns, so that a busy machine slows both. With --peer, LitServe or
BentoML serve the same Classifier, called by the same clients, in the same turns; with --log a second server
does, which records each answer in a field log, with embeddings where the variant gives them.

    python benchmarks/serve.py
    python benchmarks/serve.py --peer litserve=PYTHON --peer bentoml=PYTHON
    python benchmarks/serve.py --log
    python benchmarks/serve.py --soak 50000
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

import numpy as np
import psutil
from machine import header
from pixels import grainy

from catflap.artifacts.field_log import read_field_log
from catflap.image import read_file
from catflap.machine import describe_machine, versions
from catflap.runtime.classifier import Classifier

PEERS = Path(__file__).with_name("peers")
LOGGED = "catflap --log"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="cat")
    parser.add_argument("--variant", help="default: the bundle's")
    parser.add_argument("--photo", type=Path, help="default: a drawn JPEG of 500 × 375 px")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=600, help="a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help="litserve, bentoml"
    )
    parser.add_argument("--log", action="store_true", help="a second server, which logs")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="then N requests, memory watched")
    args = parser.parse_args()
    photo = read_file(args.photo) if args.photo else grainy(500, 375)
    bundle = Path(args.bundle).resolve() if Path(args.bundle).is_file() else Path(args.bundle)
    parts = versions(("uvicorn", "starlette", "httptools"))
    header(
        n=args.requests * args.turns,
        photo_bytes=len(photo),
        clients=args.clients,
        bundle=args.bundle,
        **parts,
    )
    with ExitStack() as stack:
        servers = {"catflap": stack.enter_context(catflap(bundle, args.variant))}
        if args.log:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "field.log"
            servers[LOGGED] = stack.enter_context(catflap(bundle, args.variant, log))
        for peer in args.peer:
            name, _, python = peer.partition("=")
            servers[name] = stack.enter_context(peer_server(name, python, bundle, args.variant))
        compare(args, photo, servers, describe_machine().cores)
        if args.log:
            print(f"the log: {logged(log)}")
        if args.soak:
            soak(args, photo, servers["catflap"])


def compare(args: argparse.Namespace, photo: bytes, servers: dict[str, Server], cores: int) -> None:
    """Take turns and print the median of each, and of its ratio to the limit of the same turn.

    Processor time is printed too, for it stays what it is on a machine that is busy with other work.
    """
    classifier = Classifier(args.bundle, args.variant, threads=1)
    limit = Figures()
    figures = {name: Figures() for name in servers}
    for server in servers.values():
        load(server, photo, args.clients, args.clients * 8)
    for _ in range(args.turns):
        busy = time.process_time()
        limit.rates.append(in_process(classifier, photo, cores, args.requests))
        limit.cpu.append((time.process_time() - busy) / args.requests * 1e3)
        for name, server in servers.items():
            found, busy, before = figures[name], time.process_time(), processor_time(server.pid)
            seconds, taken = load(server, photo, args.clients, args.requests)
            found.rates.append(args.requests / seconds)
            found.cpu.append((processor_time(server.pid) - before) / args.requests * 1e3)
            found.clients.append((time.process_time() - busy) / args.requests * 1e3)
            found.latencies += taken
    print(
        f"limit in one process: {median(limit.rates):.0f} photos/s on {cores} threads, "
        f"{median(limit.cpu):.2f} ms of processor time a photo"
    )
    for name, server in servers.items():
        found = figures[name]
        ratio = median(rate / most for rate, most in zip(found.rates, limit.rates, strict=True))
        share = median(limit.cpu) / (median(found.cpu) + median(found.clients))
        p50, p99 = np.percentile(found.latencies, [50, 99]) * 1e3
        print(
            f"{name}: {median(found.rates):.0f} requests/s, {ratio:.2f} of the limit; p50 {p50:.1f} ms, "
            f"p99 {p99:.1f} ms ({p99 / p50:.1f} × p50), n = {len(found.latencies)}; "
            f"{memory(server.pid):.0f} MB; processor time a request {median(found.cpu):.2f} ms, and "
            f"{median(found.clients):.2f} ms of the clients: {share:.2f} of the limit by processor time"
        )
    if LOGGED in figures:
        plain, kept = figures["catflap"], figures[LOGGED]
        ratios = [with_log / without for with_log, without in zip(kept.rates, plain.rates, strict=True)]
        more = median(kept.cpu) / median(plain.cpu)
        print(
            f"logged to not logged, in turns: {median(ratios):.3f} of the requests/s ({min(ratios):.2f} to "
            f"{max(ratios):.2f}), {more:.3f} of the server's processor time a request"
        )


def soak(args: argparse.Namespace, photo: bytes, server: Server) -> None:
    """Many requests in ten blocks; memory after each."""
    found = []
    for _ in range(10):
        load(server, photo, args.clients, args.soak // 10)
        found.append(memory(server.pid))
    growth = 100 * (found[-1] / found[0] - 1)
    print(f"memory over {args.soak} requests, MB: {' '.join(f'{mb:.1f}' for mb in found)}; {growth:+.1f} %")


@dataclass
class Figures:
    """What the turns of one server gave: requests/s, latencies in s, processor time in ms a request."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    clients: list[float] = field(default_factory=list)


class Server:
    """A server process, the path that it answers, and how it wants the photo."""

    def __init__(self, pid: int, port: int, path: str, form: bool) -> None:
        self.pid, self.port, self.path, self.form = pid, port, path, form

    def request(self, photo: bytes) -> bytes:
        """The bytes of one request."""
        kind, body = "image/jpeg", photo
        if self.form:
            kind = "multipart/form-data; boundary=limit"
            part = b'--limit\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n'
            body = part + b"Content-Type: image/jpeg\r\n\r\n" + photo + b"\r\n--limit--\r\n"
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def load(server: Server, photo: bytes, clients: int, requests: int) -> tuple[float, list[float]]:
    """A closed loop in one thread: seconds for all, and the latency of each in seconds."""
    request = server.request(photo)
    selector = selectors.DefaultSelector()
    taken: list[float] = []
    open_ones = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(clients)]
    begun: dict[socket.socket, float] = {}
    answers: dict[socket.socket, bytes] = {}
    start = time.perf_counter()
    for connection in open_ones:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        begun[connection] = time.perf_counter()
        connection.sendall(request)
    asked = clients
    while len(taken) < requests:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            connection = key.fileobj
            answers[connection] = answers.get(connection, b"") + connection.recv(1 << 16)
            if not whole(answers[connection]):
                continue
            assert answers.pop(connection).startswith(b"HTTP/1.1 200"), "the server refused"
            taken.append(time.perf_counter() - begun[connection])
            if asked < requests:
                asked += 1
                begun[connection] = time.perf_counter()
                connection.sendall(request)
            else:
                selector.unregister(connection)
    seconds = time.perf_counter() - start
    for connection in open_ones:
        connection.close()
    return seconds, taken


def whole(answer: bytes) -> bool:
    """Whether a response has come to its end."""
    head, gap, body = answer.partition(b"\r\n\r\n")
    assert answer, "the server closed the connection"
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(gap) and (len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n"))


def in_process(classifier: Classifier, photo: bytes, threads: int, count: int) -> float:
    """Photos/s without any server."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(classifier, [photo] * count):
            pass
        return count / (time.perf_counter() - start)


def logged(log: Path) -> str:
    """What is in a field log by now, and how large it is."""
    rows = list(read_field_log(log, embeddings=True))
    able = sum(row.embedding is not None for row in rows)
    size = sum(path.stat().st_size for path in log.parent.iterdir())
    return f"{len(rows)} rows, {able} of them with an embedding, {size / max(1, len(rows)):.0f} bytes a row"


@contextmanager
def catflap(bundle: Path, variant: str | None, log: Path | None = None) -> Iterator[Server]:
    """`catflap serve`, on a free port."""
    command = [str(Path(sys.executable).with_name("catflap")), "serve", str(bundle), "--port", "0", "--json"]
    command += ["--variant", variant] if variant else []
    command += ["--log", str(log)] if log else []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        try:
            yield Server(process.pid, port, "/predict", form=False)
        finally:
            process.terminate()


@contextmanager
def peer_server(name: str, python: str, bundle: Path, variant: str | None) -> Iterator[Server]:
    """The same Classifier behind LitServe or BentoML, as their guides say, with one worker a core."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(PEERS.parents[1] / "src"), "BUNDLE": str(bundle)}
    environment["VARIANT"] = variant or ""
    with tempfile.TemporaryFile() as log:
        command = [python, str(PEERS / f"{name}_app.py"), str(port)]
        with subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
            try:
                wait_for(port, process.poll, log)
                yield Server(process.pid, port, "/predict", form=True)
            finally:
                end(process.pid)


def end(pid: int) -> None:
    """Stop a process and its children; a session of its own would give it its own share of the cores."""
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        one.terminate()


def wait_for(port: int, ended: Callable[[], int | None], log: IO[bytes]) -> None:
    """Return when something listens."""
    for _ in range(600):
        if ended() is not None:
            log.seek(0)
            raise SystemExit(f"the peer did not start: {log.read().decode()[-6000:]}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            time.sleep(3)  # LitServe listens before its workers are ready
            return
    raise SystemExit("the peer did not listen within a minute")


def memory(pid: int) -> float:
    """Memory of a process and its children, proportional share, in MB."""
    process = psutil.Process(pid)
    return float(
        sum(one.memory_full_info().pss for one in [process, *process.children(recursive=True)]) / 1e6
    )


def processor_time(pid: int) -> float:
    """Seconds that a process and its children have computed."""
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])


if __name__ == "__main__":
    main()
