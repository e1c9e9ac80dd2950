"""JPEGs one after the other in a stream of bytes: Motion JPEG, with or without multipart headers between."""

from __future__ import annotations

import re

from catflap.live.frames import Lost

START = b"\xff\xd8\xff"
END, SCAN = 0xD9, 0xDA
ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends a scan: any marker but a restart


class Splitter:
    """Cuts a stream into whole JPEGs; what is not one is skipped.

    The markers are followed as ITU-T T.81 B.1.1 says, so a thumbnail inside does not end its photo.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._restart(0)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The JPEGs that are whole with these bytes; Lost when one is larger than the limit."""
        self._buffer += chunk
        found = []
        while (jpeg := self._next()) is not None:
            found.append(jpeg)
        if len(self._buffer) > self._limit:
            raise Lost(f"a frame has more than {self._limit} bytes")
        return found

    def _restart(self, place: int) -> None:
        """Drop what stands before `place` and look for the start of a JPEG from there."""
        del self._buffer[:place]
        self._place = 0  # how far the current JPEG was followed; 0 before its start is found
        self._scanning = False

    def _next(self) -> bytes | None:
        buffer = self._buffer
        while True:
            if self._place == 0:
                start = buffer.find(START)
                self._restart(max(0, len(buffer) - len(START) + 1) if start < 0 else start)
                if start < 0:
                    return None
                self._place = 2
            if self._scanning:
                marker = _MARKER.search(buffer, self._place)
                if marker is None:
                    self._place = max(self._place, len(buffer) - 1)
                    return None
                self._place, self._scanning = marker.start(), False
            if len(buffer) < self._place + 2:
                return None
            if buffer[self._place] != 0xFF:
                self._restart(2)
                continue
            kind = buffer[self._place + 1]
            if kind == END:
                jpeg = bytes(buffer[: self._place + 2])
                self._restart(self._place + 2)
                return jpeg
            if not self._skip(kind):
                return None

    def _skip(self, kind: int) -> bool:
        """Step over a marker and what belongs to it; False when that is not there yet."""
        if kind == 0xD8:  # another start: the JPEG before was cut off
            self._restart(self._place)
        elif kind == 0xFF:
            self._place += 1
        elif kind in ALONE:
            self._place += 2
        else:
            size = int.from_bytes(self._buffer[self._place + 2 : self._place + 4], "big")
            after = self._place + 2 + max(size, 2)
            if len(self._buffer) < max(after, self._place + 4):
                return False
            self._place, self._scanning = after, kind == SCAN
        return True
