"""A watch that goes on for months must not grow."""

from __future__ import annotations

import gc
import tracemalloc
from collections import deque
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from catflap.live.archive import Archive
from catflap.live.delivery import Output
from catflap.live.frames import Outage, Shot, Stop
from catflap.live.watch import Watch
from catflap.live.watch_settings import WatchSettings
from catflap.runtime.classifier import Classifier
from catflap.runtime.recording import LogSettings, Recorder
from tests.live.cameras import flat


@pytest.mark.slow
def test_ten_thousand_frames_leave_nothing_behind(red: Path, tmp_path: Path) -> None:
    """Decisions, outages, events and a log that is at its limit."""
    log = LogSettings(tmp_path / "field.log", pictures=True, limit=1_000_000)
    settings = WatchSettings(red, "0", log=log, log_every=1.0, save=tmp_path / "frames", save_bytes=100_000)
    classifier, stop = Classifier(red, threads=1), Stop()
    recorder = Recorder(log, pytest.fail)
    events: deque[Any] = deque(maxlen=10)
    output = Output(events.append, pytest.fail, stop, lossless=True)
    archive = Archive(settings, classifier, recorder, pytest.fail, stop, lossless=True)
    watch = Watch(settings, classifier, output, [], archive)
    colours = [flat("red", 64, 48), flat("blue", 64, 48)]

    def run(first: int, count: int) -> None:
        for number in range(first, first + count):
            pixels = colours[number // 50 % 2]
            watch.frame(Shot(lambda pixels=pixels: pixels, None, number, number / 10, monotonic(), time()))  # type: ignore[misc]
            if number % 1000 == 0:
                watch.outage(Outage("lost", "simulated"))

    run(1, 3000)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run(3001, 7000)
        summary = watch.ended("test")
        recorder.close()  # rows on their way to the disk are none left behind
        output.close()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000, "29 bytes a frame"
    assert summary["judged"] == 10_000
