"""The input as lines of bytes, and how far it has been read. Files, compressed files and pipes are read alike."""

import gzip
import hashlib
import io
import sys
import zlib
from pathlib import Path
from typing import Final, Self, cast

from pydantic import BaseModel, ConfigDict

from app.predict.faults import CannotRead

MAX_ROW: Final = 4 * 2**20
"""Most bytes of a row, the default limit of a request's body: what is longer is no text."""
COMPRESSED: Final = ".gz"
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

    def __init__(
        self, raw: io.BufferedReader, name: str, *, size: int | None = None, is_compressed: bool = False
    ) -> None:
        """Read a stream.

        Args:
            raw: The stream.
            name: As errors name it.
            size: Its bytes, if they are known.
            is_compressed: Whether it is what gzip makes.
        """
        self.name: Final = name
        self.size: Final = size
        self.lines = 0
        self.rows = 0
        self.offset = 0
        self._hash = hashlib.sha256()
        self._raw = raw
        self._is_compressed = is_compressed
        self._stream = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=raw))) if is_compressed else raw

    @classmethod
    def open(cls, path: Path | None) -> Self:
        """Open a file, which is decompressed if its name ends with `.gz`, or stdin.

        Raises:
            CannotRead: it cannot be opened.
        """
        if path is None:
            return cls(cast("io.BufferedReader", sys.stdin.buffer), "stdin")
        try:
            size = path.stat().st_size if path.is_file() else None
            return cls(path.open("rb"), str(path), size=size, is_compressed=path.suffix == COMPRESSED)
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
        """Bytes of the file as it lies there that have been read."""
        return self._raw.tell() if self._is_compressed else self.offset

    def begins_with(self, marks: tuple[bytes, ...]) -> bool:
        """Return whether what comes next, at the beginning of the input, is one of these.

        Raises:
            CannotRead: as `readline`.
        """
        try:
            return self._stream.peek(1).startswith(marks)
        except (OSError, EOFError, zlib.error) as error:
            raise CannotRead(f"{self.name}: {error}.") from error

    def readline(self) -> tuple[bytes, bool]:
        """Return the next line, empty at the end, and whether it is whole: one that is longer than a row may be is cut.

        Raises:
            CannotRead: the system or the compressed data says so.
        """
        line = self._read(MAX_ROW + 1)
        is_whole = len(line) <= MAX_ROW
        self._count(line)
        rest = line
        while not is_whole and rest and not rest.endswith(b"\n"):
            rest = self._read(_BLOCK)
            self._count(rest)
        self.lines += bool(line)
        return line, is_whole

    def position(self) -> Position:
        """Return how far it has been read."""
        return Position(offset=self.offset, lines=self.lines, rows=self.rows, sha256=self._hash.hexdigest())

    def skip_to(self, position: Position) -> bool:
        """Read on to a position; return whether the bytes before it are the same as they were then.

        Raises:
            CannotRead: as `readline`.
        """
        while self.offset < position.offset:
            block = self._read_block(min(_BLOCK, position.offset - self.offset))
            if not block:
                break
            self._count(block)
        self.lines, self.rows = position.lines, position.rows
        return self.position() == position

    def _count(self, data: bytes) -> None:
        self.offset += len(data)
        self._hash.update(data)

    def _read(self, most_bytes: int) -> bytes:
        try:
            return self._stream.readline(most_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise CannotRead(f"{self.name}: {error}.") from error

    def _read_block(self, most_bytes: int) -> bytes:
        try:
            return self._stream.read(most_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise CannotRead(f"{self.name}: {error}.") from error
