"""The threads that judge photos: what becomes of jobs that nobody waits for any longer."""

from __future__ import annotations

import asyncio
import gc
from threading import Event
from time import monotonic
from typing import Any

import pytest

from catflap.serving.http_messages import HttpError
from catflap.serving.service import Workers
from tests.loops import run


async def _forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("fails", [False, True])
def test_a_late_job_ends_without_a_complaint(fails: bool) -> None:
    """asyncio tells what is thrown away unseen; an operator would read it as a mistake."""
    complaints: list[dict[str, Any]] = []
    go_on = Event()

    def job() -> None:
        go_on.wait(10)
        if fails:
            raise ValueError("too late")

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, reported: complaints.append(reported))
        workers = Workers(1, 4)
        with pytest.raises(HttpError, match=r"No core was free|not judged in time"):
            await workers.run([job, job], monotonic() + 0.05, _forever)
        go_on.set()
        workers.close()
        await asyncio.sleep(0.05)
        gc.collect()

    run(ask())
    assert complaints == []
