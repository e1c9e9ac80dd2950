"""A pool of worker processes on this machine; a worker that dies costs its batch and nothing else.

The batch of a dead worker is tried once more. When that worker dies too, each photo of the batch is
tried alone, and a photo that kills its worker again becomes a row with the reason "decoder_crashed".
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Queue

import pyarrow as pa

from catflap.data.scanning.batch import PART_ROW, Batch, crashed
from catflap.data.scanning.worker import receive, send
from catflap.errors import CatflapError
from catflap.machine import describe_machine

STARTS = 3
WORKER = "from catflap.data.scanning.worker import answer_batches; answer_batches()"
COMMAND = (sys.executable, "-P", "-c", WORKER)


def run(
    batches: Iterable[Batch], workers: int | None = None, command: Sequence[str] = COMMAND
) -> Iterator[Batch]:
    """The rows of numbered batches, in the order in which they are ready; one worker a core by default."""
    count = describe_machine().cores if workers is None else workers
    if count < 1:
        raise CatflapError(f"{count} processes cannot scan.", "Use 1 or more.")
    source, turn = iter(batches), threading.Lock()
    ready: Queue[Batch | BaseException | None] = Queue(maxsize=2 * count)
    pool = [Worker(command) for _ in range(count)]

    def work(worker: Worker) -> None:
        try:
            while batch := _next(source, turn):
                ready.put((batch[0], examine_surely(worker, batch[1])))
        except BaseException as error:  # handed on to the thread that waits for rows
            ready.put(error)
        finally:
            worker.end()
            ready.put(None)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in pool]
    for thread in threads:
        thread.start()
    busy = count
    try:
        while busy:
            answer = ready.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                busy -= 1
            else:
                yield answer
    finally:
        for worker in pool:
            worker.stop()
        while busy:
            busy -= ready.get() is None


class Worker:
    """A process that examines batches, replaced when it dies."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def examine(self, references: pa.Table) -> pa.Table | None:
        """The rows of a batch, or None when the process died of it."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send(process.stdin, references)
            rows = receive(process.stdout)
        except BrokenPipeError:
            rows = None
        if rows is None:
            self.end()
        return rows

    def stop(self) -> None:
        """Kill the process from any thread and start no other; a batch that it was examining is lost."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def end(self) -> None:
        """Reap the process; the thread that examines does this."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what it did not read is still in the buffer
                        pipe.close()
        self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a process and wait for its greeting; one that is killed meanwhile is started again."""
        lean = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
        environment = {**os.environ, **lean, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(STARTS):
            if self._stopped:
                raise CatflapError("The scan was stopped.", "Start it again; it goes on where it stopped.")
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                process_group=0,  # Ctrl-C is for the parent; workers end with their input
            )
            assert process.stdout is not None
            if receive(process.stdout) is not None:
                return process
            self.end()
        raise CatflapError(
            "A worker process does not start.",
            "Run: python -c 'import catflap.data.scanning.worker'",
        )


def examine_surely(worker: Worker, references: pa.Table) -> pa.Table:
    """The rows of a batch whatever it does to the process: tried, tried again, then photo by photo."""
    for _ in range(2):
        rows = worker.examine(references)
        if rows is not None:
            return rows
    parts = []
    for position in range(references.num_rows):
        single = references.slice(position, 1)
        rows = worker.examine(single)
        if rows is None:
            rows = pa.Table.from_pylist([crashed(single.to_pylist()[0])], schema=PART_ROW)
        parts.append(rows)
    return pa.concat_tables(parts)


def _next(source: Iterator[Batch], turn: threading.Lock) -> Batch | None:
    with turn:
        return next(source, None)
