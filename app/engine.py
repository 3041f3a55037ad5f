"""The seam between HTTP and models, and the engine that runs in the same process.

`LocalEngine` owns one thread, in which every session of the device is made and batches are launched, one that waits for what a
GPU was asked for, a thread for each batch of models that run several at once, and one batcher per model. Its methods are
called on the event loop. Imports nothing of HTTP.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

from app.batching import Batcher, BatchObserver, Job
from app.bundle import Bundle
from app.cpus import usable_cpus
from app.device import Device
from app.errors import EngineLost, NotReady
from app.golden import replay_golden
from app.messages import Loaded, QueueStatistics, SequenceResult, Timeline, TokenSequence
from app.tuning import SEARCH_DEVICE_FOR_S, SEARCH_FOR_S, Speed, measure_speed
from app.warmup import run_every_shape

log = logging.getLogger(__name__)

MAX_BUDGET_TOKENS: Final = 65536
TICK_S: Final = 0.1
"""How often late requests are told and the length of the queue is measured, whatever the device does."""


HAND_OVER_WITHIN_S: Final = 0.001
"""The event loop gives a batch's thread so long to begin. It needs the GIL for that, which the loop else keeps until the
last answer of the batch before is written: with short texts and a small model a batch began a millisecond late, and lasted 3."""


STUCK_S: Final = 60.0
STUCK_TIMEOUTS: Final = 2
STUCK_BATCHES: Final = 20
"""A batch that has been running for a minute, for twice the longest time to an answer, and for this many times as long as a full
one was measured to take, never comes back: the longest of the three, so that a slow CPU is not taken for a stuck device."""


class Runner(Protocol):
    """Runs batches of one model.

    Called in one thread of the engine's, but for `run` on a CPU, which several threads may call at once, and for what `launch`
    returns.
    """

    @property
    def provider(self) -> str: ...

    @property
    def variant_name(self) -> str: ...

    @property
    def threads(self) -> int | None:
        """How many CPU cores a run takes; None where another device runs."""

    @property
    def launches_ahead(self) -> bool:
        """Whether a batch should be launched while another one runs."""

    def launch(self, batch: Sequence[TokenSequence]) -> Callable[[], list[SequenceResult]]:
        """Begin to run a batch. What is returned must be called once, in any thread, and waits for the results."""

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]: ...

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Run a batch and give back the device's memory that larger ones took."""


class EngineObserver(BatchObserver, Protocol):
    """Hears of one model's batches, and now and then of its queue."""

    def queued(self, queue: QueueStatistics) -> None:
        """This much waits to run."""


class EngineClient(Protocol):
    """What the HTTP layer knows of an engine, wherever it runs."""

    async def infer(
        self, model: str, sequences: Sequence[TokenSequence], timeline: Timeline | None = None
    ) -> list[SequenceResult]:
        """Return the result of each sequence, in order. Cancelling the call withdraws what has not run.

        A `timeline` is told what became of the request; it stays empty where that is not known, as after EngineLost.

        Raises:
            Overloaded: nothing was admitted; a retry after the time it names may help.
            DeadlineExceeded: a retry may help.
            Internal: one of the sequences cannot be run; a retry does not help.
            EngineLost, NotReady: a retry helps once there is an engine again.
        """

    def check(self, model: str, sequences: int) -> None:
        """Raise if a request of this many sequences would not be admitted now, so that no work is lost on it.

        Raises:
            Overloaded, EngineLost, NotReady: as `infer` does.
        """

    def statistics(self) -> Mapping[str, QueueStatistics]:
        """Return what waits, by model."""

    async def close(self) -> None:
        """Answer what was admitted, then release the device."""


SequenceBatcher = Batcher[TokenSequence, SequenceResult]
SubmittedJob = Job[TokenSequence, SequenceResult]


class LocalEngine:
    """Batches and runs every model of this process on one device."""

    def __init__(self) -> None:
        cpus = usable_cpus()
        # A GPU, or all cores together, run one batch at a time: a second would only share their caches and lengthen both.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._lanes = ThreadPoolExecutor(cpus, thread_name_prefix="lane")
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="waiter")
        self._device = Device(cpus)
        self._batchers: dict[str, SequenceBatcher] = {}
        self._tasks: list[asyncio.Task[None]] = []
        # Those that run, and when each is given up.
        self._running: dict[object, float] = {}
        self.lost: Final[asyncio.Future[EngineLost]] = asyncio.get_running_loop().create_future()

    async def load(
        self,
        bundle: Bundle,
        open_runner: Callable[[Bundle], Runner],
        observer: EngineObserver,
        *,
        budget_tokens: int | None,
        max_queue_s: float,
        timeout_s: float,
        before: Loaded | None = None,
    ) -> Loaded:
        """Load a model, warm it up with its golden answers, and serve it from now on.

        Args:
            bundle: The model.
            open_runner: Makes its runner; called in the engine's thread.
            observer: Hears of its batches and its queue.
            budget_tokens: Most tokens that share a batch; None measures what is best here.
            max_queue_s: Longest estimated wait at which a request is still admitted.
            timeout_s: Longest time from admission to answer.
            before: What became of this bundle in an engine that was lost. If it runs the same way again, its speed is not
                measured anew, on a machine that is busy with those who wait.

        Raises:
            BundleError: a file is damaged, or the golden answers do not come out.
            StartupError: the device that was asked for does not work.
        """
        loop = asyncio.get_running_loop()

        def load() -> tuple[Runner, Speed]:
            runner = open_runner(bundle)
            replay_golden(bundle, runner.variant_name, runner.run)
            if before is not None and _runs_as(before, runner):
                speed = Speed(before.budget_tokens, before.seconds_per_token, before.seconds_by_tokens)
            else:
                speed = measure_speed(
                    bundle,
                    runner.run,
                    limit_tokens=budget_tokens or MAX_BUDGET_TOKENS,
                    search_for_s=SEARCH_DEVICE_FOR_S if runner.launches_ahead else SEARCH_FOR_S,
                )
            if runner.launches_ahead:
                run_every_shape(bundle, runner.run, runner.trim, budget_tokens or speed.budget_tokens)
            return runner, speed

        started_at = time.perf_counter()
        runner, speed = await loop.run_in_executor(self._thread, load)

        budget = budget_tokens or speed.budget_tokens
        lanes = 1 if runner.threads is None else max(1, self._device.room // runner.threads)
        thread = self._thread if lanes == 1 else self._lanes
        longest_tokens = max(budget, bundle.manifest.max_length)
        stuck_s = stuck_after_s(timeout_s, longest_tokens * speed.seconds_per_token)

        async def run(batch: list[TokenSequence]) -> list[SequenceResult]:
            begun = threading.Event()
            self._running[begun] = time.monotonic() + stuck_s
            if runner.launches_ahead:
                launched = self._thread.submit(_launch, runner, batch, begun)
                # In a thread of its own, so that the next batch is on its way to the device before this one is back.
                answers = loop.run_in_executor(self._waiter, _finish, launched)
            else:
                answers = loop.run_in_executor(thread, _run, runner, batch, begun)
            if self._device.batches == 1 or not runner.launches_ahead:
                begun.wait(HAND_OVER_WITHIN_S)
            try:
                return await answers
            finally:
                del self._running[begun]

        batcher = Batcher(
            run,
            budget_tokens=budget,
            max_queue_s=max_queue_s,
            timeout_s=timeout_s,
            device=self._device,
            observer=observer,
            lanes=lanes,
            ahead=runner.launches_ahead,
        )
        if runner.launches_ahead:
            self._device.launch_ahead()
        batcher.expect(speed.seconds_by_tokens)
        self._batchers[bundle.name] = batcher
        self._tasks.append(asyncio.create_task(self._work(batcher, observer), name=f"batches of {bundle.name}"))
        log.info(
            "model %s ready: %s, variant %s on %s, %.0f tokens/s in %s of %d tokens, loaded in %.2f s",
            bundle.name,
            bundle.manifest.task,
            runner.variant_name,
            runner.provider,
            lanes / speed.seconds_per_token,
            "batches" if lanes == 1 else f"{lanes} batches at once",
            budget,
            time.perf_counter() - started_at,
        )
        return Loaded(
            runner.variant_name,
            runner.provider,
            budget,
            lanes,
            bundle.identity,
            runner.threads,
            speed.seconds_per_token,
            speed.seconds_by_tokens,
        )

    async def _work(self, batcher: SequenceBatcher, observer: EngineObserver) -> None:
        watch = asyncio.create_task(self._tick(batcher, observer))
        try:
            await batcher.work()
        except EngineLost as error:
            log.critical("the device failed: %s", error.__cause__ or error)
            self._lose(error)
        except Exception:
            log.critical("the batch loop failed", exc_info=True)
            self._lose(EngineLost("The engine failed and is being replaced. Retry in a few seconds."))
        finally:
            watch.cancel()

    def _lose(self, error: EngineLost) -> None:
        for batcher in self._batchers.values():
            batcher.close(error)
        if not self.lost.done():
            self.lost.set_result(error)

    async def _tick(self, batcher: SequenceBatcher, observer: EngineObserver) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            batcher.expire()
            observer.queued(batcher.statistics)
            if self._running and min(self._running.values()) < time.monotonic() and not self.lost.done():
                log.critical("the device is stuck: a batch that should have been back long ago still runs")
                self._lose(EngineLost("The device does not answer and the engine is replaced. Retry in a few seconds."))

    async def infer(
        self, model: str, sequences: Sequence[TokenSequence], timeline: Timeline | None = None
    ) -> list[SequenceResult]:
        return await self._batchers[model].infer(sequences, list(map(len, sequences)), timeline)

    def submit(self, model: str, sequences: Sequence[TokenSequence], timeline: Timeline | None = None) -> SubmittedJob:
        """Admit a request at once or raise, as `infer` does, for whoever cannot wait for each."""
        return self._batchers[model].submit(sequences, list(map(len, sequences)), timeline)

    def withdraw(self, model: str, job: SubmittedJob) -> None:
        """Run no more of a submitted request."""
        self._batchers[model].withdraw(job)

    def check(self, model: str, sequences: int) -> None:
        self._batchers[model].check(sequences)

    def statistics(self) -> Mapping[str, QueueStatistics]:
        return {name: batcher.statistics for name, batcher in self._batchers.items()}

    async def close(self) -> None:
        if not self.lost.done():
            await asyncio.gather(*(batcher.drain() for batcher in self._batchers.values()))
        for batcher in self._batchers.values():
            batcher.close(NotReady("The service is shutting down. Retry in a few seconds."))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # It is idle, but for a model that is loading or a device that is stuck: neither is waited for.
        for threads in (self._thread, self._waiter, self._lanes):
            threads.shutdown(wait=False)


def _runs_as(before: Loaded, runner: Runner) -> bool:
    """Whether a model runs as it did before, so that it is as fast."""
    return (before.variant, before.provider, before.threads) == (runner.variant_name, runner.provider, runner.threads)


def stuck_after_s(timeout_s: float, full_batch_s: float) -> float:
    """Return for how long a batch may run until the device is taken for lost."""
    return max(STUCK_S, STUCK_TIMEOUTS * timeout_s, STUCK_BATCHES * full_batch_s)


def _launch(
    runner: Runner, batch: Sequence[TokenSequence], begun: threading.Event
) -> Callable[[], list[SequenceResult]]:
    try:
        return runner.launch(batch)
    finally:
        begun.set()


def _run(runner: Runner, batch: Sequence[TokenSequence], begun: threading.Event) -> list[SequenceResult]:
    return _launch(runner, batch, begun)()


def _finish(launched: "Future[Callable[[], list[SequenceResult]]]") -> list[SequenceResult]:
    return launched.result()()
