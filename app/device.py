"""Whose turn it is on the device that the batchers of all models share. Lives on one event loop; imports nothing."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Device:
    """Batches run one after the other, first come, first served.

    Once `pack_ahead` was called, a second batch may be taken from the queue while one runs, so that the device finds it
    packed. It gives up the company of whatever comes meanwhile, so only a batch that is full is taken ahead.
    """

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(1)
        self._first = asyncio.Lock()
        self._changed = asyncio.Event()
        self._is_ahead = False
        self.batches = 0
        """That run or are packed to run."""
        self.answered_at = -math.inf
        """When the last batch was: one that was packed ahead runs from then on."""

    def pack_ahead(self) -> None:
        """Allow one batch to be packed while another runs."""
        if not self._is_ahead:
            self._is_ahead = True
            self._slots.release()

    def look_again(self) -> None:
        """Say that a batch may be full now."""
        self._changed.set()

    @asynccontextmanager
    async def turn(self, is_full: Callable[[], bool]) -> AsyncIterator[None]:
        """Wait until a batch may be taken from the queue; the turn lasts until it was answered.

        Args:
            is_full: Tells whether waiting would add nothing to the batch.
        """
        async with self._slots:
            async with self._first:
                while self.batches and not is_full():
                    self._changed.clear()
                    await self._changed.wait()
                self.batches += 1
            try:
                yield
            finally:
                self.batches -= 1
                self._changed.set()
