"""The engine that runs in this process: its models, one batcher for each, and the device that they share.

Its methods are called on the event loop. Imports nothing of HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from app.allocator import trim
from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.batcher import Batcher, BatchObserver
from app.engine.callers import Caller
from app.engine.golden import golden_sequences
from app.engine.messages import Loaded, Measured, QueueStatistics, Speed, Timeline
from app.engine.preparation import Prepared, prepare
from app.engine.protocols import Runner
from app.engine.queue import Job
from app.engine.rates import Rates
from app.engine.slots import Slots
from app.engine.speed_check import AFTER_S, slowness
from app.engine.threads import Threads, stuck_after_s
from app.engine.tuning import timed_batch
from app.errors import EngineLost, NotReady, Replaced

T = TypeVar("T")

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
"""How often late requests are failed and the queue is measured, seconds, whatever the device does."""
LONGEST_TICK_S: Final = 1.0
"""What lies between two ticks counts as no more than this for a batch that runs: a process that was stopped, by a paused
container or a machine that sleeps, has not seen how long the device took."""


class EngineObserver(BatchObserver, Protocol):
    """Called with one model's batches, and every tenth of a second with its queue."""

    def queued(self, queue: QueueStatistics) -> None:
        """This much waits to run."""


SequenceBatcher = Batcher[TokenSequence, SequenceResult]
SubmittedJob = Job[TokenSequence, SequenceResult]


class LocalEngine:
    """Batches and runs every model of this process on one device."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        cpus = usable_cpus()
        self._clock = clock
        self._threads = Threads(lanes=cpus)
        self._slots = Slots(cpus)
        self.rates: Final = Rates()
        self._batchers: dict[str, SequenceBatcher] = {}
        self._observers: dict[str, EngineObserver] = {}
        self._held: dict[str, list[Runner]] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._checking: dict[str, asyncio.Task[None]] = {}
        self._ticking: Final = asyncio.create_task(self._tick())
        self.lost: Final[asyncio.Future[EngineLost]] = asyncio.get_running_loop().create_future()

    async def load(
        self,
        bundle: Bundle,
        open_runner: Callable[[Bundle], Runner],
        observer: EngineObserver,
        *,
        budget_tokens: int | None,
        admission: Admission,
        previous: Measured | None = None,
        beside: bool = False,
    ) -> Loaded:
        """Load a model, warm it up with its golden answers, and serve it from now on, by its key.

        Args:
            bundle: The model.
            open_runner: Makes its runner; called in the engine's thread.
            observer: Called with its batches and its queue.
            budget_tokens: Most tokens that share a batch; None measures what is best here.
            admission: Which requests are admitted, and how long they may take.
            previous: How it ran before; see `prepare`.
            beside: Whether the batches of other models go on meanwhile.

        Raises:
            BundleError: a file is damaged, or the answers are not the golden ones.
            StartupError: the requested device does not work.
        """
        prepared = await self._threads.prepare(
            partial(prepare, bundle, open_runner, budget_tokens=budget_tokens, previous=previous), beside=beside
        )
        runner = prepared.runner
        if beside and runner.launches_ahead:
            # CUDA's provider has handles and workspaces for each thread: those of this one are made before a request needs them.
            await self._threads.prepare(partial(runner.run, golden_sequences(bundle)))
        return self.serve(bundle, prepared, observer, admission=admission)

    def serve(self, bundle: Bundle, prepared: Prepared, observer: EngineObserver, *, admission: Admission) -> Loaded:
        """Serve a model from now on, by its key; the arguments are as those of `load`."""
        runner, speed, took_s = prepared
        longest_tokens = max(speed.budget_tokens, bundle.manifest.max_length)
        # All that refers to the runner, so that it is freed at once, whatever cycles the batcher's tasks leave behind.
        held = [runner]
        stuck_s = stuck_after_s(admission.timeout_s, longest_tokens * speed.seconds_per_token)

        def run(batch: list[TokenSequence], threads: int) -> Coroutine[Any, Any, list[SequenceResult]]:
            return self._threads.run(held[0], batch, threads, stuck_s=stuck_s)

        batcher = Batcher(
            run,
            budget_tokens=speed.budget_tokens,
            admission=admission,
            slots=self._slots,
            observer=observer,
            threads=runner.threads,
            launches_ahead=runner.launches_ahead,
            rates=self.rates,
        )
        if runner.launches_ahead:
            self._slots.launch_ahead()
        batcher.estimate.expect(speed.seconds_by_tokens)
        self._batchers[bundle.key] = batcher
        self._observers[bundle.key] = observer
        self._held[bundle.key] = held
        self._working[bundle.key] = asyncio.create_task(self._work(batcher), name=f"batches of {bundle.name}")
        log.info(
            "model %s ready: %s, variant %s on %s%s, %.0f tokens/s in %s of %d tokens, loaded in %.2f s",
            bundle.name,
            bundle.manifest.task,
            runner.variant_name,
            runner.provider,
            _with_threads(runner.threads),
            batcher.lanes / speed.seconds_per_token,
            "batches" if batcher.lanes == 1 else f"{batcher.lanes} batches at once",
            speed.budget_tokens,
            took_s,
        )
        return Loaded(
            identity=bundle.identity,
            variant=runner.variant_name,
            provider=runner.provider,
            threads=[*runner.threads],
            lanes=batcher.lanes,
            speed=speed,
            version=bundle.version,
            loaded_at=time.time(),
        )

    def check_speed(
        self, bundle: Bundle, speed: Speed, found: Callable[[float], None], *, after_s: float = AFTER_S
    ) -> None:
        """See later whether a model that runs on a CPU is as fast as was remembered, while no request is there.

        Args:
            bundle: It is loaded.
            speed: What was remembered.
            found: Called in a thread with how many times as long a batch takes.
            after_s: When, in seconds.
        """
        held = self._held[bundle.key]

        async def check() -> None:
            await asyncio.sleep(after_s)
            try:
                batch, expected_s = await self._beside(partial(timed_batch, bundle, speed))
                times = await slowness(partial(self._beside, partial(_time, held, batch)), expected_s, self._is_idle)
                await self._beside(partial(found, times))
            except Exception as error:  # what is wrong with a model shows in its requests
                log.info("model %s: its speed is not checked: %s", bundle.name, error)

        self._checking[bundle.key] = asyncio.create_task(check(), name=f"check of {bundle.name}")

    async def _beside(self, work: Callable[[], T]) -> T:
        return await self._threads.prepare(work, beside=True)

    def _is_idle(self) -> bool:
        return not any(batcher.queue.unanswered for batcher in self._batchers.values())

    async def release(self, key: str) -> None:
        """Answer what was admitted for a bundle, then free its memory. Requests for it that come later raise `Replaced`."""
        if key in self._checking:
            self._checking.pop(key).cancel()
        while self._batchers[key].queue.unanswered:
            await self._batchers[key].drain()
        # From here to the end of the first await nothing can be admitted.
        batcher = self._batchers.pop(key)
        self._observers.pop(key).queued(batcher.statistics)
        batcher.close(NotReady())
        working = self._working.pop(key)
        working.cancel()
        await asyncio.wait((working,))
        await self._threads.prepare(partial(_free, self._held.pop(key)), beside=True)

    async def _work(self, batcher: SequenceBatcher) -> None:
        try:
            await batcher.work()
        except EngineLost as error:
            log.critical("the device failed: %s", error.__cause__ or error)
            self._lose(error)
        except asyncio.CancelledError:
            raise
        except BaseException:
            # Whatever it is, requests would wait for a loop that is gone.
            log.critical("the batch loop failed", exc_info=True)
            self._lose(EngineLost("The engine failed and is being replaced. Retry in a few seconds."))

    def _lose(self, error: EngineLost) -> None:
        for batcher in self._batchers.values():
            batcher.close(error)
        if not self.lost.done():
            self.lost.set_result(error)

    async def _tick(self) -> None:
        before = self._clock()
        while True:
            await asyncio.sleep(TICK_S)
            for key, batcher in self._batchers.items():
                batcher.expire()
                batcher.give_up()
                self._observers[key].queued(batcher.statistics)
            now = self._clock()
            is_stuck = self._threads.run_on(min(now - before, LONGEST_TICK_S))
            before = now
            if is_stuck and not self.lost.done():
                log.critical("the device is stuck: a batch that should have been back long ago still runs")
                self._lose(EngineLost("The device does not answer and the engine is replaced. Retry in a few seconds."))

    async def infer(
        self,
        model: str,
        sequences: Sequence[TokenSequence],
        timeline: Timeline | None = None,
        caller: Caller | None = None,
    ) -> list[SequenceResult]:
        return await self._of(model).infer(sequences, list(map(len, sequences)), timeline, caller)

    def submit(
        self,
        model: str,
        sequences: Sequence[TokenSequence],
        timeline: Timeline | None = None,
        caller: Caller | None = None,
    ) -> SubmittedJob:
        """Admit a request at once or raise, as `infer` does. Its `future` is set when it is over."""
        return self._of(model).submit(sequences, list(map(len, sequences)), timeline, caller)

    def withdraw(self, model: str, job: SubmittedJob) -> None:
        """Drop what has not run of a submitted request."""
        if model in self._batchers:  # or all its jobs are over
            self._batchers[model].withdraw(job)

    def _of(self, model: str) -> SequenceBatcher:
        if model not in self._batchers:
            raise Replaced
        return self._batchers[model]

    def check_rate(self, caller: Caller) -> None:
        self.rates.check(caller, self._clock())

    def check(self, model: str, sequences: int, caller: Caller | None = None) -> None:
        self._of(model).check(sequences, caller)

    def statistics(self) -> Mapping[str, QueueStatistics]:
        """Return what waits, by the key of the model."""
        return {key: batcher.statistics for key, batcher in self._batchers.items()}

    async def close(self) -> None:
        """Answer what was admitted, then release the device."""
        if not self.lost.done():
            await asyncio.gather(*(batcher.drain() for batcher in self._batchers.values()))
        for batcher in self._batchers.values():
            batcher.close(NotReady())
        tasks = [self._ticking, *self._working.values(), *self._checking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown()


def _with_threads(threads: Sequence[int]) -> str:
    return f" with {' or '.join(map(str, threads))} CPU thread{'s' * (max(threads) > 1)}" if threads else ""


def _time(held: Sequence[Runner], batch: Sequence[TokenSequence]) -> float:
    """Run a batch with the fewest threads, as it was measured, and return how long it took, seconds."""
    started_at = time.perf_counter()
    held[0].run(batch, min(held[0].threads, default=0))
    return time.perf_counter() - started_at


def _free(held: list[Runner]) -> None:
    """Drop the only reference to a runner, and have the system get its memory back."""
    held.clear()
    trim()
