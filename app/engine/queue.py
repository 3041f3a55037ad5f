"""The requests of one model that are not answered yet, and whose sequence is next.

A request's sequences wait in a job. Callers take turns by their shares, and the jobs of a caller take turns of one sequence, so
a request of 512 texts and a request of one advance at the same pace. Every sequence is answered exactly once: with its result,
or with its job's error.

Lives on one event loop. Knows no model: a payload is opaque and counts a number of tokens.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Generic, TypeVar

from app.engine.callers import Caller
from app.engine.messages import Backlog, BatchRan, Timeline
from app.engine.shares import Line, Lines

P = TypeVar("P")
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class Job(Generic[P, R]):
    """The sequences of one request. `future` is set when all of them are answered, or one of them failed.

    `timeline` is None unless the request is traced. `next_index` is the next sequence to run, `answers` are those of the
    sequences that ran, by index.
    """

    payloads: Sequence[P]
    tokens: Sequence[int]
    admitted_at: float
    deadline: float
    future: asyncio.Future[list[R]]
    timeline: Timeline | None = None
    caller: Caller | None = None
    next_index: int = 0
    answers: dict[int, R] = field(default_factory=dict)


Item = tuple[Job[P, R], int]
"""One sequence: its job, and its index there."""


class _JobLine(Line[Job[P, R]]):
    """The jobs of one caller: `tokens` are those that have not run, `turn_tokens` those of the next sequence of every job.

    `got` are those that ran since it last waited with nothing.
    """

    def __init__(self, name: str | None, number: int) -> None:
        super().__init__(name, number)
        self.tokens = 0
        self.turn_tokens = 0
        self.got = 0


class Queue(Generic[P, R]):
    """The jobs of one model. `sequences` and `tokens` count what has not run yet."""

    def __init__(self) -> None:
        self.sequences = 0
        self.tokens = 0
        self._lines: Lines[_JobLine[P, R]] = Lines(_JobLine)
        self._nobodys = self._lines.of(None)
        # Every unanswered job in the order of admission, which is the order of deadlines as all have one timeout.
        self._unanswered: dict[Job[P, R], None] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __bool__(self) -> bool:
        """Whether a sequence may be waiting. A job that is over keeps its place until its turn comes."""
        return bool(self._lines)

    @property
    def turn_tokens(self) -> int:
        """Tokens of the next sequence of every job that waits."""
        return sum(line.turn_tokens for _, _, line in self._lines.waiting)

    def backlogs(self) -> dict[str, Backlog]:
        """Return what each caller waits with, by name."""
        return {
            line.name: Backlog(line.share, line.tokens, line.turn_tokens, line.got)
            for _, _, line in self._lines.waiting
            if line.name is not None and line.tokens
        }

    def crowd(self, caller: Caller | None) -> float:
        """Return how many times longer a caller's work takes at most than if it were alone, for all that others want."""
        if caller is None:
            return 1.0
        others = sum(line.share for _, _, line in self._lines.waiting if line.name != caller.name)
        return 1.0 + others / caller.share

    def add(self, job: Job[P, R], tokens: int) -> None:
        """Queue all sequences of a job, which have so many tokens."""
        line = self._nobodys if job.caller is None else self._lines.of(job.caller)
        if not line.turns:
            line.got = 0
        self._lines.push(line, job)
        self._unanswered[job] = None
        self.sequences += len(job.payloads)
        self.tokens += tokens
        line.tokens += tokens
        line.turn_tokens += job.tokens[0]
        self._is_empty.clear()

    def take(self, budget_tokens: int, now: float) -> tuple[list[Item[P, R]], list[float]]:
        """Take turns until the next sequence is over the budget. That sequence is first in the next batch.

        Returns:
            The sequences, and how many seconds each job waited that starts with this batch.
        """
        batch: list[Item[P, R]] = []
        queued_s: list[float] = []
        room = budget_tokens
        lines = self._lines
        waiting = lines.waiting
        while waiting:
            line = waiting[0][2]
            turns = line.turns
            if not turns:
                break
            job = turns[0]
            if job.future.done():
                turns.popleft()
                lines.served(0)
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
            line.tokens -= tokens
            line.turn_tokens -= tokens
            line.got += tokens
            turns.popleft()
            if job.next_index < len(job.tokens):
                turns.append(job)
                line.turn_tokens += job.tokens[job.next_index]
            if len(waiting) > 1:
                lines.served(tokens)
        self.tokens -= budget_tokens - room
        self.sequences -= len(batch)
        return batch, queued_s

    def answer(self, job: Job[P, R], index: int, result: R, ran: BatchRan) -> None:
        """Set the result of a sequence, and answer its job if that was the last one."""
        if job.future.done():
            return
        if job.timeline is not None and ran not in job.timeline.runs[-1:]:
            job.timeline.runs.append(ran)  # once, however many of its sequences were in the batch
        job.answers[index] = result
        if len(job.answers) == len(job.payloads):
            self._remove(job)
            job.future.set_result([job.answers[i] for i in range(len(job.answers))])

    def fail(self, job: Job[P, R], error: Exception) -> None:
        """Give a job an error, unless it is over."""
        if not job.future.done():
            self._remove(job)
            job.future.set_exception(error)

    def withdraw(self, job: Job[P, R]) -> bool:
        """Drop a job whose caller is gone. Return False if it was already over."""
        if job not in self._unanswered:
            return False
        self._remove(job)
        job.future.cancel()
        return True

    def late(self, now: float) -> list[Job[P, R]]:
        """Return the jobs that are past their deadline."""
        return list(takewhile(lambda job: job.deadline <= now, self._unanswered))

    @property
    def unanswered(self) -> list[Job[P, R]]:
        """All jobs that are not over."""
        return list(self._unanswered)

    async def empty(self) -> None:
        """Wait until every job is over."""
        await self._is_empty.wait()

    def _remove(self, job: Job[P, R]) -> None:
        """Forget a job. `take` skips its turn."""
        del self._unanswered[job]
        if job.next_index < len(job.tokens):
            line = self._lines.by_name[None if job.caller is None else job.caller.name]
            tokens = sum(job.tokens[job.next_index :])
            self.sequences -= len(job.tokens) - job.next_index
            self.tokens -= tokens
            line.tokens -= tokens
            line.turn_tokens -= job.tokens[job.next_index]
        if not self._unanswered:
            self._is_empty.set()
