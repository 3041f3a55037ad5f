"""Memory that several processes share, as a file that no folder holds: no full disk can end a process that writes to it."""

import os
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from typing import Any

from app.errors import StartupError


class MemoryFile:
    """Zeros at first. One that is passed to a child process is the same memory there."""

    def __init__(self, size_bytes: int) -> None:
        """Make it.

        Raises:
            StartupError: the system has no room for it.
        """
        try:
            self.descriptor = os.memfd_create("bert")
            os.truncate(self.descriptor, size_bytes)
        except OSError as error:
            raise StartupError(
                f"The system has no room for the memory that processes share: {error.strerror}. Raise the limits of open "
                "files (ulimit -n), of the size of files (ulimit -f), or of memory."
            ) from error

    @property
    def path(self) -> str:
        """Where this process can open it."""
        return f"/proc/self/fd/{self.descriptor}"

    def __reduce__(self) -> tuple[Callable[[Any], "MemoryFile"], tuple[Any]]:
        return _inherited, (DupFd(self.descriptor),)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _inherited(duplicate: Any) -> MemoryFile:  # noqa: ANN401 - typeshed has no name for it
    one = MemoryFile.__new__(MemoryFile)
    one.descriptor = duplicate.detach()
    return one
