"""The preview shows what is believed now, and only to whom it should."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.live.emitter import EventEmitter, Outlets
from catflap.live.frames import Outage
from catflap.live.mjpeg import Splitter
from catflap.live.preview import Preview
from tests.live.cameras import PATIENCE, eventually, jpeg
from tests.live.test_emitter import BAD, emitter_of, show


@pytest.fixture
def preview() -> Iterator[Preview]:
    one = Preview("127.0.0.1", 0)
    yield one
    one.close()


class Viewer:
    """Whoever looks: the pictures one after the other."""

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
        eventually(lambda: preview.viewers == 1)
        yield Viewer(answer)


def teller_with(red: Path, preview: Preview) -> EventEmitter:
    emitter = emitter_of(red, lambda _: None, Outlets(preview=preview), stalled=1.0)
    emitter.started("0", True)
    return emitter


def test_before_the_first_frame_there_is_a_picture_that_says_so(red: Path, preview: Preview) -> None:
    emitter = teller_with(red, preview)
    with looking(preview) as viewer:
        assert not viewer.sees_red()
        show(emitter, 1, 1, jpeg("red"))
        assert viewer.sees_red()


@pytest.mark.parametrize("outage", ["lost", "unreadable"])
def test_no_old_picture_stays_when_nothing_is_believed_any_more(
    red: Path, preview: Preview, outage: str
) -> None:
    emitter = teller_with(red, preview)
    with looking(preview) as viewer:
        assert not viewer.sees_red()
        show(emitter, 1, 1, jpeg("red"))
        assert viewer.sees_red()
        if outage == "lost":
            emitter.outage(Outage("lost", "unplugged"))
        else:
            show(emitter, 2, 20, BAD)
        assert not viewer.sees_red()


def test_who_comes_after_hours_without_viewers_gets_no_old_frame(red: Path, preview: Preview) -> None:
    emitter = teller_with(red, preview)
    with looking(preview) as viewer:
        assert not viewer.sees_red()
        show(emitter, 1, 1, jpeg("red"))
        assert viewer.sees_red()
    number = 1
    while preview.viewers:  # that one left is seen when the next picture cannot be sent
        number += 1
        show(emitter, number, 1, jpeg("red"))
    show(emitter, number + 1, 1, jpeg("red"))
    with looking(preview) as viewer:
        assert not viewer.sees_red()


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
