"""Frames on a byte stream: a kind, a length, that many bytes.

Both ends are processes of one start of the service on one machine, so there is no version and the byte order is the
machine's.
"""

import struct
from typing import Final

HEADER: Final = struct.Struct("=BQ")

HELLO: Final = 1
"""Engine to front end, once: the models are loaded. JSON."""
REQUESTS: Final = 2
REPLIES: Final = 3
WITHDRAW: Final = 4
"""Front end to engine: int64 ids of requests that nobody waits for any more."""
STATISTICS: Final = 5
"""Engine to front end, now and then. JSON."""


def frame(kind: int, body: bytes) -> bytes:
    """Return a frame."""
    return HEADER.pack(kind, len(body)) + body


class FrameReader:
    """Collects what arrives until frames are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that `data` completes, as (kind, body)."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            kind, size = HEADER.unpack_from(self._buffer, start)
            end = start + HEADER.size + size
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        if start:
            del self._buffer[:start]
        return frames
