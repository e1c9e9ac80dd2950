"""A watch that goes on for months must not grow."""

from __future__ import annotations

import gc
import tracemalloc
from collections import deque
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from catflap.live.counts import WatchCounts
from catflap.live.emitter import EventEmitter, Outlets
from catflap.live.frames import Outage, Picture, Shot
from catflap.live.judge import Judge
from catflap.live.settings import WatchSettings
from catflap.runtime.classifier import Classifier
from catflap.runtime.recording import LogSettings, Recorder
from tests.live.cameras import flat


@pytest.mark.slow
def test_ten_thousand_frames_leave_nothing_behind(red: Path, tmp_path: Path) -> None:
    """Decisions, outages, events and a log that is at its limit."""
    settings = WatchSettings(red, "0", log_every=1.0)
    classifier = Classifier(red, threads=1)
    recorder = Recorder(LogSettings(tmp_path / "field.log", pictures=True, limit=1_000_000), pytest.fail)
    judge = Judge(classifier, settings.region, settings.rules)
    events: deque[Any] = deque(maxlen=10)
    emitter = EventEmitter(settings, judge, WatchCounts(), events.append, Outlets(recorder=recorder))
    colours = [flat("red", 64, 48), flat("blue", 64, 48)]

    def run(first: int, count: int) -> None:
        for number in range(first, first + count):
            pixels = colours[number // 50 % 2]
            emitter.shot(
                Shot(Picture(lambda pixels=pixels: pixels), number, number / 10, monotonic(), time())
            )
            if number % 1000 == 0:
                emitter.outage(Outage("lost", "simulated"))

    run(1, 3000)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run(3001, 7000)
        recorder.close()  # rows on their way to the disk are none left behind
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000, "29 bytes a frame"
    assert emitter.ended("test")["judged"] == 10_000
