"""The input as lines of bytes, and how far it has been read. Files, compressed files and pipes are read alike."""

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, cast

from pydantic import BaseModel, ConfigDict

from app.predict.faults import CannotRead

MAX_ROW: Final = 4 * 2**20
"""Most bytes of a row, the default limit of a request's body: what is longer is no text."""
_GZIP: Final = b"\x1f\x8b"
_BLOCK: Final = 2**20


class Position(BaseModel):
    """How far an input has been read: so many bytes, lines and rows, and the sha256 of these bytes."""

    model_config = ConfigDict(frozen=True)

    offset: int
    lines: int
    rows: int
    sha256: str


class Source:
    """An input that is read once, from its beginning."""

    def __init__(self, raw: io.BufferedReader, name: str, *, size: int | None = None) -> None:
        """Read a stream, which is decompressed if it begins as gzip's do.

        Args:
            raw: The stream.
            name: As errors name it.
            size: Its bytes, if they are known.

        Raises:
            CannotRead: as `readline`.
        """
        self.name: Final = name
        self.size: Final = size
        self.lines = 0
        self.rows = 0
        self.offset = 0
        self._hash = hashlib.sha256()
        self._raw = self._stream = raw
        self._is_compressed = self.begins_with((_GZIP,))
        if self._is_compressed:
            self._stream = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=raw)))

    @classmethod
    def open(cls, path: Path | None) -> Self:
        """Open a file, or stdin.

        Raises:
            CannotRead: it cannot be opened, or read.
        """
        if path is None:
            return cls(cast("io.BufferedReader", sys.stdin.buffer), "stdin")
        try:
            size = path.stat().st_size if path.is_file() else None
            return cls(path.open("rb"), str(path), size=size)
        except OSError as error:
            raise CannotRead(f"{path}: {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size is not None:  # a pipe cannot be closed while a thread waits for it
            self._stream.close()
            self._raw.close()

    @property
    def done_bytes(self) -> int:
        """Bytes of a file, as it lies there, that have been read."""
        return self._raw.tell() if self._is_compressed and self.size is not None else self.offset

    def begins_with(self, marks: tuple[bytes, ...]) -> bool:
        """Return whether what comes next, at the beginning of the input, is one of these.

        Raises:
            CannotRead: as `readline`.
        """
        return self._checked(self._stream.peek, 1).startswith(marks)

    def readline(self) -> bytes:
        """Return the next line, empty at the end. One that is longer than a row may be is read, too, but cut.

        Raises:
            CannotRead: the system or the compressed data says so.
        """
        line = self._checked(self._stream.readline, MAX_ROW + 1)
        self._count(line)
        rest = line if len(line) > MAX_ROW else b""
        while rest and not rest.endswith(b"\n"):
            rest = self._checked(self._stream.readline, _BLOCK)
            self._count(rest)
        self.lines += bool(line)
        return line

    def position(self) -> Position:
        """Return how far it has been read."""
        return Position(offset=self.offset, lines=self.lines, rows=self.rows, sha256=self._hash.hexdigest())

    def skip_to(self, position: Position) -> bool:
        """Read on to a position; return whether the bytes before it are the same as they were then.

        Raises:
            CannotRead: as `readline`.
        """
        while self.offset < position.offset:
            block = self._checked(self._stream.read, min(_BLOCK, position.offset - self.offset))
            if not block:
                break
            self._count(block)
        self.lines, self.rows = position.lines, position.rows
        return self.position() == position

    def _count(self, data: bytes) -> None:
        self.offset += len(data)
        self._hash.update(data)

    def _checked(self, read: Callable[[int], bytes], most_bytes: int) -> bytes:
        """Return what a method of the stream reads."""
        try:
            return read(most_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CannotRead:
        if isinstance(error, OSError) and error.strerror is not None:
            return CannotRead(f"{self.name}: {error.strerror}.")
        return CannotRead(f"{self.name}: its compressed data is damaged: {error}. Compress it anew.")
