"""A running Studio: its parts, what every screen shows, and news of each change for the open pages."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.studio.importing import Importer
from catflap.studio.jobs import COMMAND, Jobs
from catflap.studio.phone import Phone
from catflap.studio.pictures import Pictures
from catflap.studio.project import Project
from catflap.studio.suggestions import Suggestions

SHOWN_JOBS = 200


class Studio:
    """The parts of a running Studio; `version` grows with every change that the page should know of."""

    def __init__(
        self, project: Project, *, command: tuple[str, ...] | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self.project = project
        self.version = 0
        self.stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self.pictures = Pictures(project)
        self.importer = Importer(project, self.photos_changed)
        self.suggestions = Suggestions(project, project.path / "cache" / "backbone.onnx", self.changed)
        self.jobs = Jobs(project, self.changed, command or COMMAND, options)
        self.phone = Phone(self._take_from_phone)
        self._opened: tuple[Path, int, Bundle] | None = None  # the last one: its path and date

    def start(self) -> None:
        """Start the threads."""
        self._loop = asyncio.get_running_loop()
        self.suggestions.start()
        self.jobs.start()

    def _take_from_phone(self, photo: bytes, name: str, label: str) -> dict[str, Any]:
        """Add a photo that a phone sent."""
        with self.importer.inbox_file(name) as path:
            path.write_bytes(photo)
            answer = self.importer.take(path, name, label.strip() or None)
        self.photos_changed()
        return answer

    def close(self) -> None:
        """End the threads and processes, except the jobs."""
        self.phone.close()
        self.suggestions.stop()
        self.jobs.close()
        self.importer.close()
        self.project.close()

    def changed(self) -> None:
        """Notify every open page, from any thread."""
        self.version += 1
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._notify)

    def photos_changed(self) -> None:
        """Photos were added: suggest for them."""
        self.suggestions.wake()
        self.changed()

    def _notify(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def wait_for_news(self, seconds: float) -> None:
        """Return at the next change, or after some seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._news.wait()), seconds)

    def bundle(self, path: Path) -> Bundle:
        """An opened Bundle, kept while its file is the same."""
        opened, modified = self._opened, path.stat().st_mtime_ns
        if opened is None or opened[:2] != (path, modified):
            self._opened = opened = path, modified, load_bundle(path)
        return opened[2]

    def state(self) -> dict[str, Any]:
        """What every screen shows."""
        suggestions = self.suggestions
        problem = suggestions.problem
        return {
            "name": self.project.path.absolute().name,
            "version": self.version,
            **self.project.summary(),
            "learner": {
                "done": suggestions.progress[0],
                "total": suggestions.progress[1],
                "ms": suggestions.state.ms,
                "revision": suggestions.state.revision,
                "labels": suggestions.state.labels,
                "problem": problem.to_json() if problem else None,
                "curve": suggestions.curve,
                "suspects": len(suggestions.suspects),
            },
            "importing": self.importer.progress,
            "phone": self.phone.url,
            "jobs": [job.to_json() for job in self.jobs.latest(SHOWN_JOBS)],
        }
