"""The page in a real browser: by keyboard only, on three widths, light and dark, with hostile names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catflap.image import encode
from tests.studio.conftest import Running
from tests.tiny import draw_photos, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

MOST_SCRIPT = 300_000  # bytes
LONG = 300_000
HOSTILE = '<img src=x onerror="document.title=1">'
STEPS = ("collect", "label", "train", "judge", "try", "deliver", "explain")
SIZES = [(360, "light"), (768, "dark"), (1440, "light"), (1440, "dark")]


@pytest.fixture(scope="module")
def studio(
    start: Callable[..., Running], studio_page: Path, tmp_path_factory: pytest.TempPathFactory
) -> Running:
    """A Studio with the built page, 20 photos of two labels and 4 without."""
    one = start(tmp_path_factory.mktemp("page") / "cats", studio_page)
    for number in range(12):
        for label in ("cat", "other"):
            photo = encode(drawn(label, number), "JPEG", quality=90)
            one.upload(f"{number}.jpg", photo, label if number < 10 else "")
    one.upload(f"{HOSTILE}.jpg", b"<html>")
    return one


@pytest.fixture
def open_studio(browser: Browser, studio: Running) -> Iterator[Callable[..., Page]]:
    """Open the page at a step; the test fails when the page throws or its console has an error."""
    faults: list[str] = []
    contexts: list[Any] = []

    def open_studio(step: str = "", width: int = 1024, scheme: Any = "light", one: Running = studio) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, permissions=["camera"]
        )
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if is_fault(line) else None)
        page.goto(one.url)
        page.wait_for_selector("h1")
        if step:
            page.evaluate(f"location.hash = '{step}'")
            page.wait_for_selector(f"h1:text-is('{step.capitalize()}')")
        return page

    yield open_studio
    for context in contexts:
        context.close()
    assert faults == []


def is_fault(line: ConsoleMessage) -> bool:
    """A server that is started again is no fault of the page."""
    return line.type == "error" and "net::ERR_" not in line.text


def wait(page: Page, expression: str) -> None:
    """Wait until JavaScript is true; playwright's own way needs eval, which the page's policy forbids."""
    end = time.monotonic() + 300
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def violations(page: Page, repo: Path) -> list[str]:
    """What axe finds; its script comes past the page's security policy by the protocol of the browser."""
    page.evaluate((repo / "web" / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8"))
    found: list[dict[str, Any]] = page.evaluate("axe.run({iframes: false, resultTypes: ['violations']})")[
        "violations"
    ]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


def keep(page: Page, name: str) -> None:
    """Save a screenshot where CATFLAP_SHOTS names a folder."""
    if folder := os.environ.get("CATFLAP_SHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.mark.parametrize(
    ("width", "scheme", "steps"),
    [
        (*SIZES[0], ("label", "train")),
        *(pytest.param(*size, STEPS, marks=pytest.mark.slow) for size in SIZES),
    ],
)
def test_every_screen_fits_and_axe_finds_nothing(
    open_studio: Callable[..., Page], repo: Path, width: int, scheme: str, steps: tuple[str, ...]
) -> None:
    page = open_studio(width=width, scheme=scheme)
    for step in steps:
        page.evaluate(f"location.hash = '{step}'")
        page.wait_for_selector(f"h1:text-is('{step.capitalize()}')")
        if step == "label":
            page.wait_for_selector(".tag.guess")
        assert violations(page, repo) == [], step
        assert page.evaluate("document.documentElement.scrollWidth") <= width, step
        keep(page, f"{step}-{width}-{scheme}")


def test_photos_are_labelled_by_keyboard_only(open_studio: Callable[..., Page], studio: Running) -> None:
    page = open_studio()
    for _ in range(20):  # to the step, then to the grid
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == "Label":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".tag.guess")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "grid":
            break
    assert studio.ask("GET", "/api/state")["open"] == 4
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")  # the suggestion
    wait(page, "document.querySelectorAll('.tile').length === 3")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("2")
    wait(page, "document.querySelectorAll('.tile').length === 1")
    page.keyboard.press("x")
    page.wait_for_selector("text=No photos here")
    state = studio.until("/api/state", lambda state: state["open"] == 0)
    assert state["aside"] == 1
    page.click("text=Undo")
    page.wait_for_selector(".tile")
    studio.ask("POST", "/api/undo", {})
    studio.ask("POST", "/api/undo", {})
    assert studio.ask("GET", "/api/state")["open"] == 4
    page.reload()  # the letters of the review page do the same
    page.wait_for_selector(".tag.guess")
    page.focus(".grid")
    page.keyboard.press("a")
    page.keyboard.press("d")
    state = studio.until("/api/state", lambda state: state["open"] == 2)
    assert state["aside"] == 1
    studio.ask("POST", "/api/undo", {})
    studio.ask("POST", "/api/undo", {})


@pytest.mark.slow
def test_a_person_records_from_the_camera(open_studio: Callable[..., Page], studio: Running) -> None:
    before = studio.ask("GET", "/api/state")["photos"]
    page = open_studio("collect")
    page.fill("input[list]", "before the camera")
    page.click("text=Open the camera")
    wait(page, "document.querySelector('video')?.videoWidth > 0")
    page.focus(".camera .primary")
    page.keyboard.down("Space")
    state = studio.until("/api/state", lambda state: state["photos"] > before)  # the film is one photo
    page.keyboard.up("Space")
    assert {"name": "before the camera", "photos": 1, "stacks": 1} in state["labels"]
    page.click("text=Close the camera")
    studio.ask("POST", "/api/decide", {"photos": [state["photos"]], "label": ""})
    studio.ask("POST", "/api/labels", {"name": "before the camera", "remove": True})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NotAllowedError", "may not use the camera"),
        pytest.param("NotFoundError", "There is no camera here", marks=pytest.mark.slow),
    ],
)
def test_without_a_camera_the_page_says_what_to_do(
    open_studio: Callable[..., Page], name: str, message: str
) -> None:
    page = open_studio("collect")
    page.evaluate(
        "name => navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name))", name
    )
    page.click("text=Open the camera")
    page.wait_for_selector(f"[role=alert]:has-text('{message}')")
    assert page.is_visible("text=Open the camera")


@pytest.mark.slow
def test_a_tab_that_slept_shows_what_it_missed(
    open_studio: Callable[..., Page], start: Callable[..., Running], studio_page: Path, tmp_path: Path
) -> None:
    one = start(tmp_path / "asleep", studio_page)
    page = open_studio(one=one)
    page.wait_for_selector("text=0 photos")
    tab = page.context.new_cdp_session(page)
    tab.send("Page.setWebLifecycleState", {"state": "frozen"})
    one.upload("a.jpg", encode(drawn("cat", 60), "JPEG", quality=90))
    tab.send("Page.setWebLifecycleState", {"state": "active"})
    page.wait_for_selector("text=1 photos")


def test_a_hostile_name_is_text(open_studio: Callable[..., Page], studio: Running) -> None:
    studio.ask("POST", "/api/labels", {"name": HOSTILE})
    page = open_studio("collect")
    page.wait_for_selector(f"td:has-text('{HOSTILE}')")
    page.evaluate("location.hash = 'label'")
    page.wait_for_selector(f".labels button:has-text('{HOSTILE}')")
    assert page.title() == "Catflap Studio"
    studio.ask("POST", "/api/labels", {"name": HOSTILE, "remove": True})


@pytest.mark.slow
def test_a_page_goes_on_when_the_server_starts_again(
    open_studio: Callable[..., Page], start: Callable[..., Running], studio_page: Path, tmp_path: Path
) -> None:
    one = start(tmp_path / "again", studio_page)
    one.upload("a.jpg", encode(drawn("cat", 99), "JPEG", quality=90))
    page = open_studio("label", one=one)
    page.wait_for_selector(".tile")
    port = int(one.host.rpartition(":")[2])
    one.stop()
    again = start(one.project, studio_page, port)
    again.upload("b.jpg", encode(drawn("cat", 98), "JPEG", quality=90))
    wait(page, "document.querySelectorAll('.tile').length === 2")


def test_the_script_is_small(studio_page: Path) -> None:
    assert sum(path.stat().st_size for path in studio_page.rglob("*.js")) <= MOST_SCRIPT


@pytest.mark.slow
def test_a_classifier_is_trained_judged_tried_and_delivered(
    open_studio: Callable[..., Page],
    start: Callable[..., Running],
    studio_page: Path,
    page_built: Path,
    repo: Path,
    tmp_path: Path,
) -> None:
    one = start(tmp_path / "whole", studio_page)
    one.ask("POST", "/api/import", {"path": str(draw_photos(tmp_path / "photos", count=16))})
    page = open_studio("train", one=one)
    page.set_default_timeout(LONG)
    page.click("text=Train a classifier")
    page.wait_for_selector("label:has-text('left')")
    keep(page, "training")
    page.wait_for_selector("a.button:has-text('Judge')")
    page.reload()
    page.wait_for_selector("text=The head on frozen features")
    page.wait_for_selector("figure .chart")
    page.click("a.button:has-text('Judge')")
    page.wait_for_selector("h2:text('What is taken for what')")
    assert page.inner_text(".verdict .large").startswith("At least ")
    right = float(page.inner_text(".rates li:first-child b"))
    page.locator("input[type=range]").first.fill("0.999")
    wait(page, f"Number(document.querySelector('.rates b').textContent) < {right} + 1")
    page.click("td button")  # the photos of a cell, then one of them with where the network looked
    page.click(".strip button")
    page.wait_for_selector("figure img")
    wait(page, "document.querySelector('figure img').naturalWidth > 0")
    keep(page, "looked")
    page.click("dialog button")
    for width, scheme in (SIZES[0], SIZES[-1]):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for step in ("judge", "deliver", "explain"):
            page.evaluate(f"location.hash = '{step}'")
            page.wait_for_selector(f"h1:text-is('{step.capitalize()}')")
            page.wait_for_selector(
                {"judge": ".rates", "deliver": ".card"}.get(step, "iframe, .tools .button")
            )
            assert violations(page, repo) == [], step
            assert page.evaluate("document.documentElement.scrollWidth") <= width, step
            keep(page, f"built-{step}-{width}-{scheme}")
    page.evaluate("location.hash = 'try'")
    camera = page.frame_locator("iframe")
    verified = (
        "#verdict[data-state=pass], #verdict[data-state=part]"  # part: photos that Chromium decodes otherwise
    )
    camera.locator(verified).wait_for(timeout=LONG)
    keep(page, "try")
