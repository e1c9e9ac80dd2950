"""How far a job is: its progress file, read as it grows; of a build the time left and its training so far."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from catflap.pipeline.build_pace import BuildPace

# By which fields two entries of a training's history are the same one, that has grown
SAME = {
    "trial": ("backbone", "size", "fit"),
    "head": ("standardise", "c"),
    "curve": ("photos",),
    "steps": ("first",),
    "finetune": ("epoch",),
}


class JobProgress:
    """The progress file of one run of a job; what was read is kept, so that only new lines are read."""

    def __init__(self, file: Path, *, is_build: bool, clock: Callable[[], float] = time.time) -> None:
        self._file, self._clock = file, clock
        self._read = 0  # bytes of whole lines
        self._steps: dict[str, dict[str, Any]] = {}
        self._entries: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._last: dict[str, Any] | None = None
        self._at = 0.0  # when the last line was written, in seconds since 1970
        self._pace: BuildPace | None = None
        self._is_build = is_build

    def read(self) -> list[dict[str, Any]]:
        """The steps so far, each with its latest progress and its seconds."""
        with suppress(OSError):
            if self._file.stat().st_size > self._read:
                with open(self._file, "rb") as file:
                    file.seek(self._read)
                    new = file.read()
                whole = new[: new.rfind(b"\n") + 1]  # the last line may not be whole
                self._read += len(whole)
                for line in whole.splitlines():
                    with suppress(ValueError, KeyError):
                        self._take(json.loads(line))
        return list(self._steps.values())

    def left(self) -> dict[str, Any] | None:
        """How much of a build that runs is done (0 to 1), and the `seconds` that are left now.

        `at_most` are those if every weight is trained, as in Pace; `words` say what runs. A step that is slow
        makes the time longer though it reports nothing.
        """
        if self._pace is None or self._last is None:
            return None
        self._at = max(self._at, self._clock())
        now = self._pace(self._last["step"], self._last["done"], self._last["total"])
        return {
            "share": now.share, "seconds": now.seconds_left, "at_most": now.at_most, "words": now.words,
            "at": self._at,
        }  # fmt: skip

    def training(self) -> dict[str, list[dict[str, Any]]]:
        """The entries of the training's history so far, by their `step`: see SAME."""
        found: dict[str, list[dict[str, Any]]] = {step: [] for step in SAME}
        for (step, *_), entry in self._entries.items():
            found[step].append(entry)
        return found

    def _take(self, one: dict[str, Any]) -> None:
        if entry := one.get("entry"):
            fields = SAME.get(entry["step"])
            if fields is not None:
                self._entries[(entry["step"], *(entry[name] for name in fields))] = entry
            return
        step, self._at = one["step"], one["at"]
        since = self._steps.get(step, {"since": self._at})["since"]
        self._steps[step] = {**one, "since": since, "seconds": self._at - since}
        self._last = one
        if self._is_build:
            self._pace = self._pace or BuildPace(lambda: self._at)
            self._pace(step, one["done"], one["total"])
