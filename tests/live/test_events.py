"""Which events good and bad frames cause, and who receives them."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from catflap.live.archive import Archive
from catflap.live.delivery import Event, OrderedDelivery, Output
from catflap.live.frames import Outage, Shot, Stop
from catflap.live.hysteresis import Rules
from catflap.live.preview import Preview
from catflap.live.watch import Receiver, Watch
from catflap.live.watch_settings import WatchSettings
from catflap.runtime.classifier import Classifier
from tests.live.cameras import jpeg

BAD = jpeg("red")[:300]


class Desk:
    """A Watch, and its events so far."""

    def __init__(
        self,
        red: Path,
        receivers: list[Receiver] | None = None,
        preview: Preview | None = None,
        **stated: Any,
    ) -> None:
        self._told: list[Event] = []
        self.settings = WatchSettings(red, "0", **stated)
        classifier = Classifier(red, threads=1, operating_point=self.settings.operating_point)
        stop = Stop()
        self.output = Output(self._told.append, pytest.fail, stop, lossless=True)
        archive = Archive(self.settings, classifier, None, pytest.fail, stop, lossless=True)
        self.watch = Watch(self.settings, classifier, self.output, receivers or [], archive, preview)

    def show(self, first: int, count: int, photo: bytes) -> None:
        """Frames ten times a second."""
        for number in range(first, first + count):
            self.watch.frame(Shot(lambda: photo, None, number, number / 10, monotonic(), time()))

    def events(self) -> list[Event]:
        """Every event; none can follow."""
        self.output.close()
        return self._told


def words(events: list[Event]) -> list[str]:
    return [event.get("decision", event["event"]) + ":" + event.get("why", "") for event in events]


def test_frames_that_cannot_be_read_end_a_decision_when_a_silent_camera_would(red: Path) -> None:
    desk = Desk(red, stalled=2.0)
    desk.show(1, 10, jpeg("red"))
    desk.show(11, 19, BAD)
    assert desk.watch.decision == "cat", "a moment without a picture changes nothing"
    desk.show(30, 50, BAD)
    desk.show(80, 10, jpeg("red"))
    desk.show(90, 30, BAD)
    once = ["cat:", "unreadable:", "unsure:unreadable"]
    assert words(desk.events()) == once + once, "and it is reported once"


def test_a_camera_is_back_with_the_first_frame_that_can_be_read(red: Path) -> None:
    desk = Desk(red, every_frame=True)
    desk.watch.outage(Outage("lost", "unplugged"))
    desk.watch.outage(Outage("lost", "unplugged"))
    desk.show(1, 3, BAD)
    desk.show(4, 1, jpeg("red"))
    assert [event["event"] for event in desk.events()] == ["lost", "unreadable", "back", "frame"]


def test_each_receiver_hears_every_event_but_frames_and_the_summary_counts_them(red: Path) -> None:
    heard: list[Event] = []
    desk = Desk(red, [OrderedDelivery("webhook", heard.append, pytest.fail)], every_frame=True)
    desk.watch.started("0", True)
    desk.show(1, 10, jpeg("red"))
    desk.watch.ended("stopped")
    events = desk.events()
    assert heard[:-1] == [event for event in events[:-1] if event["event"] != "frame"]
    sinks = {"sinks": {"webhook": {"delivered": 4, "lost": 0}}}
    assert events[-1] == heard[-1] | sinks, "what became of the last event only stdout can say"


def photo_of(probability: float) -> bytes:
    """A frame that the red bundle gives this probability of a cat."""
    from math import log

    import numpy as np

    from catflap.image import encode

    difference = log(probability / (1 - probability)) / 0.1  # logits are ±0.05 × (red − blue)
    level = round(128 + difference / 2), 0, round(128 - difference / 2)
    return encode(np.full((32, 32, 3), level, np.uint8), "PNG")


@pytest.mark.parametrize("threshold", [0.7, 0.9, 0.97])
def test_by_default_a_label_is_entered_at_the_bundles_own_threshold(tmp_path: Path, threshold: float) -> None:
    from tests.serving.bundles import make_bundle

    bundle = make_bundle(tmp_path / "cat.catflap", threshold=threshold)
    for rules, share, decision in (
        (Rules(), threshold - 0.02, "unsure"),
        (Rules(), threshold + 0.02, "cat"),
        (Rules(enter=0.99), threshold + 0.015, "unsure"),
        (Rules(enter=0.6), threshold - 0.02, "cat"),
    ):
        desk = Desk(bundle, rules=rules)
        desk.show(1, 20, photo_of(share))
        assert desk.watch.decision == decision, (share, rules)
        desk.events()


def test_a_label_is_left_below_the_threshold_by_a_margin(tmp_path: Path) -> None:
    from tests.serving.bundles import make_bundle

    bundle = make_bundle(tmp_path / "cat.catflap", threshold=0.9)
    desk = Desk(bundle)
    desk.watch.started("0", True)
    desk.show(1, 20, photo_of(0.95))
    assert desk.watch.decision == "cat"
    desk.show(21, 50, photo_of(0.75))
    assert desk.watch.decision == "cat", "between the thresholds a decision stays"
    desk.show(71, 50, photo_of(0.6))
    assert desk.watch.decision == "unsure"
    started = desk.events()[0]
    assert (started["enter"], started["leave"]) == (0.9, pytest.approx(9 / 13)), "a quarter of the odds"


def test_receivers_hear_the_end_also_when_stdout_is_gone(red: Path) -> None:
    heard: list[Event] = []

    def tell(event: Event) -> None:
        raise BrokenPipeError

    settings, stop = WatchSettings(red, "0"), Stop()
    classifier = Classifier(red, threads=1)
    output = Output(tell, pytest.fail, stop, lossless=True)
    receivers: list[Receiver] = [OrderedDelivery("webhook", heard.append, pytest.fail)]
    archive = Archive(settings, classifier, None, pytest.fail, stop, lossless=True)
    watch = Watch(settings, classifier, output, receivers, archive)
    for number in range(1, 10):
        watch.frame(Shot(lambda: jpeg("red"), None, number, number / 10, monotonic(), time()))
    watch.ended("an error")
    with pytest.raises(BrokenPipeError):
        output.close()
    assert stop.requested, "which ends the watch"
    assert words(heard) == ["cat:", "unsure:ended", "ended:an error"]
    assert heard[-1]["decisions"] == 2
