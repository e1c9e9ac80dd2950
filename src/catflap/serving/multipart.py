"""The parts of a form with files: multipart/form-data, RFC 7578 and RFC 2046 section 5.1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from catflap.serving.answers import Problem

_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))""", re.IGNORECASE)
_HEAD = 4096  # bytes that the head of a part may have
_FILENAME = re.compile(rb';\s*filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_EXTENDED = re.compile(rb";\s*filename\*=utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
_NAME = re.compile(rb';\s*name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A file in a form: the name that the client gave it, and its bytes."""

    name: str
    data: bytes


def read_parts(body: bytes, content_type: str, most: int) -> list[Part]:
    """The files of a form, in their order; fields that are no files are left out.

    Raises Problem: 400 when the body is not such a form, 413 when it has more than `most` parts.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise _malformed("its Content-Type names no boundary")
    delimiter = b"--" + (found[1] or found[2]).encode("latin-1")
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if start == 1:
        raise _malformed("its boundary does not occur")
    delimiter = b"\r\n" + delimiter
    parts: list[Part] = []
    position = start + len(delimiter) - 2
    while not body.startswith(b"--", position):
        end = body.find(delimiter, position)
        if end < 0:
            raise _malformed("it is cut short")
        if len(parts) == most:
            raise Problem(413, f"The form has more than {most} photos.", "Send fewer at once.")
        part = _part(body, position, end)
        if part is not None:
            parts.append(part)
        position = end + len(delimiter)
    return parts


def _part(body: bytes, start: int, end: int) -> Part | None:
    """The file between two delimiters, or None when it is a plain field."""
    line = body.find(b"\r\n", start, start + 100)
    gap = body.find(b"\r\n\r\n", line, min(end, start + _HEAD))
    if line < 0 or gap < 0 or body[start:line].strip(b" \t"):
        raise _malformed("a part has no head")
    head = body[line:gap]
    extended, plain, name = (pattern.search(head) for pattern in (_EXTENDED, _FILENAME, _NAME))
    if extended:
        called = unquote_to_bytes(extended[1]).decode("utf-8", "replace")
    elif plain:
        called = plain[1].decode("utf-8", "replace").replace('\\"', '"').replace("%22", '"')
    elif b"content-type:" in head.lower():
        called = name[1].decode("utf-8", "replace") if name else ""
    else:
        return None
    return Part(called, body[gap + 4 : end])


def _malformed(why: str) -> Problem:
    return Problem(400, f"The body is not a whole multipart/form-data: {why}.", "Send it again as a form.")
