"""A worker process: batches of references come in on stdin, rows go out on stdout, as Arrow streams.

Each message is eight bytes of length, big-endian, and that many bytes. The process greets with an
empty table and ends with its input.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import IO

import pyarrow as pa

from catflap.data.scanning.batch import PART_ROW, examine

LENGTH = struct.Struct(">Q")


class _NoPandas(MetaPathFinder):
    """Hides pandas from pyarrow, which would import it where it is installed: half a second a worker."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=name)


def answer_batches(examine: Callable[[pa.Table], pa.Table] = examine) -> None:
    """Examine batches until the input ends; what decoders print goes to stderr."""
    sys.meta_path.insert(0, _NoPandas())
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    send(answers, PART_ROW.empty_table())
    while (table := receive(sys.stdin.buffer)) is not None:
        send(answers, examine(table))


def send(pipe: IO[bytes], table: pa.Table) -> None:
    """Write a table as one message."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    pipe.write(LENGTH.pack(data.size))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> pa.Table | None:
    """Read one message; None when the other side has ended, even in the middle of a message."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = pipe.read(length)
    return pa.ipc.open_stream(data).read_all() if len(data) == length else None
