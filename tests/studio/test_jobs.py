"""How a job ends: with its page, with an error, without an answer, stopped; by real processes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catflap.errors import CatflapError
from catflap.studio.jobs import Job, Jobs
from catflap.studio.project import Project

# Verbs that do what their name says, and end at once; the file after -o is the page
PROLOGUE = "import json, sys, time; page = sys.argv[sys.argv.index('-o') + 1]; "
VERBS = {
    "writes": "open(page, 'w').write(' '.join(sys.argv[1:3])); print(json.dumps({'page': page}))",
    "refuses": "print(json.dumps({'error': {'what': 'Too dark.', 'fix': 'Light.'}})); sys.exit(2)",
    "crashes": "raise MemoryError",
    "waits": "time.sleep(600)",
}


@pytest.fixture
def explained(project: Project, tmp_path: Path) -> Iterator[Callable[..., tuple[Job, Jobs]]]:
    """Explain a build by a verb; the job as it ended."""
    started: list[Jobs] = []
    news = threading.Event()

    def explained(verb: str, *, stop: bool = False) -> tuple[Job, Jobs]:
        build = project.add_job("build", [], {})
        project.set_job(build, "done", {"bundle": str(tmp_path / "cat.catflap")})
        jobs = Jobs(project, news.set, command=(sys.executable, "-c", PROLOGUE + VERBS[verb]))
        started.append(jobs)
        number = jobs.explain(build, "compare")
        if stop:
            jobs.stop(number)
        jobs.start()
        while (job := jobs.latest(1)[0]).state == "running":
            assert news.wait(300)
            news.clear()
        return job, jobs

    yield explained
    for jobs in started:
        jobs.close()


def test_a_page_that_was_written_is_shown(explained: Callable[..., tuple[Job, Jobs]], tmp_path: Path) -> None:
    job, jobs = explained("writes")
    assert (job.kind, job.state) == ("compare", "done")
    page = jobs.page_of(job.settings["build"], "compare")
    assert page is not None
    assert page.read_text() == f"compare {tmp_path / 'cat.build' / 'checkpoint'}"
    assert jobs.page_of(job.settings["build"], "explain") is None


def test_what_a_verb_refuses_is_told(explained: Callable[..., tuple[Job, Jobs]]) -> None:
    job, jobs = explained("refuses")
    assert job.state == "failed"
    assert job.to_json()["answer"] == {"error": {"what": "Too dark.", "fix": "Light."}}
    assert jobs.page_of(job.settings["build"], "compare") is None


def test_a_crash_is_told(explained: Callable[..., tuple[Job, Jobs]]) -> None:
    job, _ = explained("crashes")
    assert job.state == "failed"
    assert job.to_json()["answer"]["error"]["what"] == "The job ended without an answer."


def test_a_job_that_is_stopped_can_go_on(explained: Callable[..., tuple[Job, Jobs]]) -> None:
    job, jobs = explained("waits", stop=True)
    assert (job.state, job.to_json()["answer"]) == ("stopped", None)
    jobs.go_on(job.number)
    assert jobs.latest(1)[0].state == "running"
    with pytest.raises(CatflapError, match="being made"):
        jobs.explain(job.settings["build"], "compare")
    jobs.stop(job.number)


def test_only_known_pages_of_finished_builds_are_made(project: Project) -> None:
    jobs = Jobs(project, lambda: None)
    with pytest.raises(CatflapError, match="has no bundle"):
        jobs.explain(7, "compare")
    build = project.add_job("build", [], {})
    project.set_job(build, "done", {"bundle": "cat.catflap"})
    with pytest.raises(CatflapError, match="no page 'other'"):
        jobs.explain(build, "other")
    with pytest.raises(CatflapError, match="no such photo"):
        jobs.explain(build, "explain", 3)
