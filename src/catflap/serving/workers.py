"""The threads that judge photos, and the bounded queue before them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

from catflap.serving.answers import Problem

T = TypeVar("T")
LEFT = 499  # what servers write down when the client did not wait


class Workers:
    """At most `threads` jobs run and `queue` more wait; whoever comes then is told to come back."""

    def __init__(self, threads: int, queue: int) -> None:
        self.threads = threads
        self.queue = queue
        self._pool = ThreadPoolExecutor(threads, "judge")
        self._lock = Lock()
        self._pending = 0

    @property
    def waiting(self) -> int:
        """Jobs that no thread has taken yet."""
        return max(0, self._pending - self.threads)

    @property
    def running(self) -> int:
        """Jobs that a thread works on."""
        return min(self._pending, self.threads)

    async def run(
        self, jobs: Sequence[Callable[[], T]], until: float, gone: Callable[[], Awaitable[None]]
    ) -> list[T]:
        """The results of the jobs, in their order.

        `until` is the deadline, as time.monotonic tells it. Raises Problem: 429 when the queue is full, 503
        when a job has not begun by the deadline, 504 when one has but is not done, 499 when the client left.
        """
        futures = self._submit(jobs)
        answers = asyncio.gather(*map(asyncio.wrap_future, futures))
        answers.add_done_callback(_looked_at)
        watched: list[asyncio.Future[Any]] = [answers]
        if self.waiting:
            watched.append(asyncio.ensure_future(gone()))
        try:
            done, _ = await asyncio.wait(
                watched, timeout=max(0.0, until - monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if answers in done:
                return answers.result()
            if done:
                raise Problem(LEFT, "The client left before its answer.", "Wait longer.")
            raise self._late(futures)
        finally:
            for future in watched:
                future.cancel()

    def spare(self, job: Callable[[], object]) -> bool:
        """Run a job that nobody waits for, but only on a core that is free; whether it will run."""
        if self._pending >= self.threads:
            return False
        self._submit([job])
        return True

    def close(self) -> None:
        """Finish what was begun and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, jobs: Sequence[Callable[[], T]]) -> list[Future[T]]:
        with self._lock:
            if self._pending + len(jobs) > self.threads + self.queue:
                raise Problem(
                    429,
                    f"{self._pending} others are before this one.",
                    "Try again later.",
                    {"Retry-After": "1"},
                )
            self._pending += len(jobs)
        futures = [self._pool.submit(job) for job in jobs]
        for future in futures:
            future.add_done_callback(self._finished)
        return futures

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self._pending -= 1

    def _late(self, futures: Sequence[Future[Any]]) -> Problem:
        if any(not (future.running() or future.done()) for future in futures):
            return Problem(503, "No core was free in time.", "Try again later.", {"Retry-After": "1"})
        return Problem(504, "The photo took too long.", "Send a smaller one, or raise --deadline.")


def _looked_at(answers: asyncio.Future[Any]) -> None:
    """Take note of how it ended: else asyncio complains when a cancelled one is thrown away."""
    if not answers.cancelled():
        answers.exception()
