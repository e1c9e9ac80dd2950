"""The parts of a form with files: multipart/form-data, RFC 7578 and RFC 2046 section 5.1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from catflap.serving.answers import Problem

_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))""", re.IGNORECASE)
_HEAD = 4096  # bytes that the head of a part may have
_FIELDS = 100  # parts that a form may have beside its photos
# name="value", or a token as RFC 9110 section 5.6.2 has it
_PARAMETER = re.compile(rb';\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_EXTENDED = re.compile(rb"utf-8'[^']*'(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A file in a form: the name that the client gave it, and its bytes."""

    name: str
    data: bytes


def read_parts(body: bytes, content_type: str, most: int) -> list[Part]:
    """The files of a form, in their order; fields that are no files are left out.

    Raises Problem: 400 when the body is not such a form, 413 when it has more than `most` files, or more
    than 100 parts besides: millions of tiny ones fit into one body, and each costs time.
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
    seen = 0
    while not body.startswith(b"--", position):
        end = body.find(delimiter, position)
        if end < 0:
            raise _malformed("it is cut short")
        seen += 1
        if seen > most + _FIELDS:
            raise Problem(413, f"The form has more than {most + _FIELDS} parts.", "Send only the photos.")
        part = _part(body, position, end)
        if part is not None:
            if len(parts) == most:
                raise Problem(413, f"The form has more than {most} photos.", "Send fewer at once.")
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
    told: dict[bytes, bytes] = {}
    for key, quoted, token in _PARAMETER.findall(head):
        told.setdefault(key.lower(), quoted or token)
    extended = _EXTENDED.fullmatch(told.get(b"filename*", b""))
    if extended:
        called = unquote_to_bytes(extended[1]).decode("utf-8", "replace")
    elif b"filename" in told:
        called = told[b"filename"].decode("utf-8", "replace").replace('\\"', '"').replace("%22", '"')
    elif b"content-type:" in head.lower():
        called = told.get(b"name", b"").decode("utf-8", "replace")
    else:
        return None
    return Part(called, body[gap + 4 : end])


def _malformed(why: str) -> Problem:
    return Problem(400, f"The body is not a whole multipart/form-data: {why}.", "Send it again as a form.")
