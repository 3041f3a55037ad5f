"""Large work of requests, in threads: so much at once as the memory for it allows, each until its caller is gone or it is late.

Bodies are read by one thread, as a parser holds the GIL until it is done: of two in a row the event loop would wait for both.
"""

import asyncio
import ctypes
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from app.bundle.cpus import usable_cpus
from app.errors import DeadlineExceeded
from app.text.tokenizer import PIECE
from app.work import Work

T = TypeVar("T")

MEMORY: Final = 512 * 2**20
"""Bytes that what is tokenized and written at once may take; what is estimated to take more does so alone."""
BYTES_A_PIECE: Final = 1024
"""Of memory for each byte that is tokenized at once: the most that was measured, byte-level BPE's on one long word."""
BYTES_A_TOKEN: Final = 64
"""Of memory for each byte of text while its tokens and their places are made: a byte may be a token."""
BYTES_A_WEIGHT: Final = 512
"""Of memory for each unit of `TaskHandler.weight`: an entity's object is about as large."""
WRITERS: Final = 2
"""Threads that make answers. They mostly hold the GIL, and more of them would keep it from the event loop for longer."""
TRIM_AFTER_S: Final = 1.0
"""When memory is given back to the system after large work, which malloc would keep."""


class LargeWork:
    """The threads of one front end. Use it on one event loop."""

    def __init__(self, timeout_s: float, threads: int | None = None) -> None:
        """Start no thread yet.

        Args:
            timeout_s: How long a request may be read, how long it may be tokenized, and how long its answer may be made, seconds.
            threads: How many tokenize; None for one a core.
        """
        self._timeout_s = timeout_s
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._tokenizers = ThreadPoolExecutor(threads or usable_cpus(), thread_name_prefix="tokenize")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="write")
        self._free = MEMORY
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._trim: asyncio.TimerHandle | None = None

    async def read(self, function: Callable[[], T]) -> T:
        """Read a body. Cancelling the call drops the work, as it does for the others.

        Raises:
            DeadlineExceeded: it is late.
        """
        return await self._run(self._readers, Work(self._timeout_s), function, 0)

    async def tokenize(self, function: Callable[[], T], size: int, most_tokens: int | None = None) -> T:
        """Tokenize about `size` bytes, of at most so many tokens.

        Raises:
            DeadlineExceeded: it is late.
            ValidationFailed: there are more tokens.
        """
        memory = size * BYTES_A_TOKEN + min(size, 2 * PIECE) * BYTES_A_PIECE
        return await self._run(self._tokenizers, Work(self._timeout_s, most_tokens), function, memory)

    async def write(self, function: Callable[[], T], weight: int) -> T:
        """Make an answer of a weight.

        Raises:
            DeadlineExceeded: it is late.
        """
        return await self._run(self._writers, Work(self._timeout_s), function, weight * BYTES_A_WEIGHT)

    async def _run(self, threads: ThreadPoolExecutor, work: Work, function: Callable[[], T], memory: int) -> T:
        memory = min(memory, MEMORY)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._take(memory)
                return await asyncio.wrap_future(self._submit(threads, partial(work.run, function), memory))
        except TimeoutError:
            raise DeadlineExceeded(
                f"The request was not read, tokenized or written within {self._timeout_s:g} s. Send less at once, or retry "
                "when there is less load."
            ) from None
        finally:
            work.drop()

    def _submit(self, threads: ThreadPoolExecutor, function: Callable[[], T], memory: int) -> "Future[T]":
        future = threads.submit(function)
        future.add_done_callback(partial(self._done, asyncio.get_running_loop(), memory))
        return future

    async def _take(self, memory: int) -> None:
        if memory <= self._free and not self._waiting:
            self._free -= memory
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((memory, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self._give_back(memory)
            else:
                self._waiting.remove((memory, granted))
                self._give_back(0)  # the next ones may need less
            raise

    def _done(self, loop: asyncio.AbstractEventLoop, memory: int, _: "Future[T]") -> None:
        """Give memory back when a thread is done, whether or not somebody waited for it."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._give_back, memory)

    def _give_back(self, memory: int) -> None:
        self._free += memory
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, granted = self._waiting.popleft()
            if not granted.done():
                self._free -= wanted
                granted.set_result(None)
        if self._trim is None and memory:
            self._trim = asyncio.get_running_loop().call_later(TRIM_AFTER_S, self._start_trim)

    def _start_trim(self) -> None:
        self._trim = None
        self._writers.submit(trim)

    def close(self) -> None:
        """End the threads."""
        for threads in (self._readers, self._tokenizers, self._writers):
            threads.shutdown(wait=False, cancel_futures=True)


def trim() -> None:
    """Give memory that is free back to the system, where the C library can."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
