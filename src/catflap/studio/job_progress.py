"""How far a job is: its progress file, read as it grows, and for a build the time that is left."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from catflap.pipeline.build_pace import BuildPace


class JobProgress:
    """The progress file of one run of a job; what was read is kept, so that only new lines are read."""

    def __init__(self, file: Path, *, is_build: bool) -> None:
        self._file = file
        self._read = 0  # bytes of whole lines
        self._steps: dict[str, dict[str, Any]] = {}
        self._at = 0.0  # when the last line was written, in seconds since 1970
        self._pace: BuildPace | None = None
        self._is_build = is_build
        self.left: dict[str, Any] | None = None

    def read(self) -> list[dict[str, Any]]:
        """The steps so far, each with its latest progress and its seconds.

        `left` is then how much of a build is done (0 to 1), the `seconds` left at the time `at` with their
        `at_most`, and `words` for what runs, as in Pace.
        """
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

    def _take(self, one: dict[str, Any]) -> None:
        step, self._at = one["step"], one["at"]
        since = self._steps.get(step, {"since": self._at})["since"]
        self._steps[step] = {**one, "since": since, "seconds": self._at - since}
        if self._is_build:
            self._pace = self._pace or BuildPace(lambda: self._at)
            now = self._pace(step, one["done"], one["total"])
            self.left = {
                "share": now.share, "seconds": now.seconds_left, "at_most": now.at_most, "words": now.words,
                "at": self._at,
            }  # fmt: skip
