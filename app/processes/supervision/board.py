"""What processes let each other and their supervisor see: numbers in memory that all of them share, one of each for a process."""

import asyncio
import mmap
from dataclasses import dataclass
from typing import Any, Final

from app.memory_file import MemoryFile

BEAT_EVERY_S: Final = 0.5
ACCEPTS_NONE: Final = (1 << 63) - 1
"""The connections of a process that does not accept any: more than any other has."""


class Board:
    """`connections[i]` counts those of process i, and `beats[i]` how often its event loop has come round since it serves."""

    def __init__(self, processes: int, memory: MemoryFile | None = None) -> None:
        """Make a board for so many processes, or share the one in this memory.

        Raises:
            StartupError: the system has no room for it.
        """
        size = 2 * processes * 8
        self._memory: Final = memory or MemoryFile(size)
        numbers = memoryview(mmap.mmap(self._memory.descriptor, size)).cast("q")
        self.connections: Final = numbers[:processes]
        self.beats: Final = numbers[processes:]

    def clear(self, index: int) -> None:
        """Say that there is no process, or none that serves."""
        self.connections[index] = ACCEPTS_NONE
        self.beats[index] = 0

    def __reduce__(self) -> Any:  # noqa: ANN401 - as it is declared
        return Board, (len(self.beats), self._memory)


@dataclass(frozen=True, slots=True)
class Place:
    """That of a process on the board."""

    board: Board
    index: int

    async def beat(self) -> None:
        """Show that its event loop comes round, until cancelled."""
        while True:
            self.board.beats[self.index] += 1
            await asyncio.sleep(BEAT_EVERY_S)

    def tell(self, connections: int) -> None:
        """Show how many connections it has."""
        self.board.connections[self.index] = connections

    def leave(self) -> None:
        """Show that it accepts no more."""
        self.board.connections[self.index] = ACCEPTS_NONE

    def least(self) -> int:
        """Return how many the process has that has the fewest, of those that accept any."""
        return min(self.board.connections)


class Silence:
    """Tells which processes have stopped to come round. Counts how often it is asked, not seconds.

    Whoever asks is stopped along with them when a container is paused or a machine sleeps, and must not take that for their
    silence.
    """

    def __init__(self, board: Board) -> None:
        self._board: Final = board
        self._seen = list(board.beats)
        self._times = [0] * len(board.beats)

    def times(self) -> list[int]:
        """Return how often in succession each process has been seen without a new beat."""
        for i, beats in enumerate(self._board.beats):
            self._times[i] = self._times[i] + 1 if beats == self._seen[i] else 0
            self._seen[i] = beats
        return self._times

    def forget(self, index: int) -> None:
        """Begin anew with a process: it is another one."""
        self._board.clear(index)
        self._seen[index] = self._times[index] = 0
