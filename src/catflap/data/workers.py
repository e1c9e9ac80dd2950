"""A pool of worker processes on this machine that examine batches, with a deadline for each photo.

A worker that dies, or is killed because a photo takes too long, costs little: the photo that it was at is
tried again, alone, and if that fails too it becomes a row with the reason "decoder_crashed" or
"decoder_timeout". The other photos of the batch are examined again. A crash is tried twice, since the
process may have been killed for another reason, such as a machine that is out of memory.

Batches go to a worker's stdin and rows come from its stdout, as Arrow streams; each message is eight bytes of
length, big-endian, and that many bytes. A worker greets with an empty table and ends with its input; after
each photo of a batch it sends a message of no bytes.

Why not a library: loky ends all workers when one dies and has no deadline for a task; pebble has both but is
LGPL; concurrent.futures has neither.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from queue import Queue
from typing import IO, Any

import pyarrow as pa

from catflap.data.examine import PART_ROW, Batch, as_rows, examine_photo, quarantined
from catflap.errors import CatflapError
from catflap.machine import describe_machine

DEADLINE = 60.0  # seconds for one photo
STARTS = 3  # tries to start a worker
TRIES_ALONE = 2  # for a photo at which a worker died
LENGTH = struct.Struct(">Q")
PHOTO_DONE = LENGTH.pack(0)
MAIN = "from catflap.data.workers import work_on_stdin; work_on_stdin()"
COMMAND = (sys.executable, "-P", "-c", MAIN)


def run(
    batches: Iterable[Batch],
    workers: int | None = None,
    *,
    deadline: float = DEADLINE,
    command: Sequence[str] = COMMAND,
) -> Iterator[Batch]:
    """The rows of numbered batches, in the order in which they are ready; one worker a core by default."""
    count = describe_machine().cores if workers is None else workers
    if count < 1:
        raise CatflapError(f"{count} processes cannot scan.", "Use 1 or more.")
    source, source_lock = iter(batches), threading.Lock()
    ready: Queue[Batch | BaseException | None] = Queue(maxsize=2 * count)
    pool = [Worker(command, deadline) for _ in range(count)]

    def work(worker: Worker) -> None:
        try:
            while True:
                with source_lock:
                    batch = next(source, None)
                if batch is None:
                    break
                ready.put((batch[0], worker.examine(batch[1])))
        except BaseException as error:  # raised by the thread that waits for rows
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
    """A process that examines batches, replaced when it dies or takes longer than `deadline` for a photo."""

    def __init__(self, command: Sequence[str] = COMMAND, deadline: float = DEADLINE) -> None:
        if not deadline > 0:
            raise CatflapError(f"A photo cannot be examined in {deadline} s.", "Use more than 0 seconds.")
        self._command = command
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._done = 0  # photos of the batch
        self._stopped = False

    def examine(self, references: pa.Table) -> pa.Table:
        """The rows of a batch, whatever its photos do to the process."""
        left = list(range(references.num_rows))
        rows: dict[int, pa.Table] = {}
        while left:
            found, _ = self._try(references.take(left) if rows else references)
            if found is not None:
                if not rows:
                    return found
                rows |= {position: found.slice(place, 1) for place, position in enumerate(left)}
                break
            position = left.pop(min(self._done, len(left) - 1))
            alone = references.slice(position, 1)
            for _ in range(TRIES_ALONE):
                found, in_time = self._try(alone)
                if found is not None or not in_time:
                    break
            if found is None:
                why = "decoder_crashed" if in_time else f"decoder_timeout: over {self._deadline:g} s"
                found = as_rows([quarantined(alone.to_pylist()[0], why)])
            rows[position] = found
        return pa.concat_tables(rows[position] for position in sorted(rows))

    def stop(self) -> None:
        """Kill the process from any thread and start no other; a batch that it was examining is lost."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def end(self) -> None:
        """Wait for the process to end, from the thread that examines."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what it did not read is still in the buffer
                        pipe.close()
        self._process = None

    def _try(self, references: pa.Table) -> tuple[pa.Table | None, bool]:
        """The rows of a batch, or None when the process died of it, and whether the deadline was kept."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        finished, late = threading.Event(), threading.Event()
        self._done = 0
        watch = threading.Thread(target=self._watch, args=(process, finished, late), daemon=True)
        watch.start()
        try:
            send(process.stdin, references)
            rows = receive(process.stdout, self._count)
        except OSError:  # it died before it had read all
            rows = None
        finished.set()
        watch.join()
        if rows is None:
            self.end()
        return rows, not late.is_set()

    def _watch(
        self, process: subprocess.Popen[bytes], finished: threading.Event, late: threading.Event
    ) -> None:
        """Kill a process that has not finished a photo for longer than the deadline."""
        done, since = 0, time.monotonic()
        while not finished.wait(min(1.0, self._deadline / 4)):
            if self._done != done:
                done, since = self._done, time.monotonic()
            elif time.monotonic() - since > self._deadline:
                late.set()
                process.kill()
                return

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a process and wait for its greeting; one that is killed meanwhile is started again."""
        lean = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
        environment = {**os.environ, **lean, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        own_group: dict[str, Any] = {} if os.name == "nt" else {"process_group": 0}
        for _ in range(STARTS):
            if self._stopped:
                raise CatflapError("The scan was stopped.", "Start it again; it goes on where it stopped.")
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                **own_group,  # Ctrl-C is for the parent; workers end with their input
            )
            assert process.stdout is not None
            if receive(process.stdout) is not None:
                return process
            self.end()
        raise CatflapError("A worker process does not start.", "Run: python -c 'import catflap.data.workers'")

    def _count(self) -> None:
        self._done += 1


class _NoPandas(MetaPathFinder):
    """Hides pandas from pyarrow, which would import it where it is installed: half a second a worker."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=name)


def work_on_stdin(examine_photo: Callable[[dict[str, Any]], dict[str, Any]] = examine_photo) -> None:
    """The worker process: examine batches until the input ends; what decoders print goes to stderr."""
    sys.meta_path.insert(0, _NoPandas())
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    send(answers, PART_ROW.empty_table())
    while (references := receive(sys.stdin.buffer)) is not None:
        rows = []
        for reference in references.to_pylist():
            rows.append(examine_photo(reference))
            answers.write(PHOTO_DONE)
            answers.flush()
        send(answers, as_rows(rows))


def send(pipe: IO[bytes], table: pa.Table) -> None:
    """Write a table as one message."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    pipe.write(LENGTH.pack(data.size))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes], photo_done: Callable[[], None] = lambda: None) -> pa.Table | None:
    """Read the next table; None when the other side has ended, even in the middle of a message."""
    while (head := pipe.read(LENGTH.size)) == PHOTO_DONE:
        photo_done()
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = pipe.read(length)
    return pa.ipc.open_stream(data).read_all() if len(data) == length else None
