"""A lock on a folder, for as long as which no process removes it. The system releases that of a process that ends."""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self


class FolderLock:
    """Held until it is closed, or until the last reference to it is gone."""

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        """Lock a folder, which is no link.

        Args:
            folder: It may be renamed meanwhile.
            alone: Whether nobody else may have it locked.

        Raises:
            OSError: it cannot be opened, or another lock is in the way.
        """
        self.descriptor: Final = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._is_closed = False
        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True):
            self.close()


def remove_unused(folder: Path) -> None:
    """Remove a folder, unless it is locked or another user's."""
    with suppress(OSError), FolderLock(folder, alone=True):
        shutil.rmtree(folder)
