"""The page's camera: it ends, falls silent, comes late, makes way for a photo, and starts again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.person import ANSWERED, BLUE, RED, Open, give, photo_file, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones

# Every camera that the page got, the last one last; `delay` is what each takes to come, in ms.
WATCHED = """
  window.tracks = [];
  window.delay = 0;
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await ask(wanted);
    tracks.push(...stream.getTracks());
    await new Promise((resolve) => setTimeout(resolve, delay));
    return stream;
  };
"""


@pytest.fixture
def page(context: BrowserContext, open_page: Open, address: str) -> Page:
    """The page, which judges its camera, and `tracks`."""
    context.add_init_script(WATCHED)
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    return page


def cameras_on(page: Page) -> int:
    return int(page.evaluate("tracks.filter(({ readyState }) => readyState === 'live').length"))


def end_camera(page: Page) -> None:
    """What happens when a camera is pulled out or its permission is taken back."""
    page.evaluate("tracks.at(-1).stop(); tracks.at(-1).dispatchEvent(new Event('ended'))")


def mute_camera(page: Page, on: bool) -> None:
    """What happens when a telephone call takes the camera, and gives it back."""
    page.evaluate(
        """(on) => {
          Object.defineProperty(tracks.at(-1), 'muted', { value: on, configurable: true });
          tracks.at(-1).dispatchEvent(new Event(on ? 'mute' : 'unmute'));
        }""",
        on,
    )


def hide_page(page: Page, on: bool) -> None:
    page.evaluate(
        """(on) => {
          Object.defineProperty(document, 'hidden', { value: on, configurable: true });
          document.dispatchEvent(new Event('visibilitychange'));
        }""",
        on,
    )


def assert_nothing_is_decided(page: Page) -> None:
    page.locator("#answer[data-state=waiting]").wait_for()
    page.wait_for_timeout(500)  # longer than an answer that was on its way
    assert page.get_attribute("#answer", "data-state") == "waiting"
    assert page.locator(ANSWERED).count() == 0
    assert page.inner_text("#spoken") == ""
    assert page.text_content("#sheet-answer") == ""


def test_a_camera_that_ends_decides_nothing_more_and_can_be_started_again(page: Page) -> None:
    end_camera(page)
    assert_nothing_is_decided(page)
    assert "camera has stopped" in page.inner_text("#notice")
    assert page.is_hidden("#video")
    assert page.is_hidden("#pause")
    page.click("#start")
    page.locator(ANSWERED).wait_for()
    assert page.is_hidden("#notice")
    assert page.is_hidden("#start")
    assert cameras_on(page) == 1


def test_a_camera_without_a_picture_decides_nothing_until_it_has_one(page: Page) -> None:
    mute_camera(page, True)
    assert_nothing_is_decided(page)
    assert "gives no picture" in page.inner_text("#notice")
    mute_camera(page, False)
    page.locator(ANSWERED).wait_for()
    assert page.is_hidden("#notice")


def test_a_page_that_is_seen_again_goes_on(page: Page) -> None:
    hide_page(page, True)
    page.evaluate("document.getElementById('video').pause()")  # as phones do
    hide_page(page, False)
    wait_for(page, lambda: not page.evaluate("document.getElementById('video').paused"))
    mute_camera(page, True)
    hide_page(page, True)
    end_camera(page)
    assert cameras_on(page) == 0
    page.evaluate("delay = 3000")
    hide_page(page, False)
    assert_nothing_is_decided(page)
    page.locator(ANSWERED).wait_for()
    assert cameras_on(page) == 1
    assert page.is_hidden("#notice")


def test_an_answer_about_a_camera_that_ended_unseen_goes(page: Page) -> None:
    hide_page(page, True)
    end_camera(page)
    page.locator(ANSWERED).wait_for()
    page.evaluate("delay = 3000")
    hide_page(page, False)
    assert_nothing_is_decided(page)
    page.locator(ANSWERED).wait_for()


def test_a_camera_that_was_paused_and_ended_unseen_is_not_started(page: Page) -> None:
    page.click("#pause")
    hide_page(page, True)
    hide_page(page, False)
    assert page.evaluate("document.getElementById('video').paused")
    hide_page(page, True)
    end_camera(page)
    hide_page(page, False)
    assert_nothing_is_decided(page)
    assert cameras_on(page) == 0
    assert page.is_visible("#start")


def test_of_starts_in_quick_succession_one_camera_is_left(page: Page) -> None:
    end_camera(page)
    page.evaluate("delay = 300")
    page.evaluate("for (let n = 0; n < 3; n++) document.getElementById('start').click()")
    page.locator(ANSWERED).wait_for()
    page.wait_for_timeout(1000)  # longer than any that was asked for takes
    assert cameras_on(page) == 1
    assert page.evaluate("document.getElementById('video').srcObject.getTracks()[0] === tracks.at(-1)")
    page.evaluate("document.getElementById('start').click()")
    page.evaluate("tracks.at(-1).dispatchEvent(new Event('ended'))")  # of the one before, which is no news
    page.locator(ANSWERED).wait_for()
    assert cameras_on(page) == 1


def test_a_photo_turns_the_camera_off_and_the_camera_comes_back(page: Page) -> None:
    give(page, photo_file(RED))
    assert cameras_on(page) == 0
    page.click("#live")
    page.locator("#video").wait_for()
    page.locator(ANSWERED).wait_for()
    assert cameras_on(page) == 1
    page.evaluate("delay = 500")
    give(page, photo_file(BLUE))
    page.click("#live")
    give(page, photo_file(RED))  # and now the camera that was asked for comes
    page.wait_for_timeout(1000)
    assert page.is_visible("#still")
    assert cameras_on(page) == 0


def test_a_video_that_does_not_play_leaves_no_camera_on(page: Page) -> None:
    end_camera(page)
    page.evaluate(
        """() => {
          window.play = HTMLMediaElement.prototype.play;
          HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException('no', 'NotAllowedError'));
        }"""
    )
    page.click("#start")
    wait_for(page, lambda: "does not show the camera" in page.inner_text("#notice"))
    assert cameras_on(page) == 0
    page.evaluate("() => { HTMLMediaElement.prototype.play = play; }")
    page.click("#start")
    page.locator(ANSWERED).wait_for()
    assert cameras_on(page) == 1


def test_where_the_chosen_camera_is_gone_another_one_starts(page: Page) -> None:
    page.evaluate(
        """() => {
          const ask = navigator.mediaDevices.getUserMedia;
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            if (wanted.video.deviceId) throw new DOMException('', 'OverconstrainedError');
            return ask(wanted);
          };
        }"""
    )
    give(page, photo_file(RED))
    page.click("#live")
    page.locator("#video").wait_for()
    page.locator(ANSWERED).wait_for()
    assert page.is_hidden("#notice")


def test_an_error_without_words_is_named(page: Page) -> None:
    end_camera(page)
    page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'AbortError'));
        }"""
    )
    page.click("#start")
    wait_for(page, lambda: "AbortError" in page.inner_text("#notice"))


def test_an_answer_goes_when_no_other_comes(page: Page) -> None:
    page.click("#pause")
    page.wait_for_timeout(3000)
    assert page.locator(ANSWERED).count() == 1  # about the picture that is shown
    page.click("#pause")
    page.evaluate("HTMLVideoElement.prototype.requestVideoFrameCallback = () => 0")
    assert_nothing_is_decided(page)


def test_the_light_of_a_camera_that_starts_is_off(page: Page) -> None:
    page.evaluate(
        """() => {
          MediaStreamTrack.prototype.getCapabilities = () => ({ torch: true });
          MediaStreamTrack.prototype.applyConstraints = async () => undefined;
        }"""
    )
    give(page, photo_file(RED))
    page.click("#live")
    page.click("#light")
    page.locator("#light[aria-pressed=true]").wait_for()
    give(page, photo_file(BLUE))
    page.click("#live")
    page.locator("#video").wait_for()
    assert page.get_attribute("#light", "aria-pressed") == "false"


def test_the_pause_button_says_what_it_does_and_is_no_switch_besides(page: Page) -> None:
    colour = "getComputedStyle(document.getElementById('pause')).backgroundColor"
    plain = page.evaluate(colour)
    assert page.inner_text("#pause") == "Pause"
    page.click("#pause")
    assert page.inner_text("#pause") == "Go on"
    assert page.get_attribute("#pause", "aria-pressed") is None
    assert page.evaluate(colour) != plain
