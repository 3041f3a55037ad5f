"""Free what a model took, so that the operating system has it back."""

import ctypes
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def free(held: list[T]) -> None:
    """Drop the only reference to some objects, and give the memory back that the allocator keeps. Takes up to a second."""
    held.clear()
    with suppress(OSError, AttributeError):  # another C library than glibc, which keeps nothing or has no such call
        ctypes.CDLL(None).malloc_trim(0)
