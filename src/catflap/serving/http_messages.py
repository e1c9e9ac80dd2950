"""What a route receives and returns: Request, Response, HttpError; request bodies within limits; API keys."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from catflap.errors import CatflapError
from catflap.serving.connections import CHUNK, CONNECTION
from catflap.serving.serve_settings import ServeLimits

JSON = "application/json"
SHORTEST_KEY = 16  # characters; shorter keys can be guessed


@dataclass(frozen=True)
class Request:
    """One HTTP request, independent of the web framework; `chunks` are the pieces of its body, once."""

    path_params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    receive: Receive

    async def disconnected(self) -> None:
        """Return when the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


@dataclass(frozen=True)
class Response:
    """What goes back: an ASGI application that sends itself.

    A large body is sent in small pieces, and a memoryview is never copied whole.
    """

    body: bytes | memoryview
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, without its body to a HEAD request, and no more of it to a connection that is lost."""
        headers = {"content-type": self.content_type, **self.headers}
        if self.status != 304:
            headers["content-length"] = str(len(self.body))
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        body = b"" if scope["method"] == "HEAD" else self.body
        connection = scope[CONNECTION][0] if CONNECTION in scope else None
        last = (len(body) - 1) // CHUNK * CHUNK if body else 0
        for start in range(0, last, CHUNK):
            if connection is not None and connection.is_lost:
                return
            await send({"type": "http.response.body", "body": body[start : start + CHUNK], "more_body": True})
        await send({"type": "http.response.body", "body": body[last:]})


class HttpError(CatflapError):
    """A request that fails, with the HTTP status and headers of its response."""

    def __init__(self, status: int, what: str, fix: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(what, fix)
        self.status = status
        self.headers = dict(headers or {})
        self.args = (status, what, fix, self.headers)


def json_response(fields: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(json.dumps(fields).encode(), status, JSON, headers or {})


def error_response(error: HttpError, *, as_text: bool) -> Response:
    """An HttpError as JSON: one string as the Open Inference Protocol requires, else `what` and `fix`."""
    value: Any = f"{error.what} {error.fix}" if as_text else error.to_json()
    return json_response({"error": value}, error.status, error.headers)


class BodyReader:
    """Reads request bodies and counts their bytes, so that many large ones cannot fill the memory.

    `held` is the number of bytes of all bodies in memory.
    """

    def __init__(self, limits: ServeLimits) -> None:
        self._limits = limits
        self._most_held = limits.buffered
        self.held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body of a request, counted in `held` until the end of the `with` block.

        Raises HttpError 413 for a body that is too large, 408 too slow, 415 compressed, 429 when too many
        bytes are held already.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HttpError(415, "The body is compressed.", "Send it uncompressed: photos already are small.")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limits.body:
            raise self._too_large()
        body: bytes | bytearray = b""
        size = 0
        try:
            try:
                async with asyncio.timeout(self._limits.upload):
                    async for chunk in request.chunks:
                        size += len(chunk)
                        self.held += len(chunk)
                        if size > self._limits.body:
                            raise self._too_large()
                        if self.held > self._most_held:
                            held = f"Too many requests: their bodies have {self.held} bytes."
                            raise HttpError(429, held, "Retry after 1 s.", {"Retry-After": "1"})
                        if not body:
                            body = chunk
                        elif isinstance(body, bytes):
                            body = bytearray(body) + chunk
                        else:
                            body += chunk  # one buffer: in a list, tiny chunks take 40 times their bytes
            except TimeoutError as error:
                late = f"The body did not arrive within {self._limits.upload:g} s."
                raise HttpError(408, late, "Send a smaller photo.") from error
            body = bytes(body)
            yield body
        finally:
            self.held -= size

    def _too_large(self) -> HttpError:
        return HttpError(413, f"The body has more than {self._limits.body} bytes.", "Send a smaller photo.")


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The SHA-256 of each API key in a file, one key a line, # for comments; () without a file."""
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CatflapError(
            f"The keys file {path} cannot be read: {error}.", "Name a UTF-8 text file with one key a line."
        ) from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < SHORTEST_KEY:
        raise CatflapError(
            f"The keys file {path} has no key, or one of fewer than {SHORTEST_KEY} characters.",
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return tuple(sha256(key.encode()).digest() for key in keys)


def check_key(headers: Mapping[str, str], keys: tuple[bytes, ...]) -> None:
    """Raise HttpError 401 unless the request has one of the keys, or there are none.

    A key comes as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of
    `Authorization: Basic`, which is what a browser asks its user for.
    """
    if not keys:
        return
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        key = rest.strip()
    elif scheme.lower() == "basic":
        try:
            key = base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2]
        except ValueError:
            key = ""
    else:
        key = headers.get("x-api-key", "")
    digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
    if not any(hmac.compare_digest(digest, known) for known in keys):
        raise HttpError(
            401, "Missing or unknown API key.", "Send the header Authorization: Bearer KEY.",
            {"WWW-Authenticate": 'Basic realm="Catflap: the key is the password"'},
        )  # fmt: skip
