"""The camera page as a person uses it: camera, photos, sliders, keyboard, no network."""

from __future__ import annotations

import re
from pathlib import Path
from platform import machine
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.image import encode
from catflap.runtime.classifier import Classifier
from catflap.serving.static_site import write_site
from tests.artifacts.samples import with_litert, write_bundle
from tests.chromium import FLAGS, chromium
from tests.pages.test_accessibility import AXE, RUN_AXE, WIDTHS
from tests.web.conftest import file_server, served
from tests.web.person import ANSWERED, BLUE, RED, Open, answer, give, photo_file, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, FileChooser, Page

    from tests.tiny import Exported


def wait_until_kept(page: Page) -> None:
    """Until the service worker and the worker have put away what the page needs without a network."""
    page.evaluate(
        """async () => {
          await navigator.serviceWorker.ready;
          for (let n = 0; n < 150; n++) {
            const kept = await (await caches.open('catflap-kept')).keys();
            if (kept.some(({ url }) => url.endsWith('.wasm'))) return;
            await new Promise((resolve) => setTimeout(resolve, 100));
          }
          throw new Error('the WebAssembly file was not kept');
        }"""
    )


def test_the_camera_is_judged_as_python_judges_it(
    open_page: Open, address: str, tiny_bundle: Path, scene_photo: bytes
) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    expected = Classifier(tiny_bundle)(scene_photo)
    label, probability = answer(page)
    assert label == expected.label
    assert abs(probability - expected.probability) < 0.05  # the camera's own colours lie between
    page.locator("#entries li").wait_for()
    assert page.inner_text("#label").lower() == expected.decision
    assert expected.decision in page.inner_text("#spoken")
    assert "640×480" in page.inner_text("#speed")


@pytest.mark.slow
def test_a_browser_without_video_frames_judges_the_camera_too(
    context: BrowserContext, open_page: Open, address: str, tiny_bundle: Path, scene_photo: bytes
) -> None:
    context.add_init_script("delete window.VideoFrame")
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    assert answer(page)[0] == Classifier(tiny_bundle)(scene_photo).label


def test_the_golden_cases_pass(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator("#verdict[data-state=pass]").wait_for()
    page.click("#verdict")
    rows = page.locator("#cases tbody tr").all_inner_texts()
    assert len(rows) == 4
    assert all(row.split()[1] == "0" for row in rows)
    assert "same pixels and answers" in page.inner_text("#check-text")


@pytest.mark.slow
def test_a_variant_for_litert_comes_first_and_passes(
    open_page: Open, page_built: Path, tiny_bundle: Path, repo: Path, tmp_path: Path
) -> None:
    tflite = (repo / "tests" / "runtime" / "colour.tflite").read_bytes()
    write_site(with_litert(tiny_bundle, tmp_path / "both.catflap", tflite), tmp_path / "site")
    with file_server(tmp_path / "site") as (url, asked):
        page = open_page(url)
        page.locator("#verdict[data-state=pass]").wait_for()
        assert page.input_value("#variant") == "litert-fp32"
        give(page, photo_file(RED))
        expected = Classifier(tiny_bundle)(RED)
        label, probability = answer(page)
        assert label == expected.label
        assert abs(probability - expected.probability) < 1e-3
        assert any("fp32.tflite" in line for line in asked)
        assert not any("fp32.onnx" in line for line in asked)


@pytest.mark.slow
def test_an_exported_bundle_passes_in_both_precisions(
    open_page: Open, page_built: Path, drawn_bundle: Exported, tmp_path: Path
) -> None:
    """Every kind of drawn photo, through the Frame, in int8 and fp32."""
    write_site(drawn_bundle.path, tmp_path / "site")
    bundle = load_bundle(drawn_bundle.path)
    with file_server(tmp_path / "site") as (url, _):
        page = open_page(url)
        for variant in ("fp32", "int8"):
            page.locator("#verdict[data-state=pass], #verdict[data-state=part]").wait_for(timeout=60_000)
            rows = [row.split() for row in page.locator("#cases tbody tr").all_text_contents()]
            assert len(rows) == bundle.head["golden"]["cases"]
            assert page.input_value("#variant") == variant
            if variant == "fp32":
                page.click("#open-adjust")
                page.select_option("#variant", "int8")
                page.locator("#verdict[data-state=running]").wait_for()


def test_photos_are_judged_as_python_judges_them(
    open_page: Open, address: str, tiny_bundle: Path, scene_photo: bytes
) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    classifier = Classifier(tiny_bundle)
    for photo in (RED, BLUE, scene_photo):
        give(page, photo_file(photo))
        expected = classifier(photo)
        label, probability = answer(page)
        assert label == expected.label
        assert abs(probability - expected.probability) < 1e-3
    assert page.locator("#entries li").count() >= 3
    page.click("#live")
    page.locator("#video").wait_for()


@pytest.mark.slow
def test_pasted_and_dropped_photos_are_judged(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    for event in ("paste", "drop"):
        page.evaluate(
            """([event, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
              const given = event === "paste" ? { clipboardData: data } : { dataTransfer: data };
              const type = event === "paste" ? ClipboardEvent : DragEvent;
              document.body.dispatchEvent(new type(event, { ...given, bubbles: true, cancelable: true }));
            }""",
            [event, list(RED if event == "paste" else BLUE)],
        )
        page.locator("#still").wait_for()  # until then the camera's answers may have any label
        page.locator(f"{ANSWERED}[data-label={'warm' if event == 'paste' else 'cold'}]").wait_for()


@pytest.mark.slow
def test_the_sliders_decide_as_python_does(open_page: Open, address: str, tiny_bundle: Path) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    middle = encode(np.full((60, 80, 3), (120, 60, 118), np.uint8), "PNG")
    give(page, photo_file(middle))
    plain = Classifier(tiny_bundle)(middle)
    page.click("#open-adjust")
    page.select_option("#prior-label", "cold")
    page.fill("#prior", "-500")
    share = 1 / (1 + np.exp(500 * 9.21 / 1000))
    expected = Classifier(tiny_bundle, prior={"cold": share})(middle)
    assert "1 in" in page.inner_text("#prior-value")
    label, probability = answer(page)
    assert label == expected.label
    assert abs(probability - expected.probability) < 1e-3
    assert abs(probability - plain.probability) > 0.01
    page.fill("#threshold", "1000")
    assert page.get_attribute("#answer", "data-state") == "unsure"
    page.click("#threshold-reset")
    page.click("#prior-reset")
    assert abs(answer(page)[1] - plain.probability) < 1e-3


@pytest.mark.slow
def test_it_works_without_a_network(open_page: Open, context: BrowserContext, address: str) -> None:
    page = open_page(address)
    page.locator("#verdict[data-state=pass]").wait_for()
    wait_until_kept(page)
    context.set_offline(True)
    page.reload()
    page.locator(ANSWERED).wait_for()
    give(page, photo_file(BLUE))
    assert answer(page)[0] == "cold"
    assert page.evaluate("crossOriginIsolated")  # the service worker sees to it
    page.locator("#verdict[data-state=pass]").wait_for()


@pytest.mark.slow
def test_nothing_leaves_the_device(open_page: Open, site: Path) -> None:
    with file_server(site) as (url, asked):
        page = open_page(url)
        page.locator(ANSWERED).wait_for()
        page.locator("#verdict[data-state=pass]").wait_for()
        wait_until_kept(page)
        before = len(asked)
        give(page, photo_file(RED))
        give(page, photo_file(BLUE))
        assert asked[before:] == []
        assert all(line.startswith("GET ") for line in asked)
    policy = page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert "connect-src 'self'" in str(policy)


@pytest.mark.slow
def test_everything_can_be_reached_with_the_keyboard(browser: Browser, address: str) -> None:
    page = browser.new_context(permissions=[]).new_page()  # the camera was not allowed before
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.goto(address)
    page.locator("#answer[data-state=waiting]").wait_for()
    page.locator("#bars li").first.wait_for()

    def press_until(target: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == target:
                return
        raise AssertionError(f"Tab does not reach {target}")

    press_until("start")
    page.keyboard.press("Enter")
    page.locator(ANSWERED).wait_for()
    assert page.is_visible("#video")
    page.locator("#verdict[data-state=pass]").wait_for()
    press_until("choose")
    page.keyboard.press("Enter")
    wait_for(page, lambda: bool(choosers))
    choosers[0].set_files([photo_file(RED)])  # type: ignore[list-item]
    page.locator("#still").wait_for()
    press_until("open-adjust")
    page.keyboard.press("Enter")
    page.locator("#adjust").wait_for()
    press_until("threshold")
    before = page.inner_text("#threshold-value")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#threshold-value") != before
    assert page.get_attribute("#threshold", "aria-valuetext") == page.inner_text("#threshold-value")
    press_until("prior")
    page.keyboard.press("Escape")
    page.locator("#adjust").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "open-adjust"
    page.context.close()


@pytest.mark.parametrize(
    ("scheme", "widths"),
    [
        ("light", WIDTHS[:1]),
        pytest.param("light", WIDTHS[1:], marks=pytest.mark.slow),
        pytest.param("dark", WIDTHS, marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing(browser: Browser, address: str, scheme: Any, widths: tuple[int, ...]) -> None:
    """On the page with an answer on it: a phone, a tablet and a desk."""
    context = browser.new_context(permissions=["camera"], color_scheme=scheme, bypass_csp=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(address)
    page.locator("#verdict[data-state=pass]").wait_for()
    give(page, photo_file(RED))
    page.locator(ANSWERED).wait_for()
    page.evaluate(AXE.read_text("utf-8"))
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(RUN_AXE) == [], width
    context.close()


@pytest.mark.slow
def test_every_control_has_a_name(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, section, dialog')].filter((part) => {
          const named = part.getAttribute('aria-label') || part.getAttribute('aria-labelledby');
          return !named && !part.labels?.length && !part.textContent.trim() && part.id !== 'verdict';
        }).map((part) => part.id)"""
    )
    assert nameless == []
    assert page.get_attribute("html", "lang") == "en"
    assert page.get_attribute("#spoken", "role") == "status"


@pytest.mark.slow
def test_the_history_can_be_scrolled_with_the_keyboard(open_page: Open, address: str) -> None:
    page = open_page(address)
    assert page.is_hidden("#entries")  # nothing to stop at
    page.locator("#entries li").wait_for()
    page.focus("#open-adjust")
    for _ in range(2):  # past the button that clears it
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "entries"
    assert page.get_attribute("#entries", "aria-label") == "Decisions, the latest first"


@pytest.mark.slow
def test_without_a_service_worker_the_page_works_all_the_same(
    context: BrowserContext, open_page: Open, address: str
) -> None:
    context.add_init_script(
        """ServiceWorkerContainer.prototype.register = async () => {
          window.tried = true;
          throw new Error('no');
        }"""
    )
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    wait_for(page, lambda: bool(page.evaluate("window.tried")))
    page.wait_for_timeout(200)  # open_page fails when an error stays unheard


def test_one_screen_is_enough(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    for width, height in ((360, 640), (390, 844), (844, 390), (1280, 800)):
        page.set_viewport_size({"width": width, "height": height})
        sides = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert sides[0] <= width, (width, height)
        assert sides[1] <= height, (width, height)
        for control in ("#stage", "#label", "#choose", "#open-adjust"):
            box = page.locator(control).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= width, (width, height, control)
            assert box["y"] + box["height"] <= height, (width, height, control)


def test_it_is_dark_where_the_person_wants_it_dark(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    page.goto(address)
    shades = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shades.append([int(value) for value in re.findall(r"\d+", colour)])
    assert min(shades[0]) > 220, "the paper of the pages' style sheet"
    assert max(shades[1]) < 40


@pytest.mark.slow
def test_a_file_that_is_no_photo_gets_a_sentence(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    for data in (b"", b"<html>not a photo</html>", RED[:40]):
        page.set_input_files("#file", [photo_file(data, "bad.jpg", "image/jpeg")])
        page.locator("#notice").wait_for()
        assert "not a photo" in page.inner_text("#notice"), data
        give(page, photo_file(BLUE))
        assert answer(page)[0] == "cold"
        page.locator("#notice").wait_for(state="hidden")


@pytest.mark.slow
def test_the_notice_about_one_of_many_photos_stays(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    page.set_input_files("#file", [photo_file(b"", "bad.jpg"), photo_file(RED), photo_file(BLUE)])  # type: ignore[list-item]
    page.locator("#still").wait_for()
    page.locator(f"{ANSWERED}[data-label=cold]").wait_for()
    assert "not a photo" in page.inner_text("#notice")
    assert page.inner_text("#notice").startswith("bad.jpg: ")  # which of them
    give(page, photo_file(RED))
    assert page.is_hidden("#notice")


@pytest.mark.slow
@pytest.mark.skipif(machine() not in ("x86_64", "AMD64"), reason="only x86 can be told to have no SIMD")
def test_a_browser_without_simd_is_told_so(browser: Browser, address: str) -> None:
    old = "--js-flags=--no-enable-sse4-1 --no-enable-ssse3"
    other = browser.browser_type.launch(executable_path=chromium(), args=[*FLAGS, old])
    page = other.new_page()
    page.goto(address)
    page.locator("#answer[data-state=message]").wait_for()
    assert "too old" in page.inner_text("#label")
    other.close()


@pytest.mark.slow
def test_the_history_tells_the_time_as_the_browser_does(browser: Browser, address: str) -> None:
    for locale, is_halved in (("en-US", True), ("de-DE", False)):
        context = browser.new_context(permissions=["camera"], locale=locale)
        page = context.new_page()
        page.goto(address)
        how = page.locator("#entries .how").first.inner_text()
        assert how.endswith(("AM", "PM")) == is_halved
        context.close()


@pytest.mark.slow
def test_a_long_answer_is_shown_whole(
    open_page: Open, address: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    head = {field: value for field, value in load_bundle(tiny_bundle).head.items() if field != "files"}
    labels = ["great_white_shark", "not_a_great_white_shark"]
    head |= {"labels": labels, "prior": dict.fromkeys(labels, 0.5)}
    members = load_bundle(tiny_bundle).members
    path = tmp_path / "long.catflap"
    write_bundle(path, head, {name: bytes(data) for name, data in members.items() if name != HEAD})
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    page.set_input_files("#file", path)
    page.locator("#bars .name", has_text="great").first.wait_for()
    give(page, photo_file(RED))
    assert page.inner_text("#label").lower() == "not a great white shark"
    sides = "['scroll', 'client'].map((side) => document.getElementById('label')[`${side}Width`])"
    inside, across = page.evaluate(sides)
    assert inside <= across
    assert page.evaluate("getComputedStyle(document.getElementById('label')).whiteSpace") == "normal"


@pytest.mark.slow
def test_without_a_camera_the_page_says_so_from_the_start(
    context: BrowserContext, open_page: Open, address: str
) -> None:
    context.add_init_script("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page = open_page(address)
    page.locator("#bars li").first.wait_for()  # the bundle is open
    assert "There is no camera here" in page.inner_text("#notice")
    give(page, photo_file(RED))
    assert page.is_hidden("#notice")


@pytest.mark.slow
def test_the_server_offers_the_same_page_isolated(
    open_page: Open, page_built: Path, tiny_bundle: Path
) -> None:
    with served(tiny_bundle) as url:
        page = open_page(url)
        page.locator("#verdict[data-state=pass]").wait_for()
        give(page, photo_file(RED))
        assert answer(page)[0] == "warm"
        assert page.evaluate("crossOriginIsolated")  # so that WebAssembly gets threads at the first visit
