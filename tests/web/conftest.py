"""The camera page, built and offered by a plain file server, in a real browser with a fake camera."""

from __future__ import annotations

import fcntl
import functools
import json
import mimetypes
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

# Answers a request itself and says so, or leaves it to the file server.
First = Callable[[SimpleHTTPRequestHandler], bool]


class _Handler(SimpleHTTPRequestHandler):
    """A plain file server; `asked` keeps every request line, `first` may answer one itself."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def __init__(self, *args: Any, asked: list[str], first: First, **named: Any) -> None:
        self.asked = asked
        self.first = first
        super().__init__(*args, **named)

    def do_GET(self) -> None:
        if not self.first(self):
            super().do_GET()

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.asked.append(self.requestline)

    def log_error(self, *args: Any) -> None:
        """Missing files are the tests' business."""


@contextmanager
def file_server(folder: Path, first: First = lambda _: False) -> Iterator[tuple[str, list[str]]]:
    """The address of a plain file server, and the requests it got."""
    mimetypes.add_type("text/javascript", ".mjs")
    asked: list[str] = []
    handler = functools.partial(_Handler, directory=str(folder), asked=asked, first=first)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def npm(repo: Path) -> Path:
    """npm with the page's packages installed, and the page built of today's sources."""
    from hatch_build import build_page

    path = shutil.which("npm")
    if path is None:
        pytest.skip("there is no Node here; the camera page is built with it")
    with open(Path(tempfile.gettempdir()) / "catflap-web.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs must not install over each other
        problem = build_page(repo)  # which installs the packages, too, where it has something to build
        assert problem is None, problem
        if not (repo / "web" / "node_modules" / ".package-lock.json").is_file():
            subprocess.run(
                [path, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=repo / "web", check=True
            )
    return Path(path)


@pytest.fixture(scope="session")
def page_built(repo: Path, npm: Path) -> Path:
    """The folder of the built page."""
    from hatch_build import OUT

    return repo / OUT


@pytest.fixture(scope="session")
def site(page_built: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`catflap web` of a small bundle: is a photo warm or cold?"""
    from catflap.serving.static_site import write_site

    folder = tmp_path_factory.mktemp("web") / "site"
    write_site(tiny_bundle, folder)
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site of the small bundle is offered."""
    with file_server(site) as (url, _):
        yield url


@contextmanager
def served(bundle: Path) -> Iterator[str]:
    """The address of `catflap serve`."""
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    code = "from catflap.cli.main import run; run()"
    command = [sys.executable, "-c", code, "serve", str(bundle), "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.wait(60)


def is_fault(line: ConsoleMessage) -> bool:
    """LiteRT's WebAssembly writes what it does on stderr, which is no fault."""
    return line.type == "error" and not line.text.startswith(("INFO:", "WARNING:"))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that was never here before and allows the camera."""
    context = browser.new_context(permissions=["camera"], viewport={"width": 360, "height": 640})
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Callable[[str], Page]]:
    """Open an address; the test fails when the page throws or its console has an error."""
    faults: list[str] = []

    def open_page(address: str) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if is_fault(line) else None)
        page.goto(address)
        return page

    yield open_page
    assert faults == []
