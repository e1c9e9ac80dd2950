"""What is told of frames, good and bad, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from catflap.live.counts import WatchCounts
from catflap.live.delivery import DeliveryQueue
from catflap.live.emitter import EventEmitter, Outlets
from catflap.live.frames import Outage, Picture, Shot
from catflap.live.judge import Judge
from catflap.live.settings import WatchSettings
from catflap.runtime.classifier import Classifier
from tests.live.cameras import jpeg

BAD = jpeg("red")[:300]


def emitter_of(
    red: Path, tell: Callable[[dict[str, Any]], None], outlets: Outlets, **stated: float | bool
) -> EventEmitter:
    settings = WatchSettings(red, "0", **stated)  # type: ignore[arg-type]
    judge = Judge(Classifier(red, threads=1), settings.region, settings.rules)
    return EventEmitter(settings, judge, WatchCounts(), tell, outlets)


def show(emitter: EventEmitter, first: int, count: int, photo: bytes) -> None:
    """Frames ten times a second."""
    for number in range(first, first + count):
        emitter.shot(Shot(Picture(lambda: photo), number, number / 10, monotonic(), time()))


def told(events: list[dict[str, Any]]) -> list[str]:
    return [event.get("decision", event["event"]) + ":" + event.get("why", "") for event in events]


def test_frames_that_cannot_be_read_end_a_decision_when_a_silent_camera_would(red: Path) -> None:
    events: list[dict[str, Any]] = []
    emitter = emitter_of(red, events.append, Outlets(), stalled=2.0)
    show(emitter, 1, 10, jpeg("red"))
    show(emitter, 11, 19, BAD)
    assert told(events) == ["cat:", "unreadable:"], "a moment without a picture changes nothing"
    show(emitter, 30, 50, BAD)
    assert told(events) == ["cat:", "unreadable:", "unsure:unreadable"], "and it is told once"
    show(emitter, 80, 10, jpeg("red"))
    assert told(events)[3:] == ["cat:"]
    show(emitter, 90, 30, BAD)
    assert told(events)[4:] == ["unreadable:", "unsure:unreadable"]


def test_a_camera_is_back_with_the_first_frame_that_can_be_read(red: Path) -> None:
    events: list[dict[str, Any]] = []
    emitter = emitter_of(red, events.append, Outlets(), every_frame=True)
    emitter.outage(Outage("lost", "unplugged"))
    show(emitter, 1, 3, BAD)
    show(emitter, 4, 1, jpeg("red"))
    assert [event["event"] for event in events] == ["lost", "unreadable", "back", "frame"]


def test_receivers_hear_of_a_decision_and_of_the_end_also_when_stdout_is_gone(red: Path) -> None:
    heard: list[dict[str, Any]] = []
    ran: list[dict[str, Any]] = []
    command = DeliveryQueue(
        "command", ran.append, pytest.fail, wants=lambda event: event["event"] == "decision"
    )
    queues = [DeliveryQueue("webhook", heard.append, pytest.fail), command]

    def tell(event: dict[str, Any]) -> None:
        raise BrokenPipeError

    emitter = emitter_of(red, tell, Outlets(queues))
    with pytest.raises(BrokenPipeError):
        show(emitter, 1, 10, jpeg("red"))
    with pytest.raises(BrokenPipeError):
        emitter.ended("an error")
    assert told(ran) == ["cat:", "unsure:ended"]
    assert told(heard) == ["cat:", "unsure:ended", "ended:an error"]
    assert heard[-1]["decisions"] == 2


def test_each_receiver_hears_every_event_but_frames_and_the_summary_counts_them(red: Path) -> None:
    events: list[dict[str, Any]] = []
    heard: list[dict[str, Any]] = []
    outlets = Outlets([DeliveryQueue("webhook", heard.append, pytest.fail)])
    emitter = emitter_of(red, events.append, outlets, every_frame=True)
    emitter.started("0", True)
    show(emitter, 1, 10, jpeg("red"))
    emitter.ended("stopped")
    assert heard[:-1] == [event for event in events[:-1] if event["event"] != "frame"]
    sinks = {"sinks": {"webhook": {"delivered": 4, "lost": 0}}}
    assert events[-1] == heard[-1] | sinks, "what came of the last event only stdout can say"
