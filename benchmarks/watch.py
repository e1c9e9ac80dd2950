"""`catflap watch`: frame age with every option on, processor time against bare inference, memory over a day.

    python benchmarks/watch.py
    python benchmarks/watch.py --only age --seconds 60

Frame age: a camera in another process sends Motion JPEG, 1280 × 720 px, 30 frames a second, and writes down
when; a network of some 80 ms; the line about each frame is timed. Once without options, and once with clips,
saved frames, a log with photos, a preview with a viewer that reads and one that never does, a webhook and an
MQTT broker that accept and never answer, and a command of 5 s on each decision, which changes every two
seconds. Processor time: the same video read by `watch` and by a bare loop of OpenCV and the classifier, in
turns. A day: as many frames as a camera gives 12.5 times a second, as fast as they can be classified, with an
outage every hour; the memory after the first hour and after the last one.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from multiprocessing import Array, Process, Queue
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import cv2
import numpy as np
from machine import header

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixels import grainy

from catflap.image import encode
from catflap.live.archive import Archive
from catflap.live.delivery import Output
from catflap.live.frames import Outage, Shot, Stop
from catflap.live.hysteresis import Rules
from catflap.live.watch import Watch, watch
from catflap.live.watch_settings import WatchSettings
from catflap.runtime.classifier import Classifier
from catflap.runtime.recording import LogSettings
from tests.serving.bundles import make_bundle

FPS = 30
A_SECOND = 12.5  # frames that an 80 ms network judges


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30, help="of each stream (default: 30)")
    parser.add_argument("--rounds", type=int, default=5, help="of each way to judge the video (default: 5)")
    parser.add_argument("--hours", type=float, default=24, help="simulated (default: 24)")
    parser.add_argument("--only", choices=("age", "time", "day"), help="one of the three")
    args = parser.parse_args()
    header(fps=FPS, **vars(args), opencv=cv2.__version__)
    with tempfile.TemporaryDirectory() as folder:
        if args.only in (None, "age"):
            print(json.dumps({"frame age": frame_age(Path(folder), args.seconds)}))
        if args.only in (None, "time"):
            print(json.dumps({"processor time": processor_time(Path(folder), args.rounds)}))
        if args.only in (None, "day"):
            print(json.dumps({"a day": a_day(Path(folder), args.hours)}))


def slow_bundle(folder: Path, goal: float = 80.0) -> tuple[Path, float]:
    """A bundle whose answer takes some 80 ms on one thread here, and the milliseconds that it takes."""
    frame = np.zeros((720, 1280, 3), np.uint8)
    effort = 2
    while True:
        path = make_bundle(folder / f"slow{effort}.catflap", effort=effort)
        classifier = Classifier(path, threads=1)
        taken = median(classifier(frame).ms for _ in range(7))
        if taken >= 0.9 * goal:
            return path, taken
        effort = max(effort + 1, int(effort * goal / taken))


def frame_age(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds from a frame's sending to the line about it, without any option and with every one.

    The goal is a frame and an inference, so the age less the frame's own inference must not exceed a frame.
    """
    bundle, _ = slow_bundle(folder)
    return {
        "plain": watch_stream(folder, bundle, seconds, every_option=False),
        "every option": watch_stream(folder, bundle, seconds, every_option=True),
    }


def watch_stream(folder: Path, bundle: Path, seconds: float, *, every_option: bool) -> dict[str, float]:
    """The ages of the frames of a stream, and what its receivers lost."""
    settings: dict[str, Any] = {}
    ran = folder / "ran"
    with ExitStack() as parts:
        sent = Array("d", int(seconds * FPS) + 1)
        ports: Any = Queue()
        camera = Process(target=send_stream, args=(ports, sent, seconds), daemon=True)
        camera.start()
        parts.callback(camera.terminate)
        url = f"http://127.0.0.1:{ports.get()}/"
        if every_option:
            hung = parts.enter_context(socket.create_server(("127.0.0.1", 0)))  # accepts, and never answers
            address = f"127.0.0.1:{hung.getsockname()[1]}"
            slow = f"bash -c 'echo $CATFLAP_DECISION $EPOCHREALTIME >> {ran}; sleep 5'"
            settings = {
                "save": folder / "frames", "clips": folder / "clips", "clip_seconds": 2.0, "log":
                LogSettings(folder / "field.log", pictures=True), "log_every": 0.5, "preview": ("127.0.0.1",
                0), "webhook": f"http://{address}/", "mqtt": f"mqtt://{address}/door", "on": {"cat": slow,
                "not_cat": slow, "unsure": slow},
            }  # fmt: skip
        ages, beyond, work, printed, decisions = [], [], [], [], list[tuple[float, str]]()

        def tell(event: dict[str, Any]) -> None:
            if event["event"] == "started" and every_option:
                parts.enter_context(viewers(event["preview"]))
            elif event["event"] == "frame":
                printed.append(time.monotonic())
                ages.append(1e3 * (printed[-1] - sent[event["frame"] - 1]))
                work.append(event["ms"])
                beyond.append(ages[-1] - work[-1])
            elif event["event"] == "decision":
                decisions.append((time.time(), event["decision"]))
            elif event["event"] == "lost":
                decisions.append((time.time(), "unsure"))  # which follows
                raise EOFError

        rules = Rules(dwell=0.2)
        watched = WatchSettings(
            str(bundle), url, threads=1, every_frame=True, stalled=60, rules=rules, **settings
        )
        with suppress(EOFError):
            watch(watched, tell)
    result = {
        "frames": len(ages), "inference_p50": median(work), "inference_p99": p99(work),
        "age_p50": median(ages), "age_p99": p99(ages), "age_max": max(ages),
        "age_less_inference_p50": median(beyond), "age_less_inference_p99": p99(beyond),
        "age_less_inference_max": max(beyond), "one_frame": 1e3 / FPS,
        "longest_pause": 1e3 * max(after - before for before, after in pairwise(printed)),
        "decisions": len(decisions),
    }  # fmt: skip
    if every_option:
        runs = [line.split() for line in ran.read_text().splitlines()]
        # overtaken more than 0.5 s before the command began, for a process takes time to start
        stale = 0
        for label, when in runs:
            before = [made for at, made in decisions if at < float(when) - 0.5][-1:]
            during = [made for at, made in decisions if float(when) - 0.5 <= at <= float(when)]
            stale += label not in (*before, *during)
        result |= {"commands": len(runs), "stale_commands": stale}
        result |= {"clips": len(list((folder / "clips").iterdir()))}
    return {name: round(value, 1) for name, value in result.items()}


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return quantiles(values, n=100)[98]


def send_stream(ports: Any, sent: Any, seconds: float) -> None:
    """A camera in another process: 720p, by turns red and blue for two seconds; when each frame was sent."""
    red = grainy(1280, 720)
    picture = cv2.imdecode(np.frombuffer(red, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None  # it was encoded here
    tinted = []
    for channel in (2, 0):  # BGR
        coloured = picture // 2
        coloured[:, :, channel] += 120
        tinted.append(bytes(cv2.imencode(".jpg", coloured)[1]))
    server = socket.create_server(("127.0.0.1", 0))
    ports.put(server.getsockname()[1])
    viewer = server.accept()[0]
    viewer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    viewer.recv(65536)
    viewer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n")
    begun = time.monotonic()
    with suppress(OSError):
        for number in range(int(seconds * FPS)):
            time.sleep(max(0.0, begun + number / FPS - time.monotonic()))
            jpeg = tinted[number // (2 * FPS) % 2]
            jpeg = jpeg[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8) + jpeg[2:]  # no two are the same
            sent[number] = time.monotonic()
            viewer.sendall(b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n")
    viewer.close()


@contextmanager
def viewers(port: int) -> Iterator[None]:
    """Two viewers of the preview: one that reads, and one that never does."""
    request = f"GET /stream HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()

    def read() -> None:
        with suppress(OSError):
            while reader.recv(1 << 16):
                pass

    with (
        socket.create_connection(("127.0.0.1", port)) as reader,
        socket.create_connection(("127.0.0.1", port)) as deaf,
    ):
        reader.sendall(request)
        deaf.sendall(request)
        threading.Thread(target=read, daemon=True).start()
        yield


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
    settings, stop = WatchSettings(str(make_bundle(folder / "quick.catflap")), "0"), Stop()
    classifier = Classifier(settings.bundle, threads=1)
    events = 0

    def tell(_: dict[str, object]) -> None:
        nonlocal events
        events += 1

    output = Output(tell, print, stop, lossless=True)
    archive = Archive(settings, classifier, None, print, stop, lossless=True)
    watched = Watch(settings, classifier, output, [], archive)
    watched.started("simulated", True)
    memory = []
    begun = time.monotonic()
    an_hour = int(3600 * A_SECOND)
    for shot in simulated(int(hours * an_hour)):
        if shot.number % an_hour == 0:
            watched.outage(Outage("lost", "simulated"))
            gc.collect()
            memory.append(resident_mb())
        watched.frame(shot)
    taken = time.monotonic() - begun
    output.close()
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
        yield Shot(partial(bytes, photo), None, number, clock, time.monotonic(), time.time())


def resident_mb() -> float:
    """The memory of this process now."""
    found = re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found
    return round(int(found[1]) / 1024, 1)


if __name__ == "__main__":
    main()
