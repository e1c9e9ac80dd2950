"""A server process to ask, and the plain ways of asking it."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CATFLAP = Path(sys.executable).with_name("catflap")
PATIENCE = 60.0  # seconds, on a machine that is busy with other tests


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """`catflap serve` as a process; `log` is what it wrote on stderr so far."""

    process: subprocess.Popen[bytes]
    port: int
    models: dict[str, str]
    log: Callable[[], str]
    tls: ssl.SSLContext | None = None

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str = ""
    ) -> Reply:
        connection = self.connect()
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def predict(self, photo: bytes, **headers: str) -> Reply:
        return self.ask("/predict", photo, {"Content-Type": "image/jpeg", **headers})

    def connect(self) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def raw(self, request: bytes) -> socket.socket:
        """A connection on which these bytes were sent and nothing else."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(request)
        return connection

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series, 0 when it is not there yet."""
        for line in self.ask("/metrics").body.decode().splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                have = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if have == labels:
                    return float(found[3])
        return 0.0

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def running(
    *words: object,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    cores: int | None = None,
    files: tuple[int, int] | None = None,
) -> Iterator[Server]:
    """A server that listens, on a free port without one; it has to end well when the block does.

    With `cores` it has no more than so many, however many there are; `files` is the soft and the hard limit
    of its open files.
    """

    def limit() -> None:
        if cores:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, files)

    command = [str(CATFLAP), "serve", *map(str, words), "--port", str(port), "--json"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, preexec_fn=limit if cores or files else None
        )

        def read_log() -> str:
            log.seek(0)
            return log.read().decode()

        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            fields = json.loads(line) if line else {}
            assert "url" in fields, f"the server did not start: {line!r} {read_log()}"
            server = Server(process, int(fields["url"].rpartition(":")[2]), fields["models"], read_log, tls)
            yield server
            if process.poll() is None:
                assert server.stop() == 0
            assert "Traceback" not in read_log()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def form(*photos: tuple[str, bytes], boundary: str = "xYz") -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a form with files."""
    parts = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in photos
    )
    return parts + f"--{boundary}--\r\n".encode(), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is so; fail when it never is."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a self-signed certificate for localhost, as PEM files; skips where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate")
    key, cert = folder / "key.pem", folder / "cert.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    command = ["openssl", *words.split(), "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert
