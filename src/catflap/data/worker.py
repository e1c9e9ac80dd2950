"""A worker process: batches of references come in on stdin, rows go out on stdout, as Arrow streams.

Each message is eight bytes of length, big-endian, and that many bytes; the process ends with its input.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import BinaryIO

import pyarrow as pa

from catflap.data.batch import examine

LENGTH = struct.Struct(">Q")


def serve() -> None:
    """Examine batches until the input ends; nothing else may write on what was stdout."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while (table := receive(sys.stdin.buffer)) is not None:
        send(answers, examine(table))


def send(pipe: BinaryIO, table: pa.Table) -> None:
    """Write a table as one message."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    pipe.write(LENGTH.pack(data.size))
    pipe.write(data)
    pipe.flush()


def receive(pipe: BinaryIO) -> pa.Table | None:
    """Read one message; None when the other side has ended, even in the middle of a message."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = pipe.read(length)
    if len(data) < length:
        return None
    return pa.ipc.open_stream(data).read_all()
