"""Memory that processes share."""

import resource
from collections.abc import Iterator

import pytest

from app.errors import StartupError
from app.memory_file import MemoryFile


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file of this process may have a byte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_room")
def test_a_start_without_room_for_shared_memory_says_what_to_raise() -> None:
    with pytest.raises(StartupError, match=r"File too large\. Raise the limits .* \(ulimit -f\)"):
        MemoryFile(1)
