"""A Studio as a process, a client that knows its token, and a backbone that answers in milliseconds."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from catflap.studio.project import Project, open_project
from tests.conftest import REPO, make_once
from tests.web.conftest import npm, page_built  # noqa: F401  fixtures

pytest.importorskip("uvicorn", reason="the extra serve is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project."""
    opened = open_project(tmp_path / "project")
    yield opened
    opened.close()


@dataclass
class Running:
    """A Studio that listens at `url`, and a client of it."""

    project: Path
    url: str
    process: subprocess.Popen[str]
    cookie: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def raw(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection(self.host, timeout=300)
        connection.request(method, path, body or None, headers={"Cookie": self.cookie, **(headers or {})})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data

    def log_in(self) -> None:
        parts = urlsplit(self.url)
        status, headers, _ = self.raw("GET", f"/?{parts.query}")
        assert status == 303
        self.cookie = headers["set-cookie"].split(";")[0]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer, which must be fine."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        status, _, answer = self.raw(method, path, data)
        assert status == 200, answer
        return json.loads(answer)

    def upload(self, name: str, data: bytes, label: str = "") -> Any:
        return self.ask("POST", f"/api/upload?name={quote(name)}&label={quote(label)}", data)

    def until(self, path: str, check: Callable[[Any], Any], seconds: float = 900) -> Any:
        """The first answer of a route that passes a check."""
        end = time.monotonic() + seconds
        while True:
            answer = self.ask("GET", path)
            if check(answer):
                return answer
            assert time.monotonic() < end, answer
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture(scope="session")
def tiny_graph(shared_by_workers: Path, keep_graphs: None) -> Path:
    """The tiny network as the graph of a project's backbone."""

    def make() -> None:
        from catflap.studio.suggestions import FRAME
        from catflap.training.backbones import load_backbone
        from catflap.training.features import feature_graph
        from tests.tiny import TINY

        (shared_by_workers / "tiny.onnx").write_bytes(feature_graph(load_backbone(TINY), FRAME))

    return make_once(shared_by_workers / "tiny.onnx", make)


@pytest.fixture(scope="session")
def plain_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for the built page where only the server is tested."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>Studio</title>")
    return folder


@pytest.fixture(scope="session")
def studio_page(page_built: Path, repo: Path) -> Path:  # noqa: F811
    """The folder of Studio's page, built from today's sources with the camera page."""
    from hatch_build import STUDIO

    return repo / STUDIO


@pytest.fixture(scope="module")
def start(tiny_graph: Path, plain_page: Path) -> Iterator[Callable[..., Running]]:
    """Start a Studio on a project; all are stopped at the end."""
    running: list[Running] = []

    def start(project: Path, page: Path = plain_page, port: int = 0, *, graph: bool = True) -> Running:
        kept = project / "cache" / "backbone.onnx"
        if graph and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.link(tiny_graph, kept)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO / "src"), str(REPO)])}
        command = [sys.executable, str(REPO / "tests" / "studio" / "server.py"), str(project), str(page)]
        process = subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert "url" in line, line
        one = Running(project, line["url"], process)
        running.append(one)
        one.log_in()
        return one

    yield start
    for one in running:
        one.stop()
