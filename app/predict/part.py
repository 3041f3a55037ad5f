"""A file that is being written, by one run at a time, and gets its name at the end."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from app.predict.faults import WrongUse

PART: Final = ".part"
"""What its name ends with until then."""


class Part:
    """Such a file, open."""

    def __init__(self, path: Path) -> None:
        """Open it, or what is there of it, which no other run may write.

        Raises:
            WrongUse: another run does.
        """
        self._path: Final = path
        self.path: Final = path.with_name(f"{path.name}{PART}")
        self._stream: Final[BinaryIO] = self.path.open("ab")
        self._is_finished = False
        if not _is_locked(self._stream, self.path):
            self._stream.close()
            raise WrongUse(f"Another run writes {self.path}. Wait for it, or name another output.")
        self.size = self.path.stat().st_size

    def cut(self, size: int) -> bool:
        """Cut off what does not count; return whether all that counts is there."""
        if self.size < size:
            return False
        self._stream.truncate(size)
        self.size = size
        return True

    def append(self, data: bytes) -> None:
        self._stream.write(data)
        self.size += len(data)

    def sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def finish(self, size: int, *, is_wanted: bool) -> None:
        """Give it its name, unless it has it, or remove it.

        Args:
            size: Its bytes. One that has less was made when this run began: the whole one has its name.
            is_wanted: Whether there should be one.
        """
        if self.size == size and is_wanted:
            self.path.replace(self._path)
        else:
            self.path.unlink()
        if not is_wanted:
            self._path.unlink(missing_ok=True)
        self._is_finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be written does not count
            if not self.size and not self._is_finished:
                self.path.unlink()
        with suppress(OSError):
            self._stream.close()


def _is_locked(stream: BinaryIO, path: Path) -> bool:
    """Lock a file, and return whether no other run has it, or had, and gave it another name since it was opened."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
