"""A pool of worker processes on this machine; a worker that dies costs nothing but time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from queue import Queue

import pyarrow as pa

from catflap.artifacts.tables import PHOTO_ROW as _  # noqa: F401
from catflap.data.batch import PART_ROW, crashed
from catflap.data.worker import receive, send

COMMAND = (sys.executable, "-c", "from catflap.data.worker import serve; serve()")


class Worker:
    """One process; `examine` answers None when the process died of the batch."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def examine(self, references: pa.Table) -> pa.Table | None:
        """The rows of a batch, or None when the process died; a dead process is replaced."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send(self._process.stdin, references)
            rows = receive(self._process.stdout)
        except BrokenPipeError:
            rows = None
        if rows is None:
            self.close()
            self.__init__()  # type: ignore[misc]
        return rows

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def run(batches: Iterable[tuple[int, pa.Table]], workers: int | None) -> Iterator[tuple[int, pa.Table]]:
    """The rows of numbered batches, in the order in which they are ready."""
    count = workers or len(os.sched_getaffinity(0))
    waiting: Queue[tuple[int, pa.Table] | None] = Queue(maxsize=2 * count)
    ready: Queue[tuple[int, pa.Table] | BaseException | None] = Queue(maxsize=2 * count)
    threads = [threading.Thread(target=_work, args=(waiting, ready), daemon=True) for _ in range(count)]
    feeder = threading.Thread(target=_feed, args=(batches, waiting, ready, count), daemon=True)
    for thread in (*threads, feeder):
        thread.start()
    left = count
    while left:
        answer = ready.get()
        if answer is None:
            left -= 1
        elif isinstance(answer, BaseException):
            raise answer
        else:
            yield answer


def _feed(batches, waiting, ready, count) -> None:  # type: ignore[no-untyped-def]
    try:
        for batch in batches:
            waiting.put(batch)
    except BaseException as error:
        ready.put(error)
    for _ in range(count):
        waiting.put(None)


def _work(waiting, ready) -> None:  # type: ignore[no-untyped-def]
    worker = Worker()
    try:
        while (batch := waiting.get()) is not None:
            number, references = batch
            rows = worker.examine(references) or worker.examine(references)
            if rows is None:
                rows = _one_by_one(worker, references)
            ready.put((number, rows))
    except BaseException as error:
        ready.put(error)
    finally:
        worker.close()
    ready.put(None)


def _one_by_one(worker: Worker, references: pa.Table) -> pa.Table:
    """Find the photos that kill their process: each of a batch that failed twice on its own."""
    parts = []
    for position in range(references.num_rows):
        single = references.slice(position, 1)
        rows = worker.examine(single)
        parts.append(rows or pa.Table.from_pylist([crashed(single.to_pylist()[0])], schema=PART_ROW))
    return pa.concat_tables(parts)
