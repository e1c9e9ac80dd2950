"""Loops over long work: report progress after each item, or compute items ahead on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

A = TypeVar("A")
B = TypeVar("B")
PROGRESS_FILE = "CATFLAP_PROGRESS"  # names a file for progress as JSON lines, as Studio reads it
Progress: TypeAlias = Callable[[str, int, int], None]  # the step, how many items are done, and the total
Record: TypeAlias = Callable[[dict[str, Any]], None]  # an entry of a training's history, once it is known


def ignore(message: object) -> None:
    """Ignore a message: the default where a caller may want notes."""


def silent(step: str, done: int, total: int) -> None:
    """Ignore progress."""


def track(items: Iterable[A], step: str, total: int, progress: Progress) -> Iterator[A]:
    """Yield the items and report after each how many of the total are done."""
    progress(step, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        progress(step, done, total)


def prefetch(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """work(item) for each item, in order, computed ahead on threads; at most `workers` + 1 are kept."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
