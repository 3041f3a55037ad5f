"""Open and read a file of a bundle that is a regular file: a pipe would never be read to its end, nor a device."""

import mmap
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Final

from app.errors import BundleError

READ_AT_ONCE: Final = 2**24
"""Bytes of a part. While a thread computes, each read gives the GIL away, and gets it back 5 ms later."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. Links are followed: file systems of clusters make them.

    Raises:
        BundleError: it is missing, cannot be read, or is a folder, a pipe, a socket or a device.
    """
    try:
        # A pipe without a writer is not waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing from the bundle. Export the model again.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path} is not a regular file. Copy the bundle again, or export the model again.")
    return os.fdopen(descriptor, "rb")


def parts_of(stream: BufferedReader) -> Iterator[memoryview]:
    """Yield what is left of a file. A part is overwritten by the next."""
    # Not of the C library's memory: once it has had so large a piece, it gives back no smaller ones to the system.
    part = memoryview(mmap.mmap(-1, READ_AT_ONCE))
    while size := stream.readinto(part):
        yield part[:size]


def unreadable(path: Path, error: OSError) -> BundleError:
    """Return the error for a path that the system does not let this process read."""
    return BundleError(
        f"{path} cannot be read: {error.strerror}. Let the user that serves read it, or take it out of the models folder."
    )
