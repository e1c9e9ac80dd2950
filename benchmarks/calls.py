"""Calls of our own functions, and their files, on the way of one photo and of one HTTP request.

A resumed coroutine counts once; comprehensions do not count. `steps.py` counts those of a training step, and
tests/live/test_flow.py those of a watched frame.
"""

from __future__ import annotations

import http.client
import inspect
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from machine import header

import catflap
from catflap import Classifier, ServeSettings, serve
from catflap.exporting.golden_cases import scene
from catflap.image import encode

OURS = str(Path(catflap.__file__).parent) + os.sep
PHOTO = encode(scene(1, 500, 375), "JPEG")
SETTLED = 0.2  # seconds until what follows an answer is done
ROUNDS = 9
BEGUN = 10  # bytes of bytecode that a coroutine has run before its first line
COROUTINE = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Trace:
    """Counts calls on every thread that starts after it, while `on`."""

    def __init__(self) -> None:
        self.on = False
        self.calls: list[tuple[str, str]] = []
        self._coroutines: dict[int, Any] = {}  # the frames themselves, so that no other gets the same id
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: Any, event: str, _: object) -> None:
        """One event of the interpreter."""
        code = frame.f_code
        if not self.on or event != "call" or not code.co_filename.startswith(OURS):
            return
        if code.co_name.startswith("<"):
            return
        if code.co_flags & COROUTINE:
            if id(frame) in self._coroutines or frame.f_lasti > BEGUN:  # or begun before
                return
            self._coroutines[id(frame)] = frame
        self.calls.append((code.co_filename.removeprefix(OURS), code.co_qualname))

    def taken(self) -> list[tuple[str, str]]:
        """File and function of each call since the last time."""
        calls, self.calls = self.calls, []
        return calls


def show(what: str, calls: list[tuple[str, str]]) -> None:
    """Print the calls in their order."""
    about = {"of": what, "calls": len(calls), "files": len({file for file, _ in calls})}
    print(json.dumps({**about, "in_order": [f"{file}:{name}" for file, name in calls]}), flush=True)


def main() -> None:
    """Trace a photo, then a request to a server in this process."""
    header(n=ROUNDS)
    classifier = Classifier("cat", threads=1)
    for _ in range(2):
        classifier(PHOTO)
    trace = Trace()
    trace.on = True
    classifier(PHOTO)
    trace.on = False
    show("photo", trace.taken())

    def ask(url: str) -> None:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        rounds = []
        for _ in range(ROUNDS):
            trace.on = True
            connection.request("POST", "/predict", PHOTO, {"Content-Type": "image/jpeg"})
            connection.getresponse().read()
            time.sleep(SETTLED)
            trace.on = False
            rounds.append(trace.taken())
        show("request", min(rounds[1:], key=len))  # in others the server looked after its connections, too
        os._exit(0)

    def ready(about: dict[str, Any]) -> None:
        threading.Thread(target=ask, args=(about["url"],), daemon=True).start()

    serve(ServeSettings(("cat",), port=0, reload=1000), ready=ready)


if __name__ == "__main__":
    main()
