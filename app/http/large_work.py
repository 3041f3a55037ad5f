"""Large work of requests, in threads: so much at once as the memory for it allows, each until its caller is gone or it is late.

Callers that wait take turns by their shares, of as many bytes as each has to be read, tokenized or written.

Bodies are read by one thread, as a parser holds the GIL until it is done: of two in a row the event loop would wait for both.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, NamedTuple, TypeVar

from app.allocator import trim
from app.bundle.cpus import usable_cpus
from app.engine.callers import Caller
from app.engine.shares import Line, Lines, work_before
from app.errors import NotReady, Overloaded
from app.http.workers import submit
from app.text.pieces import LONG_PIECE
from app.work import Work, late

T = TypeVar("T")

MEMORY: Final = 512 * 2**20
"""Bytes that what is tokenized and written at once may take; what is estimated to take more does so alone."""
BYTES_A_PIECE: Final = 1024
"""Of memory for each byte that is tokenized at once: the most that was measured, byte-level BPE's on one long word."""
BYTES_A_TOKEN: Final = 64
"""Of memory for each byte of text while its tokens and their places are made: a byte may be a token."""
BYTES_A_WEIGHT: Final = 512
"""Of memory for each unit of `TaskHandler.weight`: an entity's object is about as large."""
SECONDS_A_WEIGHT: Final = 4e-6
"""What it takes to make a unit of weight."""
WRITERS: Final = 2
"""Threads that make answers. They mostly hold the GIL, and more of them would keep it from the event loop for longer."""
TRIM_AFTER_S: Final = 1.0
"""When memory is given back to the system after large work, which malloc would keep."""


class LargeWork:
    """The threads of one front end. Use it on one event loop."""

    def __init__(self, timeout_s: float, max_queue_s: float, threads: int | None = None) -> None:
        """Start no thread yet.

        Args:
            timeout_s: How long a request may be read, how long it may be tokenized, and how long its answer may be made, seconds.
            max_queue_s: How long it may wait for a thread and for memory to be read or tokenized, seconds.
            threads: How many tokenize; None for one a core.
        """
        self._timeout_s = timeout_s
        self._max_queue_s = max_queue_s
        self._readers = _Threads("read", 1)
        self._tokenizers = _Threads("tokenize", threads or usable_cpus())
        self._writers = _Threads("write", WRITERS)
        self._compressors = _Threads("compress", 1)
        self._trim: asyncio.TimerHandle | None = None
        self._reserved: dict[Caller | None, int] = {}

    async def read(self, function: Callable[[], T], size: int, caller: Caller | None = None) -> T:
        """Read a body of `size` bytes. Cancelling the call drops the work, as it does for the others.

        Raises:
            Overloaded: it would wait for too long.
            DeadlineExceeded: it is late.
        """
        return await self._run(
            self._readers, Work(self._timeout_s), function, _Wanted(0, size, caller), self._max_queue_s
        )

    async def tokenize(
        self, function: Callable[[], T], size: int, most_tokens: int | None = None, caller: Caller | None = None
    ) -> T:
        """Tokenize about `size` bytes, of at most so many tokens.

        Raises:
            Overloaded: it would wait for too long.
            DeadlineExceeded: it is late.
            ValidationFailed: there are more tokens.
        """
        memory = size * BYTES_A_TOKEN + min(size, LONG_PIECE) * BYTES_A_PIECE
        wanted = _Wanted(min(memory, MEMORY), size, caller)
        return await self._run(
            self._tokenizers, Work(self._timeout_s, most_tokens), function, wanted, self._max_queue_s
        )

    @contextmanager
    def reserved(self, weight: int, caller: Caller | None = None) -> Iterator[None]:
        """Admit a request whose answer has a weight: until it is over, its answer is to be made.

        Raises:
            Overloaded: the answers that are made before would take too long.
        """
        before = work_before(
            self._reserved.get(caller, 0),
            weight,
            1.0 if caller is None else caller.share,
            ((1.0 if one is None else one.share, other) for one, other in self._reserved.items() if one != caller),
        )
        wait_s = before * SECONDS_A_WEIGHT / WRITERS
        if wait_s > self._max_queue_s:
            raise Overloaded(
                f"Answers of others are to be made for about {wait_s:.1f} s. Retry after the time in Retry-After.",
                retry_after_s=max(1, round(wait_s - self._max_queue_s / 2)),
            )
        self._reserved[caller] = self._reserved.get(caller, 0) + weight
        try:
            yield
        finally:
            self._reserved[caller] -= weight
            if not self._reserved[caller]:
                del self._reserved[caller]

    async def write(self, function: Callable[[], T], weight: int, caller: Caller | None = None) -> T:
        """Make an answer of a weight that is `reserved`. It waits as long as it may take: what it is made of has run.

        Raises:
            DeadlineExceeded: it is late.
        """
        memory = weight * BYTES_A_WEIGHT
        wanted = _Wanted(min(memory, MEMORY), memory, caller)
        return await self._run(self._writers, Work(self._timeout_s), function, wanted, self._timeout_s)

    async def compress(self, function: Callable[[], T], size: int) -> T:
        """Compress an answer of `size` bytes. It waits for no answer that is made: it may be the metrics.

        Raises:
            DeadlineExceeded: it is late.
        """
        wanted = _Wanted(min(size, MEMORY), size, None)
        return await self._run(self._compressors, Work(self._timeout_s), function, wanted, self._timeout_s)

    async def _run(
        self, threads: "_Threads", work: Work, function: Callable[[], T], wanted: "_Wanted", max_wait_s: float
    ) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    async with asyncio.timeout(max_wait_s):
                        await threads.take(wanted)
                except TimeoutError:
                    raise Overloaded(
                        f"The request waited for {max_wait_s:g} s until others were read and tokenized. Retry after the time "
                        "in Retry-After.",
                        retry_after_s=max(1, round(max_wait_s)),
                    ) from None
                return await asyncio.wrap_future(
                    threads.submit(partial(work.run, function), wanted.memory, self._trim_later)
                )
        except TimeoutError:
            raise late(self._timeout_s) from None
        finally:
            work.drop()

    def _trim_later(self) -> None:
        if self._trim is None:
            self._trim = asyncio.get_running_loop().call_later(TRIM_AFTER_S, self._start_trim)

    def _start_trim(self) -> None:
        self._trim = None
        with suppress(NotReady):
            submit(self._writers.executor, trim)

    def close(self) -> None:
        """End the threads."""
        for threads in (self._readers, self._tokenizers, self._writers, self._compressors):
            threads.executor.shutdown(wait=False, cancel_futures=True)


class _Wanted(NamedTuple):
    """What a caller wants done: in so much memory, at a cost of so many bytes."""

    memory: int
    cost: int
    caller: Caller | None


class _Threads:
    """Some threads, and the memory for what they do. Of a caller's work, what comes first gets a thread first."""

    def __init__(self, name: str, count: int) -> None:
        self.executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._free_threads = count
        self._free = MEMORY
        self._lines: Lines[Line[tuple[_Wanted, asyncio.Future[None]]]] = Lines(Line)

    async def take(self, wanted: _Wanted) -> None:
        """Wait for a thread and memory; `submit` is to follow."""
        if self._free_threads and wanted.memory <= self._free and not self._lines:
            self._free_threads -= 1
            self._free -= wanted.memory
            return
        granted = asyncio.get_running_loop().create_future()
        self._lines.push(self._lines.of(wanted.caller), (wanted, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._grant()  # the next ones may need less
            else:
                self._give_back(wanted.memory)
            raise

    def submit(self, function: Callable[[], T], memory: int, then: Callable[[], None]) -> "Future[T]":
        """Do something in the thread, and then give it back, and the memory, whether or not somebody waits for it.

        Raises:
            NotReady: the system has no room for another thread.
        """
        loop = asyncio.get_running_loop()
        try:
            future = submit(self.executor, function)
        except NotReady:
            self._give_back(memory)
            raise
        future.add_done_callback(partial(self._done, loop, memory, then))
        return future

    def _done(self, loop: asyncio.AbstractEventLoop, memory: int, then: Callable[[], None], _: "Future[T]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._give_back, memory)
            loop.call_soon_threadsafe(then)

    def _give_back(self, memory: int) -> None:
        self._free_threads += 1
        self._free += memory
        self._grant()

    def _grant(self) -> None:
        while self._lines:
            line = self._lines.waiting[0][2]
            wanted, granted = line.turns[0]
            cost = 0
            if not granted.done():
                if not self._free_threads or wanted.memory > self._free:
                    return
                self._free_threads -= 1
                self._free -= wanted.memory
                cost = wanted.cost
                granted.set_result(None)
            line.turns.popleft()
            self._lines.served(cost)
