"""What a server bears: thousands of connections of each bad kind, and bundle replacements under load.

Of each kind, thousands of connections are opened at once to `catflap serve`, a process of its own on this
machine; where the server closes one, another is opened. Meanwhile /healthz is asked by new connections; what
counts is the slowest answer (with how long other processes kept the server from a core meanwhile) and the
largest memory (resident set), beside that of the server before. Then --requests are sent by 8 clients while
the bundle's file is replaced, every second time by a damaged file: how many requests are lost, and the memory
after each tenth.

    python benchmarks/attacks.py
    python benchmarks/attacks.py --requests 50000 --replacements 200

Only addresses of the loopback interface are ever asked.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import psutil
from machine import header
from pixels import grainy

import catflap
from catflap.artifacts.bundle import HEAD as HEAD_FILE
from catflap.artifacts.bundle import encode_bundle, load_bundle

PHOTO = grainy(500, 375)
RELOADS = "catflap_reloads_total{"
HEAD = b" HTTP/1.1\r\nHost: a\r\n"
KINDS = {
    "idle, no byte": b"",
    "idle after an answer": b"GET /healthz" + HEAD + b"\r\n",
    "half a head": b"GET /healthz" + HEAD + b"X-Long: " + b"a" * 20_000,
    "a body of which one byte comes": b"GET /healthz" + HEAD + b"Content-Length: 1000000\r\n\r\nx",
    "half a photo": b"POST /predict" + HEAD + b"Content-Length: 20000\r\n\r\n" + b"\xff\xd8" * 2000,
    "chunks without end": b"POST /predict" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    "a large answer, never read": b"GET /bundle/int8.onnx" + HEAD + b"\r\n",
    "pipelined answers, never read": (b"GET /openapi.json" + HEAD + b"\r\n") * 4,
}


def main() -> None:
    """Attack, then replace, and print what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=3000, help="of each kind; 0 for none")
    parser.add_argument("--seconds", type=float, default=25, help="for which each kind stays")
    parser.add_argument("--kind", action="append", help="only this kind; may be repeated")
    parser.add_argument("--requests", type=int, default=0, help="with replacements, afterwards")
    parser.add_argument("--replacements", type=int, default=200)
    args = parser.parse_args()
    header(connections=args.connections, seconds=args.seconds, requests=args.requests)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, args.connections + 500), hard))
    for kind in args.kind or KINDS:
        if args.connections:
            attack(kind, args.connections, args.seconds)
    if args.requests:
        replace_under_load(args.requests, args.replacements)


def attack(kind: str, count: int, seconds: float) -> None:
    """Hold so many connections of a kind, ask for the health meanwhile, and print both sides."""
    with serving("cat", "--variant", "int8") as (process, port, log):
        for _ in range(50):
            assert ask(port, "GET", "/bundle/int8.onnx")[0] == 200
            assert ask(port, "POST", "/predict", PHOTO)[0] == 200
        idle = peak = process.memory_info().rss
        files = 0
        held = Holder(port, KINDS[kind], count)
        latencies: list[tuple[float, float]] = []  # seconds, of which the server waited for a core
        failed = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start, waited = time.perf_counter(), waited_for_a_core(process)
            try:
                assert ask(port, "GET", "/healthz")[0] == 200
            except (OSError, http.client.HTTPException, AssertionError):
                failed += 1
            latencies.append((time.perf_counter() - start, waited_for_a_core(process) - waited))
            peak = max(peak, process.memory_info().rss)
            files = max(files, process.num_fds())
            time.sleep(0.05)
        held.close()
        middle = median(one for one, _ in latencies)
        slowest, waited = max(latencies)
        print(
            f"{count} × {kind}: /healthz n = {len(latencies)}, p50 {middle:.3f} s, slowest {slowest:.2f} s "
            f"(of which other processes kept the server from a core for {waited:.2f} s), {failed} failed; "
            f"memory {idle / 1e6:.0f} MB before, {peak / 1e6:.0f} MB at most, {peak / idle:.2f} ×; at most "
            f"{files} files open in the server; {held.opened} opened; {len(log().splitlines())} lines of log",
            flush=True,
        )


def waited_for_a_core(process: psutil.Process) -> float:
    """Seconds in which the main thread of a process could run but had no core; 0 where Linux does not say."""
    try:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Holder:
    """A thread that keeps so many connections open, reads nothing, and replaces those that were closed."""

    def __init__(self, port: int, data: bytes, count: int) -> None:
        self._address, self._data = ("127.0.0.1", port), data
        self._end = threading.Event()
        self.opened = 0
        self._open: list[socket.socket] = []
        while len(self._open) < count:
            self._add()
        self._thread = threading.Thread(target=self._keep, args=(count,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let all go."""
        self._end.set()
        self._thread.join()
        for one in self._open:
            one.close()

    def _add(self) -> None:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with suppress(OSError):
            one.settimeout(2)
            one.connect(self._address)
            one.send(self._data)
        self.opened += 1
        self._open.append(one)

    def _keep(self, count: int) -> None:
        while not self._end.wait(0.2):
            self._open = [one for one in self._open if is_open(one)]
            for _ in range(count - len(self._open)):
                self._add()


def is_open(one: socket.socket) -> bool:
    """Whether the server has not closed a connection; what it sent stays unread."""
    try:
        return bool(one.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        one.close()
        return False


def replace_under_load(requests: int, replacements: int) -> None:
    """Send requests while the bundle is replaced, every second time by a damaged file."""
    with tempfile.TemporaryDirectory() as folder:
        served = Path(folder) / "cat.catflap"
        good = (Path(catflap.__file__).parent / "artifacts/shipped/cat.catflap").read_bytes()
        other = another_version(good, Path(folder))
        damaged = bytearray(good)
        damaged[len(damaged) // 2] ^= 1
        put(good, served)
        with serving(str(served), "--variant", "int8", "--reload", "0.05") as (process, port, _):
            lost, memories, changes = 0, list[int](), 0
            with ThreadPoolExecutor(8) as clients:
                for _ in range(10):
                    asking = [clients.submit(ask_many, port, requests // 80) for _ in range(8)]
                    for _ in range(replacements // 10):
                        changes += 1
                        put(bytes(damaged) if changes % 2 else (good, other)[changes // 2 % 2], served)
                        while reloads(port) < changes:
                            time.sleep(0.02)
                    lost += sum(one.result() for one in asking)
                    memories.append(process.memory_info().rss)
            results = [
                line
                for line in ask(port, "GET", "/metrics")[1].decode().splitlines()
                if line.startswith(RELOADS)
            ]
    shown = " ".join(f"{one / 1e6:.0f}" for one in memories)
    print(
        f"{requests} requests, {changes} replacements, {results}: {lost} lost; memory after each tenth, MB: "
        f"{shown}; the last is {memories[-1] / memories[1]:.3f} × the second"
    )


def another_version(bundle: bytes, folder: Path) -> bytes:
    """The same bundle with another card, so with another version."""
    (folder / "old.catflap").write_bytes(bundle)
    opened = load_bundle(folder / "old.catflap")
    head = {key: value for key, value in opened.head.items() if key not in ("catflap_bundle", "files")}
    files = {name: bytes(data) for name, data in opened.members.items() if name != HEAD_FILE}
    return encode_bundle(folder / "new.catflap", head, {**files, "card.md": files["card.md"] + b"\n"})


def put(data: bytes, served: Path) -> None:
    """Replace a file in one step."""
    new = served.with_name("new")
    new.write_bytes(data)
    new.replace(served)


def ask_many(port: int, count: int) -> int:
    """Send requests on one connection after the other, a hundred each; how many got no answer of 200."""
    lost = 0
    for start in range(0, count, 100):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(min(100, count - start)):
            try:
                connection.request("POST", "/predict", PHOTO, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                lost += answer.status != 200 or b"decision" not in answer.read()
            except (OSError, http.client.HTTPException):
                lost += 1
                connection.close()
        connection.close()
    return lost


def reloads(port: int) -> int:
    """How many replacements the server has noticed."""
    page = ask(port, "GET", "/metrics")[1].decode()
    return sum(int(float(line.split()[-1])) for line in page.splitlines() if line.startswith(RELOADS))


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def serving(*words: str) -> Iterator[tuple[psutil.Process, int, Callable[[], str]]]:
    """`catflap serve` with a soft limit of 1024 open files: its process, its port, and its log so far."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    command = [str(Path(sys.executable).with_name("catflap")), "serve", *words, "--port", "0", "--json"]
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, preexec_fn=limit)

        def log() -> str:
            return os.pread(stderr.fileno(), 1 << 24, 0).decode()

        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
            yield psutil.Process(process.pid), port, log
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
