"""The preview shows what is believed now, and only to whom it should."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError

import cv2
import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.live.frame_sources import Splitter
from catflap.live.frames import Outage
from catflap.live.preview import CONNECTIONS, VIEWERS, Preview
from tests.live.cameras import PATIENCE, eventually, jpeg
from tests.live.test_events import BAD, Desk


@pytest.fixture
def preview() -> Iterator[Preview]:
    one = Preview("127.0.0.1", 0)
    yield one
    one.close()


class Viewer:
    """The pictures that a viewer gets, one after the other."""

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer, self._splitter, self._ready = answer, Splitter(1 << 20), list[bytes]()

    def sees_red(self) -> bool:
        """Whether the next picture shows the red frame; a notice is black."""
        end = monotonic() + PATIENCE
        while not self._ready:
            assert monotonic() < end, "no picture came"
            self._ready = self._splitter.feed(self._answer.read1(65536))
        picture = cv2.imdecode(np.frombuffer(self._ready.pop(0), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        return bool(picture[..., 2].mean() > 100)


@contextmanager
def looking(preview: Preview) -> Iterator[Viewer]:
    with urllib.request.urlopen(f"http://127.0.0.1:{preview.port}/stream", timeout=60) as answer:
        yield Viewer(answer)


def desk_with(red: Path, preview: Preview) -> Desk:
    desk = Desk(red, preview=preview, stalled=1.0)
    desk.watch.started("0", True)
    return desk


def test_before_the_first_frame_there_is_a_picture_that_says_so(red: Path, preview: Preview) -> None:
    desk = desk_with(red, preview)
    with looking(preview) as viewer:
        assert not viewer.sees_red()
        desk.show(1, 1, jpeg("red"))
        assert viewer.sees_red()


@pytest.mark.parametrize("outage", ["lost", "unreadable"])
def test_no_old_picture_stays_when_nothing_is_decided_any_more(
    red: Path, preview: Preview, outage: str
) -> None:
    desk = desk_with(red, preview)
    with looking(preview) as viewer:
        assert not viewer.sees_red()
        desk.show(1, 1, jpeg("red"))
        assert viewer.sees_red()
        if outage == "lost":
            desk.watch.outage(Outage("lost", "unplugged"))
        else:
            desk.show(2, 20, BAD)
        while viewer.sees_red():
            pass


def test_who_comes_later_sees_the_latest_frame(red: Path, preview: Preview) -> None:
    desk = desk_with(red, preview)
    desk.show(1, 5, jpeg("red"))
    desk.show(6, 1, jpeg("blue"))
    with looking(preview) as viewer:
        assert not viewer.sees_red()
    desk.show(7, 1, jpeg("red"))
    with looking(preview) as viewer:
        assert viewer.sees_red()


def test_a_viewer_that_never_reads_holds_up_neither_frames_nor_other_viewers(
    red: Path, preview: Preview
) -> None:
    desk = desk_with(red, preview)
    with socket.create_connection(("127.0.0.1", preview.port)) as deaf:
        deaf.sendall(b"GET /stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
        eventually(lambda: preview.viewers == 1)
        desk.show(1, 300, jpeg("red", width=1280, height=720))
        with urllib.request.urlopen(f"http://127.0.0.1:{preview.port}/stream", timeout=60) as answer:
            viewer = Viewer(answer)
            while not viewer.sees_red():
                pass
            desk.show(301, 1, jpeg("blue"))
            while viewer.sees_red():
                pass


@pytest.mark.slow
def test_connections_that_ask_nothing_take_no_more_than_their_share_and_are_closed() -> None:
    preview = Preview("127.0.0.1", 0, head_seconds=0.5)
    silent = [socket.create_connection(("127.0.0.1", preview.port)) for _ in range(CONNECTIONS + 4)]
    try:
        for one in silent:
            one.settimeout(PATIENCE)
            with suppress(ConnectionError):
                assert one.recv(1) == b"", "it is closed, without an answer"
        with urllib.request.urlopen(f"http://127.0.0.1:{preview.port}/", timeout=PATIENCE) as page:
            assert page.status == 200
    finally:
        for one in silent:
            one.close()
        preview.close()


def test_more_viewers_than_there_may_be_are_told_to_come_later(preview: Preview) -> None:
    with ExitStack() as viewers:
        for number in range(VIEWERS):
            url = f"http://127.0.0.1:{preview.port}/stream"
            viewers.enter_context(urllib.request.urlopen(url, timeout=60))
            eventually(lambda count=number + 1: preview.viewers == count)  # type: ignore[misc]
        with pytest.raises(HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{preview.port}/stream", timeout=60)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LocalHost:8080", 200), ("127.0.0.1:8080", 200), ("127.1.2.3", 200),
        ("[::1]:1", 200),
        ("evil.example", 421), ("localhost.evil.example:80", 421), ("192.168.0.7", 421),
        ("[::1", 421), ("", 421),
    ],
)  # fmt: skip
def test_a_private_preview_answers_to_names_of_this_machine_alone(
    preview: Preview, host: str, status: int
) -> None:
    connection = HTTPConnection("127.0.0.1", preview.port, timeout=60)
    connection.request("GET", "/", headers={"Host": host})
    answer = connection.getresponse()
    assert answer.status == status
    assert (b"stream" in answer.read()) == (status == 200)
    connection.close()


def test_a_preview_for_the_network_answers_to_any_name() -> None:
    preview = Preview("0.0.0.0", 0)
    try:
        assert not preview.private
        assert preview.answers_to("camera.example:8080")
    finally:
        preview.close()


@pytest.mark.parametrize("host", ["ü..x", "a\x00b", "x" * 70])
def test_a_host_that_is_no_name_is_refused(host: str) -> None:
    with pytest.raises(CatflapError, match="Cannot listen"):
        Preview(host, 0)


def test_the_text_stands_on_a_box_and_leaves_the_rest_of_the_frame_alone() -> None:
    """OpenCV 5 gives bold letters another width, so that an outline would not lie behind its text."""
    import cv2
    import numpy as np

    from catflap.live.opencv import draw_preview

    grey = np.full((300, 600, 3), 128, np.uint8)
    picture = cv2.imdecode(
        np.frombuffer(draw_preview(grey, "cat 0.98", None), np.uint8), cv2.IMREAD_GRAYSCALE
    )
    box = np.argwhere(picture < 40)
    bottom, right = box.max(axis=0)
    assert 20 < bottom < 60
    assert 80 < right < 300
    text = picture[: bottom - 2, : right - 2] > 200
    assert 0.02 < text.mean() < 0.4
    assert abs(picture[bottom + 12 :].astype(int) - 128).max() < 12
