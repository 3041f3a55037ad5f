"""Continuous batching of token sequences under a token budget.

Whenever the device has a slot, a worker fills a batch with what waits: no timer, no minimum. Work that was cancelled or is
past its deadline is dropped before it runs. If a batch fails, its sequences run again one by one, so that a poisoned input
fails alone; in halves, if it did not fit into the device's memory. A lost engine fails every waiter.

Lives on one event loop and is called from it alone.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from app.engine.admission import Admission
from app.engine.callers import Caller
from app.engine.estimate import Estimate
from app.engine.messages import BatchRan, QueueStatistics, Timeline
from app.engine.queue import Item, Job, Queue
from app.engine.rates import Rates
from app.engine.slots import Slots
from app.errors import DeadlineExceeded, EngineLost, Internal, NotReady, OutOfDeviceMemory

log = logging.getLogger(__name__)

HOPE_FOR_S: Final = 1.0
"""How long a job that was admitted runs before it can be given up: then its own batches have shown how fast the device is."""
SURELY: Final = 1.25
"""How many times longer than there is time left the rest of a job must be estimated to take for it to be given up."""

P = TypeVar("P")
R = TypeVar("R")


class BatchObserver(Protocol):
    """Called with what the batcher does, on the event loop. Must not raise or block."""

    def started(self, queued_s: Sequence[float]) -> None:
        """The first sequences of some requests are about to run, in one batch, after so many seconds in the queue."""

    def ran(self, batch: BatchRan) -> None:
        """A batch was answered."""

    def cancelled(self) -> None:
        """A request's caller went away before its answer."""


class Batcher(Generic[P, R]):
    """Answers sequences in batches of at most `budget_tokens` tokens; one that is longer runs alone."""

    def __init__(
        self,
        run: Callable[[list[P], int], Awaitable[list[R]]],
        *,
        budget_tokens: int,
        admission: Admission,
        slots: Slots,
        observer: BatchObserver,
        threads: Sequence[int] = (),
        launches_ahead: bool = False,
        rates: Rates | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start no work yet: `work` is the loop that does.

        Args:
            run: Answers payloads in their order, with so many threads. Raises EngineLost if nothing will ever be answered again.
            budget_tokens: Most tokens that share a batch. A longer sequence runs alone.
            admission: Which requests are admitted, and how long they may take.
            slots: Of the device, shared by the batchers of all models.
            observer: Called with every batch.
            threads: How many of them a run may have, from the fewest, each a slot of the device. None: it takes the whole device.
            launches_ahead: Whether it may be called with a full batch while it runs another, and answers them in order.
            rates: What callers have run of late, shared by the batchers of all models.
            clock: Seconds that never go back.
        """
        self._run = run
        self._budget_tokens = budget_tokens
        self._admission = admission
        self._max_wait_s = admission.max_wait_s
        self._slots = slots
        self._observer = observer
        self._threads: Final = {min(count, slots.size): count for count in threads} or {slots.size: 0}
        """Of a run with so many slots."""
        self._fewest_slots: Final = min(self._threads)
        self.lanes: Final = slots.size // self._fewest_slots
        """How many batches run at once, if each has the fewest slots."""
        self._launches_ahead = launches_ahead
        self._rates = Rates() if rates is None else rates
        self._clock = clock
        self.queue: Queue[P, R] = Queue()
        self.estimate = Estimate(budget_tokens, self.lanes)
        # One idle worker at a time is woken, and wakes the next if it leaves something in the queue. If all were woken, each
        # would run once for every request, and hold slots of the device for an empty queue.
        self._sleeping: list[asyncio.Future[None]] = []
        self._is_one_awake = False
        self._closed: EngineLost | NotReady | None = None
        self._running_tokens = 0
        self._running_sequences = 0
        self._last_met = 1
        """Sequences that were not answered when the last request came, with its own."""
        self._answered_at = -math.inf

    @property
    def statistics(self) -> QueueStatistics:
        """What there is to run, and how long that takes as the last batches went."""
        queue, estimate = self.queue, self.estimate
        return QueueStatistics(
            queue.sequences,
            queue.tokens,
            estimate.seconds(self._running_tokens),
            estimate.seconds(queue.tokens),
            estimate.seconds(queue.turn_tokens),
            queue.backlogs(),
        )

    def check(self, sequences: int, caller: Caller | None = None) -> None:
        """Raise if a job of this many sequences would not be admitted now, as `infer` does."""
        if self._closed is not None:
            raise type(self._closed)(self._closed.message)
        if caller is not None:
            self._rates.check(caller, self._clock())
        # No request waits for more than all there is, at its share: most are admitted without making statistics, at half the cost.
        at_most_s = self.estimate.at_most(self._running_tokens + self.queue.tokens)
        if at_most_s * self.queue.crowd(caller) > self._max_wait_s:
            self._admission.refuse_long_wait(self.statistics.wait_s(sequences, caller))

    async def infer(
        self,
        payloads: Sequence[P],
        tokens: Sequence[int],
        timeline: Timeline | None = None,
        caller: Caller | None = None,
    ) -> list[R]:
        """Return the answers to `payloads`, in order. Cancelling the call withdraws what has not run.

        Args:
            payloads: At least one sequence.
            tokens: The length of each.
            timeline: Filled in as the request goes, if given.
            caller: Whose request it is.

        Raises:
            Overloaded: the queue is too long; nothing was admitted. Retry later.
            RateLimited: the caller has run too much of late; nothing was admitted. Retry later.
            ValidationFailed: it could not be answered in time even alone; nothing was admitted.
            DeadlineExceeded: the answer was not there in time. A retry may help.
            Internal: one of the sequences cannot be run. A retry does not help.
            EngineLost: the device failed for good. A retry helps once the engine was replaced.
            NotReady: the batcher is closed.
        """
        job = self.submit(payloads, tokens, timeline, caller)
        try:
            return await job.future
        except asyncio.CancelledError:
            self.withdraw(job)
            raise
        finally:
            del job  # its future has what is raised, which has this frame: the job would wait for the garbage collector

    def submit(
        self,
        payloads: Sequence[P],
        tokens: Sequence[int],
        timeline: Timeline | None = None,
        caller: Caller | None = None,
    ) -> Job[P, R]:
        """Admit a job at once or raise, as `infer` does; its `future` is set when it is over."""
        if not tokens or min(tokens) < 1:  # it would never end, or take a batch with it
            raise Internal("The engine was asked to run a request without sequences, or a sequence without tokens.")
        self.check(len(payloads), caller)
        own_tokens = sum(tokens)
        self._refuse_late_answer(len(tokens), own_tokens, caller)
        now = self._clock()
        future: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        job = Job(payloads, tokens, now, now + self._admission.timeout_s, future, timeline, caller)
        if caller is not None:
            self._rates.charge(caller, own_tokens, now)
        if timeline is not None:
            timeline.admitted_at = now
        self.queue.add(job, own_tokens)
        self._last_met = self.queue.sequences + self._running_sequences
        self._wake_one()
        if self._launches_ahead and self._is_full():
            self._slots.look_again()
        return job

    def _refuse_late_answer(self, sequences: int, own_tokens: int, caller: Caller | None) -> None:
        """Refuse a job that cannot be answered in time: it would take the device from others for nothing."""
        queue, estimate = self.queue, self.estimate
        at_most_s = estimate.at_most(self._running_tokens + queue.tokens + own_tokens)
        if at_most_s * queue.crowd(caller) <= self._admission.timeout_s:
            return
        # When nothing runs, nothing shows whether a slow device has recovered: the job itself will show it.
        is_idle = not self._running_tokens and not queue.tokens
        own_s = estimate.seconds_as_measured(own_tokens) if is_idle else estimate.seconds(own_tokens)
        self._admission.refuse_long_run(own_s, inputs=sequences, tokens=own_tokens)
        self._admission.refuse_late_answer(self.statistics.wait_s(sequences, caller) + own_s)

    def withdraw(self, job: Job[P, R]) -> None:
        """Drop what has not run of a job whose caller is gone."""
        if self.queue.withdraw(job):
            self._observer.cancelled()
        elif not job.future.cancelled():
            job.future.exception()  # it ended in the same iteration of the loop: mark its error as retrieved

    async def work(self) -> None:
        """Run batches until cancelled or the engine is lost. Run exactly one such loop.

        Raises:
            EngineLost: the runner said so; every waiter has failed with it.
        """
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self.lanes + self._launches_ahead):
                    workers.create_task(self._work())
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__

    async def _work(self) -> None:
        while True:
            await self._wait_for_work()
            wanted_at = self._clock()
            async with self._slots.take(self.share, self._is_full) as slots:
                batch = self._take()
                self._is_one_awake = False
                self._wake_one()
                if not batch:
                    continue
                try:
                    await self._run_batch(batch, slots, wanted_at)
                except EngineLost as lost:
                    self.close(lost)
                    raise

    async def _wait_for_work(self) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._sleeping.append(woken)
        self._wake_one()
        await woken

    def _wake_one(self) -> None:
        if self.queue and self._sleeping and not self._is_one_awake:
            self._is_one_awake = True
            self._sleeping.pop().set_result(None)

    def _is_full(self) -> bool:
        return self.queue.tokens >= self._budget_tokens

    def share(self, free: int, others: int) -> int:
        """Return how many of the free slots a batch takes: as many as there are for each of those that wait or are to come.

        Callers that wait for their answers one after the other are soon there again: as many sequences as the last request met are
        expected, in batches like this one.
        """
        if free < self._fewest_slots:
            return 0
        to_come = math.ceil(self._last_met / max(1, self.queue.sequences))
        batches = max(math.ceil(self.queue.tokens / self._budget_tokens), to_come) + others
        return max((slots for slots in self._threads if slots <= free // batches), default=self._fewest_slots)

    def _take(self) -> list[Item[P, R]]:
        self.expire()
        batch, queued_s = self.queue.take(self._budget_tokens, self._clock())
        if queued_s:
            self._observer.started(queued_s)
        return batch

    async def _run_batch(self, batch: list[Item[P, R]], slots: int, wanted_at: float) -> None:
        running_tokens = sum(job.tokens[i] for job, i in batch)
        self._running_tokens += running_tokens
        self._running_sequences += len(batch)
        try:
            error = await self._run_together(batch, slots, wanted_at)
            if error is not None:
                await self._run_again(batch, slots, error)
        finally:
            self._running_tokens -= running_tokens
            self._running_sequences -= len(batch)

    async def _run_together(
        self, batch: list[Item[P, R]], slots: int, wanted_at: float | None = None
    ) -> Exception | None:
        """Answer these sequences with one run, or return why it failed. With `wanted_at`, the estimate learns from it.

        Raises:
            EngineLost: nothing will ever be answered again.
        """
        taken_at = self._clock()
        lengths = [job.tokens[i] for job, i in batch]
        tokens = sum(lengths)
        try:
            results = await self._run_payloads([job.payloads[i] for job, i in batch], self._threads[slots])
        except EngineLost:
            raise
        except Exception as error:
            return error
        finally:
            now, started_at = self._clock(), self._slots.started_at(taken_at)
            if self._launches_ahead and wanted_at is not None:  # until then it waited behind a batch of this model
                wanted_at = max(wanted_at, self._answered_at)
            self._answered_at = self._slots.answered_at = now
        if wanted_at is not None:
            # From wanting the device to having the answer: a request waits for other models' batches, too. With more slots it
            # takes as much longer in fewer.
            self.estimate.learn(tokens, taken_at - wanted_at + (now - taken_at) * slots / self._fewest_slots)
        share = slots / self._slots.size
        ran = BatchRan(len(batch), tokens, max(lengths), started_at, now - started_at, share)
        self._observer.ran(ran)
        for (job, i), result in zip(batch, results, strict=True):
            self.queue.answer(job, i, result, ran)
        return None

    async def _run_again(self, batch: list[Item[P, R]], slots: int, error: Exception) -> None:
        """Answer the sequences of a batch that failed: by its halves if it did not fit into memory, else one by one."""
        if isinstance(error, OutOfDeviceMemory) and len(batch) > 1:
            log.warning("%d sequences did not fit into memory together; the halves run instead: %s", len(batch), error)
            size = -(-len(batch) // 2)
        else:
            log.error("a batch of %d sequences failed; each runs again alone", len(batch), exc_info=error)
            size = 1
        for first in range(0, len(batch), size):
            part = [(job, i) for job, i in batch[first : first + size] if not job.future.done()]
            failed = await self._run_together(part, slots) if part else None
            if failed is None:
                continue
            if len(part) > 1:
                await self._run_again(part, slots, failed)
                continue
            [(job, i)] = part
            log.error("a sequence of %d tokens failed alone", job.tokens[i], exc_info=failed)
            why = (
                "does not fit into the device's memory, even alone. Send a shorter text, or retry when the device has more left."
                if isinstance(failed, OutOfDeviceMemory)
                else "could not be run. The log of the service has the cause."
            )
            self.queue.fail(job, Internal(f"inputs[{i}] {why}"))

    async def _run_payloads(self, payloads: list[P], threads: int) -> list[R]:
        results = await self._run(payloads, threads)
        if len(results) != len(payloads):
            raise RuntimeError(f"The runner gave {len(results)} results for {len(payloads)} sequences.")
        return results

    def expire(self) -> None:
        """Fail the jobs that are past their deadline. Call it now and then, as a stuck runner takes no batch."""
        for job in self.queue.late(self._clock()):
            self.queue.fail(
                job,
                DeadlineExceeded(
                    f"No answer within {self._admission.timeout_s:g} s. Send fewer inputs at once, or retry when there is "
                    "less load."
                ),
            )

    def give_up(self) -> None:
        """Fail the jobs that cannot be answered in time any more, as the device turned out slower than it was estimated to be.

        They would take it from others until their deadline, for nothing. Call it now and then.
        """
        now = self._clock()
        for job in self.queue.unanswered:
            left_s = job.deadline - now
            if now - job.admitted_at < HOPE_FOR_S or job.next_index >= len(job.tokens):
                continue
            if self.estimate.seconds(sum(job.tokens[job.next_index :])) > SURELY * left_s:
                self.queue.fail(job, self._admission.too_slow(job.next_index, len(job.tokens), now - job.admitted_at))

    async def drain(self) -> None:
        """Wait until every admitted job is answered."""
        await self.queue.empty()

    def close(self, reason: EngineLost | NotReady) -> None:
        """Admit nothing more, and fail what is not answered."""
        self._closed = reason
        for job in self.queue.unanswered:
            self.queue.fail(job, type(reason)(reason.message))
