"""A lock on a folder, for as long as which no process removes it. The system releases that of a process that ends."""

import fcntl
import os
import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from weakref import finalize


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
        self._release: Final = finalize(self, os.close, self.descriptor)
        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock, if that has not been done."""
        self._release()


def remove_unused(folder: Path) -> None:
    """Remove a folder, unless it is locked or another user's."""
    with suppress(OSError), closing(FolderLock(folder, alone=True)):
        shutil.rmtree(folder)
