"""`catflap watch` with a slow network, against bare decoding and inference, and over a simulated day.

    python benchmarks/watch.py
    python benchmarks/watch.py --hours 24

Frame age: Motion JPEG at 30 frames a second over HTTP, and a network of some 80 ms. Processor time: the
same video read by `watch` and by a bare loop of OpenCV and the classifier, in turns. A day: as many frames
as a camera gives 12.5 times a second, as fast as they can be judged, with an outage every hour; the memory
after the first hour and after the last one.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median, quantiles

import cv2
import numpy as np
from machine import header

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixels import grainy

from catflap.image import encode
from catflap.live.counts import WatchCounts
from catflap.live.emitter import EventEmitter, Outlets
from catflap.live.frames import Outage, Picture, Shot
from catflap.live.judge import Judge
from catflap.live.settings import WatchSettings
from catflap.live.watch import watch
from catflap.runtime.classifier import Classifier
from tests.serving.bundles import make_bundle

FPS = 30
A_SECOND = 12.5  # frames that an 80 ms network judges


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="of the stream (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="of each way to judge the video (default: 5)")
    parser.add_argument("--hours", type=float, default=24, help="simulated (default: 24)")
    args = parser.parse_args()
    header(fps=FPS, **vars(args), frame="640 × 480 px", opencv=cv2.__version__)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"frame age": frame_age(Path(folder), args.seconds)}))
        print(json.dumps({"processor time": processor_time(Path(folder), args.rounds)}))
        print(json.dumps({"a day": a_day(Path(folder), args.hours)}))


def slow_bundle(folder: Path, goal: float = 80.0) -> tuple[Path, float]:
    """A bundle whose answer takes some 80 ms on one thread here, and the milliseconds that it takes."""
    frame = np.zeros((480, 640, 3), np.uint8)
    effort = 2
    while True:
        path = make_bundle(folder / f"slow{effort}.catflap", effort=effort)
        classifier = Classifier(path, threads=1)
        taken = median(classifier(frame).ms for _ in range(7))
        if taken >= 0.9 * goal:
            return path, taken
        effort = max(effort + 1, int(effort * goal / taken))


def frame_age(folder: Path, seconds: float) -> dict[str, float]:
    """Milliseconds from a frame's arrival to the answer about it; the goal is a frame and an inference."""
    bundle, _ = slow_bundle(folder)
    ages, work, jpeg = [], [], grainy(640, 480)
    with Stream(jpeg, seconds) as url:

        def tell(event: dict[str, object]) -> None:
            if event["event"] == "frame":
                ages.append(float(str(event["frame_age_ms"])))
                work.append(float(str(event["ms"])))
            elif event["event"] == "lost":
                raise EOFError

        with suppress(EOFError):
            watch(WatchSettings(str(bundle), url, threads=1, every_frame=True, stalled=60), tell)
    limit = 1e3 / FPS + max(work)
    p99 = quantiles(ages, n=100)[98]
    return {
        "judged": len(ages), "inference_p50": median(work), "inference_max": max(work),
        "age_p50": median(ages), "age_p99": round(p99, 1), "age_max": max(ages),
        "one_frame_and_slowest_inference": round(limit, 1),
    }  # fmt: skip


class Stream:
    """A camera over HTTP that ends after some seconds."""

    def __init__(self, jpeg: bytes, seconds: float) -> None:
        head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
                self.end_headers()
                begun = time.monotonic()
                for number in range(int(seconds * FPS)):
                    time.sleep(max(0.0, begun + number / FPS - time.monotonic()))
                    self.wfile.write(head + jpeg + b"\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def processor_time(folder: Path, rounds: int) -> dict[str, float]:
    """Processor seconds for a video, by `watch` and by decoding and inference alone, with the cat bundle."""
    video = str(folder / "video.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter.fourcc(*"MJPG"), FPS, (640, 480))
    picture = cv2.imdecode(np.frombuffer(grainy(640, 480), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None  # it was encoded here
    for number in range(150):
        writer.write(np.roll(picture, number, axis=1))
    writer.release()
    classifier = Classifier("cat", threads=1)

    def bare() -> None:
        capture = cv2.VideoCapture(video, cv2.CAP_FFMPEG)
        while (frame := capture.read()[1]) is not None:
            classifier(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8))

    ways: dict[str, Callable[[], object]] = {
        "bare": bare,
        "watch": lambda: watch(WatchSettings("cat", video, threads=1)),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            if number:
                spent[name].append(time.process_time() - begun)
    found = {name: round(median(times), 3) for name, times in spent.items()}
    return {**found, "frames": 150, "ratio": round(found["watch"] / found["bare"], 3)}


def a_day(folder: Path, hours: float) -> dict[str, float]:
    """The memory in MB after the first simulated hour and after the last one."""
    settings = WatchSettings(str(make_bundle(folder / "quick.catflap")), "0")
    judge = Judge(Classifier(settings.bundle, threads=1), settings.region, settings.rules)
    events = 0

    def tell(_: dict[str, object]) -> None:
        nonlocal events
        events += 1

    emitter = EventEmitter(settings, judge, WatchCounts(), tell, Outlets())
    emitter.started("simulated", True)
    memory = []
    begun = time.monotonic()
    an_hour = int(3600 * A_SECOND)
    for shot in simulated(int(hours * an_hour)):
        if shot.number % an_hour == 0:
            emitter.outage(Outage("lost", "simulated"))
            gc.collect()
            memory.append(resident_mb())
        emitter.shot(shot)
    taken = time.monotonic() - begun
    return {
        "frames": int(hours * an_hour), "events": events, "seconds": round(taken, 1),
        "first_hour_mb": memory[0], "last_hour_mb": memory[-1],
        "growth": round(memory[-1] / memory[0] - 1, 4),
    }  # fmt: skip


def simulated(count: int) -> Iterator[Shot]:
    """Frames of a red thing that comes for ten seconds a minute."""
    photos = [encode(np.full((60, 80, 3), colour, np.uint8), "JPEG") for colour in ((250, 9, 9), (9, 9, 250))]
    for number in range(1, count + 1):
        clock = number / A_SECOND
        photo = photos[clock % 60 > 10]
        yield Shot(Picture(partial(bytes, photo)), number, clock, time.monotonic(), time.time())


def resident_mb() -> float:
    """The memory of this process now."""
    found = re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found
    return round(int(found[1]) / 1024, 1)


if __name__ == "__main__":
    main()
