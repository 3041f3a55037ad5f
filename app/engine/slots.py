"""The slots of a device, which the batches of all models share. Used on one event loop; imports nothing of the project."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Share = Callable[[int, int], int]


class Slots:
    """Batches run first come, first served, as many in parallel as there are slots for.

    A batch takes its share of the slots: on a GPU all of them, on a CPU as many as it gets threads.

    After `launch_ahead`, a second batch may be launched while one runs, so that the device can go on with it at once.
    Requests that arrive later cannot join that batch, so only a full batch is launched ahead.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._free = size
        self._waiting: deque[tuple[Share, asyncio.Future[int]]] = deque()
        self._first = asyncio.Lock()
        self._changed = asyncio.Event()
        self._launches_ahead = False
        self.batches = 0
        """Batches that are running or launched."""
        self.answered_at = -math.inf
        """When the last batch was answered."""

    def launch_ahead(self) -> None:
        """Allow one batch to be launched while another runs."""
        if not self._launches_ahead:
            self._launches_ahead = True
            self._release(self.size)

    def look_again(self) -> None:
        """Call when a batch may have become full."""
        self._changed.set()

    def started_at(self, taken_at: float) -> float:
        """Return when a batch that was just answered began to run: one launched ahead waited for the batch before it."""
        return max(taken_at, self.answered_at) if self._launches_ahead else taken_at

    @asynccontextmanager
    async def take(self, share: Share, is_full: Callable[[], bool]) -> AsyncIterator[int]:
        """Wait until a batch may be taken from the queue, and hold its slots until the batch is answered; yield how many.

        Args:
            share: How many of the free slots it takes, and 0 to wait for more, by their number and that of the batches that wait
                behind it.
            is_full: Whether the batch cannot take more requests.
        """
        taken = await self._acquire(share)
        try:
            if self._launches_ahead:
                await self._wait_until_full_or_idle(is_full)
            self.batches += 1
            try:
                yield taken
            finally:
                self.batches -= 1
                self._changed.set()
        finally:
            self._release(taken)

    async def _wait_until_full_or_idle(self, is_full: Callable[[], bool]) -> None:
        async with self._first:
            while self.batches and not is_full():
                self._changed.clear()
                await self._changed.wait()

    async def _acquire(self, share: Share) -> int:
        if not self._waiting and (taken := share(self._free, 0)):
            self._free -= taken
            return taken
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, granted))
        try:
            return await granted
        except asyncio.CancelledError:
            was_granted = not granted.cancelled()
            if not was_granted and (share, granted) in self._waiting:
                self._waiting.remove((share, granted))
            self._release(granted.result() if was_granted else 0)  # the next ones may need fewer slots
            raise

    def _release(self, taken: int) -> None:
        self._free += taken
        while self._waiting:
            share, granted = self._waiting[0]
            taken = 0 if granted.done() else share(self._free, len(self._waiting) - 1)
            if not taken and not granted.done():
                return
            self._waiting.popleft()
            self._free -= taken
            if taken:
                granted.set_result(taken)
