"""Jobs: the verbs as processes of their own, which outlive the server, stop, and go on where they stopped.

A job's folder `jobs/N` has its answer, notes, progress and a lock. The process and its children inherit the
lock, so that any later server sees whether the job still runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catflap.artifacts.dataset import load_dataset
from catflap.artifacts.folder import try_lock, write_atomically
from catflap.errors import CatflapError
from catflap.progress import PROGRESS_FILE
from catflap.studio.job_progress import JobProgress
from catflap.studio.project import Project

POLL = 0.4  # seconds between two looks at the running jobs
TICK = 2.0  # seconds after which the page is notified of a job that reports nothing: its time left changes
COMMAND = (sys.executable, "-c", "from catflap.cli.main import run; run()")
ANSWER, NOTES, PROGRESS, LOCK, PID = "answer.json", "notes.txt", "progress.jsonl", "lock", "pid"
COMMAND_FILE = "command.json"  # with which a stopped job goes on
PAGE = "page.html"
PAGES = ("compare", "explain")  # the verbs that write a page about a build


@dataclass(frozen=True)
class Job:
    """A job as the page shows it.

    `progress` are the steps so far with how much of each is done, none once it is done; `left` is the rest
    of a build that runs.
    """

    number: int
    kind: str
    state: str  # running, stopped, failed, done
    settings: dict[str, Any]
    started: float
    ended: float | None
    answer: dict[str, Any] | None
    progress: list[dict[str, Any]]
    left: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The job for the page, which reads a build's answer from the build itself."""
        error = (self.answer or {}).get("error")
        return {**self.__dict__, "answer": {"error": error} if error else None}


class Jobs:
    """The jobs of a project, and a thread that notices how they go on."""

    def __init__(
        self,
        project: Project,
        changed: Callable[[], None],
        command: Sequence[str] = COMMAND,
        options: Sequence[str] = (),
    ) -> None:
        self._project, self._changed = project, changed
        self._command, self._options = tuple(command), tuple(options)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._progress: dict[int, JobProgress] = {}
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)

    def start(self) -> None:
        """Watch the jobs, also those that an earlier server began."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching; the jobs go on."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def build(self, minutes: float | None) -> int:
        """Build a Bundle from the labelled photos; CatflapError while another build runs, or with too few."""
        with self._lock:
            self._refuse_second_build()
            number = self._project.add_job("build", [], {"minutes": minutes})
            folder = self.folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                counts = self._project.write_list(folder / "photos.csv")
                if len(counts) < 2:
                    raise CatflapError(
                        "There are photos of fewer than two labels.", "Label photos of two things or more."
                    )
            except BaseException:
                self._project.set_job(number, "failed")
                raise
            name = (
                re.sub(r"[^a-z0-9]+", "-", self._project.path.absolute().name.lower()).strip("-") or "model"
            )
            out = self._project.path / "models" / f"{name}-{number}.catflap"
            out.parent.mkdir(exist_ok=True)
            command = ["build", str(folder / "photos.csv"), "-o", str(out), "--json", *self._options]
            if minutes:
                command += ["--minutes", str(minutes)]
            write_atomically(folder / "labels.json", json.dumps(counts).encode())
            self._spawn(number, command)
            return number

    def judge(self, build: int) -> int:
        """Ask the Bundle of a build about its test photos: `predict` on links named by photo number."""
        with self._lock:
            bundle = self.bundle_of(build)
            number = self._project.add_job("judge", [], {"build": build})
            folder = self.folder(number)
            links = folder / "test"
            shutil.rmtree(links, ignore_errors=True)
            links.mkdir(parents=True)
            photos = load_dataset(bundle.with_suffix(".build") / "dataset").photos("test")
            known = {row["id"]: row for row in self._project.rows("select n, id, place from photos")}
            for photo in photos.ids.tolist():
                if row := known.get(photo):
                    place = self._project.path.absolute() / row["place"]
                    (links / f"{row['n']}{place.suffix}").symlink_to(place)
            command = ["predict", str(bundle), str(links), "--json"]
            self._spawn(number, command)
            return number

    def diff(self, build: int) -> int | None:
        """Ask `diff` whether a build may replace the one before, on its test photos; None for the first."""
        with self._lock:
            earlier = self._project.rows(
                "select n from jobs where kind = 'build' and state = 'done' and n < ? "
                "order by n desc limit 1",
                (build,),
            )
            if not earlier:
                return None
            first = earlier[0]["n"]
            number = self._project.add_job("diff", [], {"build": build, "before": first})
            self.folder(number).mkdir(parents=True, exist_ok=True)
            before, after = self.bundle_of(first), self.bundle_of(build)
            command = [
                "diff",
                str(before),
                str(after),
                str(after.with_suffix(".build") / "dataset"),
                "--json",
            ]
            self._spawn(number, command)
            return number

    def explain(self, build: int, kind: str, photo: int | None = None) -> int:
        """Write a page about a build by the verb `kind`: compare, or explain of a photo."""
        bundle = self.bundle_of(build)
        if kind not in PAGES:
            raise CatflapError(f"There is no page {kind[:40]!r}.", f"Use one of: {', '.join(PAGES)}.")
        named = []
        if kind == "explain":
            place = None if photo is None else self._project.place_of(photo)
            if place is None:
                raise CatflapError("There is no such photo.", "Choose one of the test photos.")
            named = [str(place.absolute())]
        with self._lock:
            if self._project.rows("select 1 from jobs where kind = ? and state = 'running'", (kind,)):
                raise CatflapError("This page is being made.", "Wait for it.")
            number = self._project.add_job(kind, [], {"build": build, "photo": photo})
            folder = self.folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint = bundle.with_suffix(".build") / "checkpoint"
            self._spawn(
                number,
                [kind, str(checkpoint), str(bundle), *named, "-o", str(folder / PAGE), "--json"],
            )
            return number

    def stop(self, number: int) -> None:
        """Ask a running job to stop; what it has finished is kept."""
        folder = self.folder(number)
        (folder / "stop").touch()
        with suppress(OSError, ValueError):
            if self._is_running(number):
                os.killpg(int((folder / PID).read_text()), signal.SIGTERM)

    def go_on(self, number: int) -> None:
        """Start a stopped or failed job again; it goes on where it stopped."""
        with self._lock:
            self._refuse_second_build()
            folder = self.folder(number)
            if not (folder / COMMAND_FILE).is_file():
                raise CatflapError("This job cannot go on.", "Start a new one.")
            self._project.set_job(number, "running")
            self._spawn(number, json.loads((folder / COMMAND_FILE).read_text("utf-8")))

    def latest(self, count: int) -> list[Job]:
        """The latest jobs, the latest first."""
        return [
            self._job(row)
            for row in self._project.rows("select * from jobs order by n desc limit ?", (count,))
        ]

    def _job(self, row: Any) -> Job:
        number, steps, left = row["n"], list[dict[str, Any]](), None
        if row["state"] != "done":
            with self._reading:
                progress = self._progress_of(number, row["kind"])
                steps = progress.read()
                left = progress.left() if row["state"] == "running" else None
        return Job(
            number, row["kind"], row["state"], json.loads(row["settings"]), row["started"], row["ended"],
            json.loads(row["answer"]) if row["answer"] else None, steps, left,
        )  # fmt: skip

    def training_of(self, build: int) -> dict[str, Any]:
        """The candidates and curves of a build's training so far, also of one that has ended."""
        with self._reading:
            progress = self._progress_of(build, "build")
            progress.read()
            return progress.training()

    def _progress_of(self, number: int, kind: str) -> JobProgress:
        file = self.folder(number) / PROGRESS
        return self._progress.setdefault(number, JobProgress(file, is_build=kind == "build"))

    def bundle_of(self, build: int) -> Path:
        """The Bundle that a build has written; CatflapError when it has none."""
        found = self._project.rows(
            "select answer from jobs where n = ? and kind = 'build' and state = 'done'", (build,)
        )
        if not found or not found[0]["answer"]:
            raise CatflapError(f"Build {build} has no bundle.", "Choose one that is finished.")
        return Path(json.loads(found[0]["answer"])["bundle"])

    def done_for(self, build: int, kind: str) -> int | None:
        """The latest finished job of a kind about a build; None when there is none."""
        found = self._project.rows(
            "select n from jobs where kind = ? and state = 'done' "
            "and json_extract(settings, '$.build') = ? order by n desc limit 1",
            (kind, build),
        )
        return found[0]["n"] if found else None

    def answers_of(self, build: int) -> list[dict[str, Any]] | None:
        """What the Bundle of a build answered about its test photos; None before it has."""
        number = self.done_for(build, "judge")
        if number is None:
            return None
        text = (self.folder(number) / ANSWER).read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def comparison_of(self, build: int) -> dict[str, Any] | None:
        """The result of `diff` for a build and the one before it, with `before`; None before it is done."""
        number = self.done_for(build, "diff")
        if number is None:
            return None
        (row,) = self._project.rows("select settings from jobs where n = ?", (number,))
        answer = json.loads((self.folder(number) / ANSWER).read_text("utf-8"))
        return {**answer, "before": json.loads(row["settings"])["before"]}

    def page_of(self, build: int, kind: str) -> Path | None:
        """The page that a job of PAGES wrote about a build; None before there is one."""
        number = self.done_for(build, kind)
        return None if number is None else self.folder(number) / PAGE

    def folder(self, number: int) -> Path:
        """The folder of a job."""
        return self._project.path / "jobs" / str(number)

    def _refuse_second_build(self) -> None:
        if self._project.rows("select 1 from jobs where kind = 'build' and state = 'running' limit 1"):
            raise CatflapError("A build is running.", "Wait for it, or stop it first.")

    def _spawn(self, number: int, command: Sequence[str]) -> None:
        folder = self.folder(number)
        write_atomically(folder / COMMAND_FILE, json.dumps(command).encode())
        (folder / "stop").unlink(missing_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
        self._progress.pop(number, None)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not try_lock(lock):
                raise CatflapError("This job still runs.", "Wait until it has stopped.")
            with open(folder / ANSWER, "wb") as answer, open(folder / NOTES, "wb") as notes:
                process = subprocess.Popen(
                    [*self._command, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=answer,
                    stderr=notes,
                    env={**os.environ, PROGRESS_FILE: str((folder / PROGRESS).absolute())},
                    start_new_session=True,  # Ctrl-C in the server's terminal is not for the job
                    pass_fds=(lock,),
                )
            write_atomically(folder / PID, str(process.pid).encode())
            self._processes[number] = process
        finally:
            os.close(lock)
        self._changed()

    def _is_running(self, number: int) -> bool:
        if process := self._processes.get(number):
            process.poll()  # so that it is no zombie
        try:
            lock = os.open(self.folder(number) / LOCK, os.O_RDWR)
        except OSError:
            return False
        try:
            return not try_lock(lock)
        finally:
            os.close(lock)

    def _watch(self) -> None:
        seen: dict[int, tuple[int, int]] = {}
        while not self._stopping.wait(POLL):
            for row in self._project.rows("select n, kind from jobs where state = 'running'"):
                number = row["n"]
                with self._lock:  # a job that is being started has no lock yet
                    running = self._is_running(number)
                if not running:
                    self._end(number, row["kind"])
                    continue
                with suppress(OSError):
                    size = (self.folder(number) / PROGRESS).stat().st_size
                    now = size, int(time.monotonic() / TICK)
                    if seen.get(number) != now:
                        seen[number] = now
                        self._changed()

    def _end(self, number: int, kind: str) -> None:
        """Note how a job ended, by its answer; a build is judged next, and compared with the one before."""
        folder = self.folder(number)
        lines = []
        with suppress(OSError):
            lines = (folder / ANSWER).read_text("utf-8").splitlines()
        answer: dict[str, Any] | None = None
        with suppress(ValueError):
            answer = json.loads(lines[-1]) if lines else None
        was_stopped = (folder / "stop").exists()
        if kind == "judge" and answer and ("path" in answer):
            self._project.set_job(number, "done", {"photos": len(lines)})
        elif answer and "bundle" in answer:
            self._project.set_job(number, "done", answer)
            for follow in (self.judge, self.diff):
                with suppress(CatflapError, OSError):
                    follow(number)
        elif kind == "diff" and answer and "verdict" in answer:
            self._project.set_job(number, "done", {"verdict": answer["verdict"]})
        elif kind in PAGES and answer and "page" in answer:
            self._project.set_job(number, "done", {"page": answer["page"]})
        elif answer and "error" in answer:
            self._project.set_job(number, "failed", answer)
        elif was_stopped:
            self._project.set_job(number, "stopped")
        else:
            error = {
                "what": "The job ended without an answer.",
                "fix": "Continue it: it goes on where it stopped.",
            }
            self._project.set_job(number, "failed", {"error": error})
        self._processes.pop(number, None)
        self._changed()
