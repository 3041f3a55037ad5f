"""Frames on a byte stream: a length, then that many bytes.

Both ends are processes of one start of the service on one machine, so there is no version and the byte order is the
machine's.
"""

import struct
from typing import Final

HEADER: Final = struct.Struct("=Q")
LARGEST: Final = 1 << 32
"""Bytes. msgpack has no longer blob, so a longer frame is damage, and there is no point in waiting for its end."""


class DamagedFrame(ValueError):
    """What arrived is no message of the other process. The rest of the stream cannot be read."""


def frame(body: bytes) -> bytes:
    """Return a frame."""
    return HEADER.pack(len(body)) + body


class FrameReader:
    """Collects what arrives until frames are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies of the frames that `data` completes.

        Raises:
            DamagedFrame: a length cannot be true.
        """
        self._buffer += data
        bodies = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            [size] = HEADER.unpack_from(self._buffer, start)
            if size > LARGEST:
                raise DamagedFrame(f"a frame of {size} bytes")
            end = start + HEADER.size + size
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[start + HEADER.size : end]))
            start = end
        if start:
            del self._buffer[:start]
        return bodies
