"""Things to watch: a video, and a camera that a test can freeze, unplug and plug in again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from catflap.image import encode

CATFLAP = Path(sys.executable).with_name("catflap")
PATIENCE = 60.0
RGB = {"red": (250, 10, 10), "blue": (10, 10, 250), "grey": (128, 128, 128)}


def flat(colour: str, width: int = 160, height: int = 120) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), RGB[colour], np.uint8)


def jpeg(colour: str, **size: int) -> bytes:
    return encode(flat(colour, **size), "JPEG", quality=90)


def write_video(path: Path, colours: list[str], fps: int = 10) -> Path:
    """A real video of flat frames."""
    kind = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), kind, fps, (160, 120))
    assert writer.isOpened()
    for colour in colours:
        writer.write(flat(colour)[:, :, ::-1])
    writer.release()
    return path


class Camera:
    """A stream over HTTP; `mode` is a colour, "frozen" or "gone"; every 20th frame may `flash`.

    Its frames carry their number in a comment, so that no two are the same; with `hung` they do not.
    `single` answers with one of them, and says with "sized" how long it is; `bad` makes every fourth such
    answer one that is cut in "half", "busy" (a page) or a "503"; `kind` is their Content-Type.
    """

    def __init__(self, fps: float = 30.0) -> None:
        self.mode = "grey"
        self.flash: str | None = None
        self.hung = False
        self.challenge = ""
        self.single = ""
        self.bad = ""
        self.kind = "image/jpeg"
        self.sent = 0
        self.visits = 0
        self.asked: list[str | None] = []
        self._pause = 1 / fps
        self._jpegs = {colour: jpeg(colour) for colour in RGB}
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.visits += 1
                camera.asked.append(self.headers.get("Authorization"))
                if camera.challenge and camera.asked[-1] is None:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", camera.challenge)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                bad = camera.bad if camera.visits % 4 == 0 else ""
                if camera.mode == "gone" or bad == "503":
                    self.send_error(503)
                    return
                self.send_response(200)
                if camera.single:
                    data = b"<html>busy</html>" if bad == "busy" else camera.frame()
                    data = data[: len(data) // 2] if bad == "half" else data
                    self.send_header("Content-Type", "text/html" if bad == "busy" else camera.kind)
                    if camera.single == "sized":
                        self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    return
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
                self.end_headers()
                with suppress(OSError):
                    camera.stream(self.wfile.write)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/video"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def frame(self) -> bytes:
        """The next frame, a JPEG."""
        data = self._jpegs[self.flash if self.flash and self.sent % 20 == 0 else self.mode]
        if not self.hung:
            data = data[:2] + b"\xff\xfe\x00\x0a" + self.sent.to_bytes(8) + data[2:]
        self.sent += 1
        return data

    def stream(self, write: Callable[[bytes], Any]) -> None:
        while self.mode != "gone":
            if self.mode != "frozen":
                data = self.frame()
                head = f"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                write(head.encode() + data + b"\r\n")
            time.sleep(self._pause)

    def close(self) -> None:
        self.mode = "gone"
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def camera(fps: float = 30.0) -> Iterator[Camera]:
    one = Camera(fps)
    try:
        yield one
    finally:
        one.close()


class Watcher:
    """`catflap watch --json` as a process, and the events that it reported so far."""

    def __init__(self, *words: object, stdin: Any = subprocess.DEVNULL) -> None:
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [str(CATFLAP), "watch", *map(str, words), "--json"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._errors: list[bytes] = []
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._listen)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()

    def _listen(self) -> None:
        assert self.process.stderr
        self._errors += self.process.stderr.readlines()

    def await_event(self, kind: str, **fields: object) -> dict[str, Any]:
        """The first event of a kind with these fields, which is taken away with all before it."""
        found: list[int] = []

        def there() -> bool:
            found[:] = [
                place
                for place, event in enumerate(self.events)
                if event.get("event") == kind and all(event.get(name) == fields[name] for name in fields)
            ]
            return bool(found)

        with self._news:
            assert self._news.wait_for(there, PATIENCE), f"no {kind} {fields} in {self.events[-5:]}"
            event = self.events[found[0]]
            del self.events[: found[0] + 1]
            return event

    def stop(self, number: int = signal.SIGINT) -> int:
        """Interrupt it and return its exit code."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Wait for its end."""
        code = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return code

    @property
    def stderr(self) -> str:
        return b"".join(self._errors).decode()


@contextmanager
def watching(*words: object, stdin: Any = subprocess.DEVNULL) -> Iterator[Watcher]:
    one = Watcher(*words, stdin=stdin)
    try:
        yield one
        assert "Traceback" not in one.stderr
    finally:
        one.process.kill()
        one.end()
        assert one.process.stdout
        assert one.process.stderr
        one.process.stdout.close()
        one.process.stderr.close()


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is so; fail when it never is."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
