"""Files in the body of a form, multipart/form-data (RFC 7578); the one file that owns python-multipart."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from catflap.serving.http_messages import HttpError

FORM = "multipart/form-data"
FIELDS = 100  # parts of a form that are no files
HEADER_BYTES, HEADERS = 4096, 8  # of a part
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs each malformed form


@dataclass(frozen=True)
class FormFile:
    """A file in a form: the name that the client gave it, and its bytes."""

    name: str
    data: bytes


def parse_form(body: bytes, content_type: str, most: int) -> list[FormFile]:
    """The files of a multipart/form-data body (RFC 7578), in their order; other fields are left out.

    A part is a file if it has a filename or a Content-Type. Raises HttpError: 400 when the body is malformed
    or cut short, 413 when it has more than `most` files, or more than 100 parts that are not files.
    """
    boundary = parse_options_header(content_type.encode("latin-1", "replace"))[1].get(b"boundary")
    if not boundary:
        raise _malformed("its Content-Type has no boundary")
    files: list[FormFile] = []
    pieces: list[bytes] = []  # of the header, then of the data, of the present part
    headers: dict[bytes, bytes] = {}
    header = b""
    parts, is_complete = 0, False

    def begin_part() -> None:
        nonlocal parts
        parts += 1
        if parts > most + FIELDS:
            raise HttpError(413, f"The form has more than {most + FIELDS} parts.", "Send only the photos.")
        headers.clear()
        pieces.clear()

    def add(data: bytes, start: int, end: int) -> None:
        pieces.append(data[start:end])

    def end_header_name(data: bytes, start: int, end: int) -> None:
        nonlocal header
        header = data[start:end].lower()

    def end_header() -> None:
        headers.setdefault(header, b"".join(pieces))
        pieces.clear()

    def end_part() -> None:
        name = _file_name(headers)
        if name is None:
            return
        if len(files) == most:
            raise HttpError(413, f"The form has more than {most} photos.", "Send fewer at once.")
        files.append(FormFile(name, b"".join(pieces)))

    def end_form() -> None:
        nonlocal is_complete
        is_complete = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin_part, "on_header_field": end_header_name, "on_header_value": add,
                "on_header_end": end_header, "on_part_data": add, "on_part_end": end_part, "on_end": end_form,
            },
            max_header_count=HEADERS,
            max_header_size=HEADER_BYTES,
        )  # fmt: skip
        parser.write(body)
    except FormParserError as error:
        raise _malformed(str(error)) from error
    if not is_complete:
        raise _malformed("it is cut short")
    return files


def _file_name(headers: dict[bytes, bytes]) -> str | None:
    """The name of a part that is a file, "" if it has none; None for a plain field."""
    options = parse_options_header(headers.get(b"content-disposition", b""))[1]
    if b"filename" in options:
        return options[b"filename"].decode("utf-8", "replace").replace("%22", '"')
    if b"content-type" in headers:
        return options.get(b"name", b"").decode("utf-8", "replace")
    return None


def _malformed(reason: str) -> HttpError:
    return HttpError(400, f"The body is not valid {FORM}: {reason}.", "Send each photo as a file of a form.")
