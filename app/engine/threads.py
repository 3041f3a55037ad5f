"""The threads in which an engine loads models and runs batches. The methods are called on the event loop."""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.protocols import Runner
from app.errors import StartupError

T = TypeVar("T")

HAND_OVER_WITHIN_S: Final = 0.001
"""How long the event loop waits for a batch's thread to begin, which needs the GIL. Without that the loop keeps the GIL until it
has written the last answer of the batch before: with short texts and a small model a batch began 1 ms late, and took 3."""

STUCK_S: Final = 60.0
STUCK_TIMEOUTS: Final = 2
STUCK_BATCHES: Final = 20
"""A batch is taken for stuck after a minute, or twice the request timeout, or this many times what a full batch took when it was
measured: the longest of the three, so that a slow CPU is not taken for a stuck device."""


class Threads:
    """One thread that makes sessions and launches batches on a GPU, one that waits for it, and one for each batch on the CPU.

    One more loads and releases models while others serve.
    """

    def __init__(self, lanes: int) -> None:
        """Start them all, so that none is missing when a batch needs it.

        Args:
            lanes: Most batches that run at once on the CPU.

        Raises:
            StartupError: the system has no room for so many.
        """
        self._main = _start(1, "engine")
        self._waiter = _start(1, "waiter")
        self._lanes = _start(lanes, "lane")
        self._beside = _start(1, "loader")
        # The batches that run, and in how many seconds each is taken for stuck.
        self._running: dict[threading.Event, float] = {}

    async def prepare(self, work: Callable[[], T], *, beside: bool = False) -> T:
        """Do what comes before the first batch of a model, `beside` the batches of others or in the thread that launches them."""
        return await asyncio.get_running_loop().run_in_executor(self._beside if beside else self._main, work)

    async def run(
        self, runner: Runner, batch: Sequence[TokenSequence], threads: int, *, stuck_s: float
    ) -> list[SequenceResult]:
        """Run a batch. Others may be run meanwhile, in lanes of their own, or launched ahead.

        Args:
            runner: Of the batch's model.
            batch: Its sequences.
            threads: How many of the runner's threads it gets.
            stuck_s: Seconds after which the device is taken for stuck.
        """
        loop = asyncio.get_running_loop()
        begun = threading.Event()
        self._running[begun] = stuck_s
        if runner.launches_ahead:
            # In a thread of its own, so that the next batch is on its way to the device before this one is back.
            results = loop.run_in_executor(
                self._waiter, _finish, self._main.submit(_launch, runner, batch, threads, begun)
            )
        else:
            results = loop.run_in_executor(self._lanes, _run, runner, batch, threads, begun)
        if len(self._running) == 1 or not runner.launches_ahead:
            begun.wait(HAND_OVER_WITHIN_S)
        try:
            return await results
        finally:
            del self._running[begun]
            del results  # it has what is raised, which has this frame: the runner would wait for the garbage collector

    def run_on(self, seconds: float) -> bool:
        """Count so many seconds for the batches that run; return whether one has run for longer than its `stuck_s`."""
        for begun in self._running:
            self._running[begun] -= seconds
        return any(left < 0 for left in self._running.values())

    def shutdown(self) -> None:
        """End the threads, without waiting for a model that is loading or a device that is stuck."""
        for threads in (self._main, self._waiter, self._lanes, self._beside):
            threads.shutdown(wait=False)


def stuck_after_s(timeout_s: float, full_batch_s: float) -> float:
    """Return how long a batch may run until the device is taken for stuck, seconds. Requests without a deadline have no part in it."""
    patience_s = STUCK_TIMEOUTS * timeout_s if math.isfinite(timeout_s) else 0.0
    return max(STUCK_S, patience_s, STUCK_BATCHES * full_batch_s)


def _start(size: int, name: str) -> ThreadPoolExecutor:
    """Return an executor whose threads run."""
    executor = ThreadPoolExecutor(size, thread_name_prefix=name)
    running = threading.Barrier(size + 1)
    try:
        for _ in range(size):
            executor.submit(running.wait)
    except RuntimeError as error:
        running.abort()
        raise StartupError(
            f"The system has no room for the engine's threads: {error}. Raise the limit of processes (ulimit -u, or "
            "that of the container)."
        ) from error
    running.wait()
    return executor


def _launch(
    runner: Runner, batch: Sequence[TokenSequence], threads: int, begun: threading.Event
) -> Callable[[], list[SequenceResult]]:
    try:
        return runner.launch(batch, threads)
    finally:
        begun.set()


def _run(runner: Runner, batch: Sequence[TokenSequence], threads: int, begun: threading.Event) -> list[SequenceResult]:
    return _launch(runner, batch, threads, begun)()


def _finish(launched: "Future[Callable[[], list[SequenceResult]]]") -> list[SequenceResult]:
    try:
        return launched.result()()
    finally:
        del launched  # it has what is raised, which has this frame, as in `run`
