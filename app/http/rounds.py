"""Runs what a request needs in rounds, within the time that a request may take.

Each round is admitted, takes turns and counts as a request of so many sequences does. A round that only makes an answer more exact
is left out when the engine refuses it, or time is nearly over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.messages import Timeline
from app.errors import DeadlineExceeded, Overloaded, RateLimited, ValidationFailed
from app.tasks.rounds import PreparedRounds, Results, Round, run_rounds, too_many_runs
from app.telemetry.record import RequestRecord

EXACT_WITHIN: Final = 0.8
"""The share of a request's time after which no round runs that is not needed. The rest is for the answer."""


async def run_in_time(
    prepared: PreparedRounds,
    infer: Callable[[list[TokenSequence], Timeline | None], Awaitable[list[SequenceResult]]],
    more: Callable[[Results], Awaitable[Round | None]],
    *,
    timeline: Timeline | None,
    record: RequestRecord,
    timeout_s: float,
) -> None:
    """Run all rounds, after which the predictions are there.

    Args:
        prepared: The inputs.
        infer: Runs sequences.
        more: Calls `prepared.more`.
        timeline: Filled in, if given.
        record: Gets how many sequences and tokens ran.
        timeout_s: How long all rounds may take, seconds.

    Raises:
        DeadlineExceeded: those that are needed took longer.
        ValidationFailed: one of these could not be answered in time even alone, or its results show that an input cannot be.
        ServiceError: as the engine raises it for one of these.
    """
    begun_at = asyncio.get_running_loop().time()
    record.sequences = record.tokens = 0

    async def run(following: Round) -> Results:
        own = None if timeline is None else Timeline()
        share = 1.0 if following.is_needed else EXACT_WITHIN
        try:
            async with asyncio.timeout_at(begun_at + share * timeout_s):
                results = await infer(following.sequences, own)
        except (TimeoutError, DeadlineExceeded, Overloaded, RateLimited, ValidationFailed) as error:
            if not following.is_needed:
                return None
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"No answer within {timeout_s:g} s. Send fewer inputs at once, or retry when there is less load."
                ) from None
            if isinstance(error, ValidationFailed):  # which speaks of the sequences as if the caller had sent them
                raise too_many_runs(len(following.sequences), following.tokens) from None
            raise
        record.sequences += len(following.sequences)
        record.tokens += following.tokens
        if timeline is not None and own is not None:
            timeline.add(own)
        return results

    await run_rounds(prepared, run, more)
