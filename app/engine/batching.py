"""Continuous batching of token sequences under a token budget.

A request's sequences wait in a job. Whenever the runner is free it takes what waits: no timer, no minimum. Jobs take
turns of one sequence, so a request of 512 texts and a request of one advance at the same pace. Work that was cancelled
or is past its deadline is dropped before it runs. If a batch fails, its sequences run again one by one, so that a
poisoned input fails alone; in halves, if it did not fit into the device's memory. A lost engine fails every waiter.

Lives on one event loop and is called from it alone. Knows no model: a payload is opaque and counts a number of tokens.
Imports only `errors`, the device's turns and what it tells.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from time import monotonic
from typing import Generic, Protocol, TypeVar

from app.engine.estimate import Pace
from app.engine.messages import BatchRan, QueueStatistics, Timeline
from app.engine.slots import Device
from app.errors import DeadlineExceeded, EngineLost, Internal, NotReady, OutOfDeviceMemory, Overloaded

log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class Job(Generic[P, R]):
    """The sequences of one request. `answers` fills up as they run; `future` is set when none is missing.

    `timeline` is None if nobody wants to know.

    `future` raises what `Batcher.infer` raises. Everything else is the batcher's own.
    """

    payloads: Sequence[P]
    tokens: Sequence[int]
    admitted_at: float
    deadline: float
    future: asyncio.Future[list[R]]
    timeline: Timeline | None = None
    next_index: int = 0
    answered: int = 0
    answers: dict[int, R] = field(default_factory=dict)


class BatchObserver(Protocol):
    """Hears what the batcher does. Called on the event loop; must not raise or block."""

    def started(self, queued_s: Sequence[float]) -> None:
        """The first sequences of some requests are about to run, in one batch, after so long."""

    def ran(self, batch: BatchRan) -> None:
        """A batch was answered."""

    def cancelled(self) -> None:
        """A request's caller went away before its answer."""


def refuse_long_wait(wait_s: float, max_queue_s: float, timeout_s: float) -> None:
    """Raise if a request would wait for longer than is accepted.

    Raises:
        Overloaded: it would. A retry may help later.
    """
    if wait_s > min(max_queue_s, timeout_s):
        raise Overloaded(
            f"The queue is full: a request would wait about {wait_s:.1f} s. Retry after the time in Retry-After.",
            retry_after_s=max(1, math.ceil(wait_s - max_queue_s / 2)),
        )


class Batcher(Generic[P, R]):
    """Answers sequences in batches of at most `budget_tokens` tokens; one that is longer runs alone.

    Every admitted sequence is answered exactly once: with its result, or with its job's error.
    """

    def __init__(
        self,
        run: Callable[[list[P]], Awaitable[list[R]]],
        *,
        budget_tokens: int,
        max_queue_s: float,
        timeout_s: float,
        device: Device,
        observer: BatchObserver,
        lanes: int = 1,
        ahead: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start no work yet: `work` is the loop that does.

        Args:
            run: Answers payloads in their order. Raises EngineLost if nothing will ever be answered again.
            budget_tokens: Most tokens that share a batch. A longer sequence runs alone.
            max_queue_s: Longest estimated wait at which a job is still admitted.
            timeout_s: Longest time from admission to answer.
            device: Shared by the batchers of one device. It is first come, first served, so models take turns.
            observer: Hears of every batch.
            lanes: How many batches `run` may be called with at once. Each takes its share of the device.
            ahead: Whether it may be called with a full batch while it runs another, and answers them in order.
            clock: Seconds that never go back.
        """
        self._run = run
        self.budget_tokens = budget_tokens
        self._max_queue_s = max_queue_s
        self._timeout_s = timeout_s
        self._max_wait_s = min(max_queue_s, timeout_s)
        self._device = device
        self._observer = observer
        self._lanes = lanes
        self._ahead = ahead
        self._clock = clock
        self._turns: deque[Job[P, R]] = deque()
        # Every unanswered job in the order of admission, which is the order of deadlines as all have one timeout.
        self._unanswered: dict[Job[P, R], None] = {}
        # Of the workers that have nothing to do, one at a time is woken, and wakes the next if it leaves something: all at once
        # would cost every request a turn of each, and hold turns of the device for an empty queue.
        self._sleeping: list[asyncio.Future[None]] = []
        self._is_one_awake = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed: EngineLost | NotReady | None = None
        self._pace = Pace(budget_tokens, lanes)
        self._running_tokens = 0
        self._turn_tokens = 0  # the next sequence of every job that waits
        self._answered_at = -math.inf
        self.queued_sequences = 0
        self.queued_tokens = 0

    def expect(self, seconds_by_tokens: Sequence[tuple[int, float]]) -> None:
        """Say how long batches of some sizes take, from the smallest to the largest, before the first has shown it."""
        self._pace.expect(seconds_by_tokens)

    @property
    def statistics(self) -> QueueStatistics:
        """What there is to run, and how long that takes as the last batches went."""
        return QueueStatistics(
            self.queued_sequences,
            self.queued_tokens,
            self._pace.seconds(self._running_tokens),
            self._pace.seconds(self.queued_tokens),
            self._pace.seconds(self._turn_tokens),
        )

    def check(self, sequences: int) -> None:
        """Raise if a job of this many sequences would not be admitted now, as `infer` does."""
        if self._closed is not None:
            raise type(self._closed)(self._closed.message)
        # No request waits for more than all there is: most are admitted without making statistics, at half the cost.
        if self._pace.at_most(self._running_tokens + self.queued_tokens) > self._max_wait_s:
            refuse_long_wait(self.statistics.wait_s(sequences), self._max_queue_s, self._timeout_s)

    async def infer(self, payloads: Sequence[P], tokens: Sequence[int], timeline: Timeline | None = None) -> list[R]:
        """Return the answers to `payloads`, in order. Cancelling the call withdraws what has not run.

        Args:
            payloads: At least one sequence.
            tokens: The length of each.
            timeline: Is told what became of the request, if given.

        Raises:
            Overloaded: the queue is too long; nothing was admitted. Retry later.
            DeadlineExceeded: the answer was not there in time. A retry may help.
            Internal: one of the sequences cannot be run. A retry does not help.
            EngineLost: the device failed for good. A retry helps once the engine was replaced.
            NotReady: the batcher is closed.
        """
        job = self.submit(payloads, tokens, timeline)
        try:
            return await job.future
        except asyncio.CancelledError:
            self.withdraw(job)
            raise

    def submit(self, payloads: Sequence[P], tokens: Sequence[int], timeline: Timeline | None = None) -> Job[P, R]:
        """Admit a job at once or raise, as `infer` does; its `future` is set when it is over."""
        self.check(len(payloads))
        self._refuse_late_answer(tokens)
        now = self._clock()
        future: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        job = Job(payloads, tokens, now, now + self._timeout_s, future, timeline)
        if timeline is not None:
            timeline.admitted_at = now
        self._turns.append(job)
        self._unanswered[job] = None
        self.queued_sequences += len(payloads)
        self.queued_tokens += sum(tokens)
        self._turn_tokens += tokens[0]
        self._wake_one()
        self._idle.clear()
        if self._ahead and self._is_full():
            self._device.look_again()
        return job

    def _refuse_late_answer(self, tokens: Sequence[int]) -> None:
        """Refuse a job that cannot be answered in time: it would keep the device from others for nothing."""
        own_tokens = sum(tokens)
        if self._pace.at_most(self._running_tokens + self.queued_tokens + own_tokens) <= self._timeout_s:
            return
        # With nothing to learn from, what was slow may be so no more: the job shows it.
        is_idle = not self._running_tokens and not self.queued_tokens
        own_s = self._pace.seconds_as_measured(own_tokens) if is_idle else self._pace.seconds(own_tokens)
        if own_s > self._timeout_s:
            fitting = max(1, int(len(tokens) * self._timeout_s / own_s))
            raise DeadlineExceeded(
                f"{len(tokens)} inputs of {own_tokens} tokens would take about {own_s:.0f} s, the most is "
                f"{self._timeout_s:g} s. Send at most about {fitting} such inputs at once."
            )
        wait_s = self.statistics.wait_s(len(tokens))
        if wait_s + own_s > self._timeout_s:
            raise Overloaded(
                f"The request would be answered in about {wait_s + own_s:.1f} s, after the {self._timeout_s:g} s that "
                "requests may take. Retry after the time in Retry-After, or send fewer inputs at once.",
                retry_after_s=max(1, math.ceil(wait_s + own_s - self._timeout_s)),
            )

    def withdraw(self, job: Job[P, R]) -> None:
        """Run no more of a job that nobody waits for."""
        if job in self._unanswered:
            self._forget(job)
            job.future.cancel()
            self._observer.cancelled()
        elif not job.future.cancelled():
            job.future.exception()  # it was over in the same turn: mark an error as seen

    async def work(self) -> None:
        """Run batches until cancelled or the engine is lost. Run exactly one such loop.

        Raises:
            EngineLost: the runner said so; every waiter has been told.
        """
        workers = [asyncio.create_task(self._work()) for _ in range(self._lanes + self._ahead)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()

    async def _work(self) -> None:
        while True:
            await self._wait_for_work()
            wanted_at = self._clock()
            async with self._device.turn(self._device.room // self._lanes, self._is_full):
                batch = self._take()
                self._is_one_awake = False
                self._wake_one()
                if not batch:
                    continue
                try:
                    await self._run_batch(batch, wanted_at)
                except EngineLost as lost:
                    self.close(lost)
                    raise

    async def _wait_for_work(self) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._sleeping.append(woken)
        self._wake_one()
        await woken

    def _wake_one(self) -> None:
        if self._turns and self._sleeping and not self._is_one_awake:
            self._is_one_awake = True
            self._sleeping.pop().set_result(None)

    def _is_full(self) -> bool:
        return self.queued_tokens >= self.budget_tokens

    def _take(self) -> list[tuple[Job[P, R], int]]:
        """Take turns until the next sequence is over the budget. That sequence is first in the next batch."""
        self.expire()
        batch: list[tuple[Job[P, R], int]] = []
        queued_s: list[float] = []
        room = self.budget_tokens
        now = self._clock()
        while self._turns:
            job = self._turns[0]
            if job.future.done():
                self._turns.popleft()
                continue
            tokens = job.tokens[job.next_index]
            if tokens > room and batch:
                break
            room -= tokens
            if job.next_index == 0:
                queued_s.append(now - job.admitted_at)
                if job.timeline is not None:
                    job.timeline.started_at = now
            batch.append((job, job.next_index))
            job.next_index += 1
            self._turn_tokens -= tokens
            self._turns.popleft()
            if job.next_index < len(job.tokens):
                self._turns.append(job)
                self._turn_tokens += job.tokens[job.next_index]
        if queued_s:
            self._observer.started(queued_s)
        self._running_tokens += self.budget_tokens - room
        self.queued_tokens -= self.budget_tokens - room
        self.queued_sequences -= len(batch)
        return batch

    async def _run_batch(self, batch: list[tuple[Job[P, R], int]], wanted_at: float) -> None:
        running_tokens = sum(job.tokens[i] for job, i in batch)
        try:
            error = await self._run_together(batch, wanted_at)
            if error is not None:
                await self._run_again(batch, error)
        finally:
            self._running_tokens -= running_tokens

    async def _run_together(
        self, batch: list[tuple[Job[P, R], int]], wanted_at: float | None = None
    ) -> Exception | None:
        """Answer these sequences with one run, or return why it failed. `wanted_at` makes it one to learn the speed from.

        Raises:
            EngineLost: nothing will ever be answered again.
        """
        taken_at = self._clock()
        lengths = [job.tokens[i] for job, i in batch]
        tokens = sum(lengths)
        try:
            results = await self._run_payloads([job.payloads[i] for job, i in batch])
        except EngineLost:
            raise
        except Exception as error:
            return error
        finally:
            now, started_at = self._clock(), self._device.started_at(taken_at)
            if self._ahead and wanted_at is not None:  # until then it waited behind a batch of ours
                wanted_at = max(wanted_at, self._answered_at)
            self._answered_at = self._device.answered_at = now
        if wanted_at is not None:
            # From wanting the device to having the answer: other models' turns count, as they do for whoever waits.
            self._pace.learn(tokens, now - wanted_at)
        ran = BatchRan(len(batch), tokens, max(lengths), started_at, now - started_at)
        self._observer.ran(ran)
        for (job, i), result in zip(batch, results, strict=True):
            self._answer(job, i, result, ran)
        return None

    async def _run_again(self, batch: list[tuple[Job[P, R], int]], error: Exception) -> None:
        """Answer the sequences of a batch that failed: by its halves if it did not fit into memory, else one by one."""
        if isinstance(error, OutOfDeviceMemory) and len(batch) > 1:
            log.warning("%d sequences did not fit into memory together; the halves run instead: %s", len(batch), error)
            size = -(-len(batch) // 2)
        else:
            log.error("a batch of %d sequences failed; each runs again alone", len(batch), exc_info=error)
            size = 1
        for first in range(0, len(batch), size):
            part = [(job, i) for job, i in batch[first : first + size] if not job.future.done()]
            failed = await self._run_together(part) if part else None
            if failed is None:
                continue
            if len(part) > 1:
                await self._run_again(part, failed)
                continue
            [(job, i)] = part
            log.error("a sequence of %d tokens failed alone", job.tokens[i], exc_info=failed)
            self._fail(job, Internal(f"inputs[{i}] could not be run. The log of the service has the cause."))

    async def _run_payloads(self, payloads: list[P]) -> list[R]:
        results = await self._run(payloads)
        if len(results) != len(payloads):
            raise RuntimeError(f"The runner gave {len(results)} results for {len(payloads)} sequences.")
        return results

    def _answer(self, job: Job[P, R], i: int, result: R, ran: BatchRan) -> None:
        if job.future.done():
            return
        if job.timeline is not None and ran not in job.timeline.runs[-1:]:
            job.timeline.runs.append(ran)  # once, however many of its sequences were in the batch
        job.answers[i] = result
        job.answered += 1
        if job.answered == len(job.payloads):
            self._forget(job)
            job.future.set_result([job.answers[j] for j in range(job.answered)])

    def _fail(self, job: Job[P, R], error: Exception) -> None:
        if job.future.done():
            return  # it was answered, or its caller went away, while it ran
        self._forget(job)
        job.future.set_exception(error)

    def _forget(self, job: Job[P, R]) -> None:
        """Take a job off the books. Its place among the turns is passed over later."""
        del self._unanswered[job]
        if job.next_index < len(job.tokens):
            self.queued_sequences -= len(job.tokens) - job.next_index
            self.queued_tokens -= sum(job.tokens[job.next_index :])
            self._turn_tokens -= job.tokens[job.next_index]
        if not self._unanswered:
            self._idle.set()

    def expire(self) -> None:
        """Tell the jobs that are past their deadline. Call it now and then, as a stuck runner takes no batch."""
        now = self._clock()
        for job in list(takewhile(lambda job: job.deadline <= now, self._unanswered)):
            self._fail(
                job,
                DeadlineExceeded(
                    f"No answer within {self._timeout_s:g} s. Send fewer inputs at once, or retry when there is less load."
                ),
            )

    async def drain(self) -> None:
        """Wait until every admitted job is answered."""
        await self._idle.wait()

    def close(self, reason: EngineLost | NotReady) -> None:
        """Admit nothing more, and fail what is not answered."""
        self._closed = reason
        for job in list(self._unanswered):
            self._fail(job, type(reason)(reason.message))
