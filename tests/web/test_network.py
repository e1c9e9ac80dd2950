"""The camera page on a network that is slow, hangs, loses downloads or wants a login; and what it lets out."""

from __future__ import annotations

import threading
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from catflap.artifacts.bundle import HEAD, load_bundle
from tests.artifacts.samples import write_bundle
from tests.web.conftest import file_server, served
from tests.web.person import ANSWERED, BLUE, RED, Open, answer, give, photo_file, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Route

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones

COUNT = """() => {
  window.answers = 0;
  new PerformanceObserver((list) => (answers += list.getEntries().length)).observe({ entryTypes: ['measure'] });
}"""


def visit_and_keep(page: Page) -> None:
    """A first visit, until everything is there for one without a network."""
    page.locator("#verdict[data-state=pass]").wait_for()
    page.evaluate("async () => void (await navigator.serviceWorker.ready)")
    names = "async () => (await (await caches.open('catflap-kept')).keys()).map(({ url }) => url)"
    wait_for(page, lambda: any(url.endswith(".wasm") for url in page.evaluate(names)))


def test_a_download_that_is_slow_does_not_stop_the_camera(
    context: BrowserContext, open_page: Open, address: str
) -> None:
    slow: list[Route] = []
    context.route("**/bundle/golden.npz", lambda route: slow.append(route))
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    wait_for(page, lambda: bool(slow))
    page.evaluate(COUNT)
    wait_for(page, lambda: page.evaluate("answers") > 5)
    assert page.locator(ANSWERED).count() == 1
    slow[0].continue_()
    page.locator("#verdict[data-state=pass]").wait_for()


def test_golden_cases_that_were_lost_once_are_asked_for_again(context: BrowserContext, address: str) -> None:
    context.route("**/bundle/golden.npz", lambda route: route.abort(), times=1)
    page = context.new_page()
    page.clock.install()
    page.goto(address)
    page.locator("#verdict[data-state=fail]").wait_for()
    assert "golden.npz did not come" in page.inner_text("#notice")
    page.clock.fast_forward("01:00")
    page.locator("#verdict[data-state=pass]").wait_for()
    page.locator("#answer:not([data-state=untrusted])[data-probability]").wait_for()
    assert page.is_hidden("#notice")


def test_a_runtime_that_was_lost_once_is_asked_for_again(
    context: BrowserContext, address: str, tiny_bundle: Path
) -> None:
    context.route("**/ort-wasm*.wasm", lambda route: route.abort(), times=1)
    page = context.new_page()
    page.goto(address)
    page.locator("#answer[data-state=message]").wait_for()
    assert ".wasm did not come" in page.inner_text("#label")
    page.set_input_files("#file", tiny_bundle)
    give(page, photo_file(RED))
    assert answer(page)[0] == "warm"


def test_a_bundle_of_a_persons_own_opens_while_the_network_hangs(
    context: BrowserContext, open_page: Open, address: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    head = {field: value for field, value in bundle.head.items() if field != "files"}
    head |= {"labels": ["cold", "hot"], "prior": {"cold": 0.5, "hot": 0.5}}
    own = tmp_path / "own.catflap"
    write_bundle(own, head, {name: bytes(data) for name, data in bundle.members.items() if name != HEAD})
    hanging: list[Route] = []
    context.route("**/bundle/bundle.json", lambda route: hanging.append(route))
    page = open_page(address)
    wait_for(page, lambda: bool(hanging))
    page.set_input_files("#file", [photo_file(BLUE), photo_file(own.read_bytes(), "own.catflap")])  # type: ignore[list-item]
    page.locator("#still").wait_for()
    assert answer(page)[0] == "cold"
    hanging[0].continue_()  # what the server offers comes too late
    page.locator("#verdict[data-state=pass]").wait_for()
    give(page, photo_file(RED))
    assert answer(page)[0] == "hot"
    assert page.is_hidden("#notice")


def test_a_network_that_hangs_is_no_worse_than_none(open_page: Open, site: Path) -> None:
    hangs, over = threading.Event(), threading.Event()

    def hang(_: SimpleHTTPRequestHandler) -> bool:
        return hangs.is_set() and over.wait(60)

    with file_server(site, hang) as (url, _):
        page = open_page(url)
        visit_and_keep(page)
        hangs.set()
        start = monotonic()
        page.reload()
        page.locator(ANSWERED).wait_for()
        assert monotonic() - start < 20
        over.set()


def test_where_one_has_to_log_in_the_page_leads_there_and_keeps_no_answer_of_that_page(
    context: BrowserContext, site: Path
) -> None:
    closed: set[str] = set()

    def gate(request: SimpleHTTPRequestHandler) -> bool:
        if not request.path.startswith(tuple(closed)) or request.path == "/login":
            return request.path == "/login" and not request.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\nlog in"
            )
        request.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")
        return True

    with file_server(site, gate) as (url, _):
        page = context.new_page()
        page.goto(url)
        visit_and_keep(page)
        closed.add("/bundle/")
        page.reload()
        page.locator("#answer[data-state=message]").wait_for()
        assert "not JSON" in page.inner_text("#label")
        context.set_offline(True)
        page.reload()
        page.locator(ANSWERED).wait_for()  # by what was kept
        context.set_offline(False)
        closed.add("/")
        page.reload()  # not by what the browser itself keeps for a while
        assert page.url == f"{url}login"


@pytest.mark.parametrize("visit", ["first, by serve", "second, on a file server"])
def test_the_worker_cannot_reach_another_address(
    context: BrowserContext, site: Path, tiny_bundle: Path, tmp_path: Path, visit: str
) -> None:
    here = served(tiny_bundle) if visit.startswith("first") else file_server(site)
    with here as place, file_server(tmp_path) as (elsewhere, asked):
        page = context.new_page()
        page.goto(place if isinstance(place, str) else place[0])
        visit_and_keep(page)
        if visit.startswith("second"):
            page.reload()
            page.locator("#verdict[data-state=pass]").wait_for()
        (worker,) = [each for each in page.workers if "worker" in each.url]
        fetched = "(url) => fetch(url, { mode: 'no-cors' }).then(() => 'reached', () => 'blocked')"
        assert worker.evaluate(fetched, elsewhere) == "blocked"
        assert asked == []
