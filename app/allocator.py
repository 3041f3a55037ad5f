"""The allocator of the C library, which keeps memory that is free."""

import ctypes
from contextlib import suppress


def trim() -> None:
    """Give memory that is free back to the system. Takes up to a second."""
    with suppress(OSError, AttributeError):  # another C library than glibc, which keeps nothing or has no such call
        ctypes.CDLL(None).malloc_trim(0)
