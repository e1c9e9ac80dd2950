"""How the bytes of a request come in: within a size, a time, and the memory that all share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

from catflap.serving.answers import Problem
from catflap.serving.settings import ServeLimits


class BodyReader:
    """Counts the bytes of all request bodies in memory, so that many large ones cannot use it up."""

    def __init__(self, limits: ServeLimits) -> None:
        self._limits = limits
        self.held = 0

    @contextmanager
    def hold(self) -> Iterator[list[int]]:
        """A tally for one request, whose bytes are given back when the block ends."""
        tally: list[int] = [0]
        try:
            yield tally
        finally:
            self.held -= tally[0]

    async def read(self, chunks: AsyncIterator[bytes], headers: Mapping[str, str], tally: list[int]) -> bytes:
        """The whole body; Problem 413 when it is too large, 408 when too slow, 415 when compressed."""
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(415, "The body is compressed.", "Send it as it is; photos are compressed already.")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limits.body:
            raise self._too_large()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.upload):
                async for chunk in chunks:
                    parts.append(chunk)
                    self._count(len(chunk), tally)
        except TimeoutError as error:
            raise Problem(
                408, f"The body took more than {self._limits.upload:g} s.", "Send a smaller photo."
            ) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _count(self, size: int, tally: list[int]) -> None:
        tally[0] += size
        self.held += size
        if tally[0] > self._limits.body:
            raise self._too_large()
        if self.held > self._limits.buffered:
            raise Problem(
                429, "The server holds as many photos as it can.", "Try again later.", {"Retry-After": "1"}
            )

    def _too_large(self) -> Problem:
        return Problem(413, f"The body has more than {self._limits.body} bytes.", "Send a smaller photo.")
