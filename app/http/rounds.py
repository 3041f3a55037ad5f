"""Runs what a request needs in rounds, within the time that a request may take.

Each round is admitted, takes turns and counts as a request of so many sequences does. A round that only makes an answer more exact
is left out when the engine refuses it, time is nearly over, or the service stops.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.messages import Timeline
from app.errors import DeadlineExceeded, Overloaded, RateLimited, ValidationFailed
from app.tasks.rounds import PreparedRounds, Results, Round, run_rounds, too_many_runs
from app.telemetry.record import RequestRecord

SHARE: Final = 0.8
"""The share of a request's time that rounds may take: those that are needed by the speed that was measured, which long sequences
do not reach; all others by the clock. The rest is for the answer."""


async def run_in_time(
    prepared: PreparedRounds,
    infer: Callable[[list[TokenSequence], Timeline | None], Awaitable[list[SequenceResult]]],
    more: Callable[[Results], Awaitable[Round | None]],
    *,
    timeline: Timeline | None,
    record: RequestRecord,
    timeout_s: float,
    most_tokens: int | None = None,
    is_stopping: Callable[[], bool] = bool,
) -> None:
    """Run all rounds, after which the predictions are there.

    Args:
        prepared: The inputs.
        infer: Runs sequences.
        more: Calls `prepared.more`.
        timeline: Filled in, if given.
        record: Gets how many sequences and tokens ran.
        timeout_s: How long all rounds may take, seconds.
        most_tokens: How many tokens the model answers in that time; None if that is not known.
        is_stopping: Returns whether the service is.

    Raises:
        DeadlineExceeded: those that are needed took longer.
        ValidationFailed: one of these could not be answered in time even alone, or its results show that an input cannot be.
        Overloaded: one of these could not be answered in time beside other requests.
        ServiceError: as the engine raises it for one of these.
    """
    begun_at = asyncio.get_running_loop().time()
    record.sequences = record.tokens = 0

    async def run(following: Round) -> Results:
        if following.is_needed and most_tokens is not None and following.tokens > SHARE * most_tokens:
            raise too_many_runs(following)
        if not following.is_needed and is_stopping():
            return None
        own = None if timeline is None else Timeline()
        share = 1.0 if following.is_needed else SHARE
        record.sequences += len(following.sequences)
        record.tokens += following.tokens
        try:
            async with asyncio.timeout_at(begun_at + share * timeout_s):
                results = await infer(following.sequences, own)
        except (TimeoutError, DeadlineExceeded, Overloaded, RateLimited, ValidationFailed) as error:
            if following.is_needed:
                raise _told(error, following, timeout_s) from None
            record.sequences -= len(following.sequences)
            record.tokens -= following.tokens
            return None
        if timeline is not None and own is not None:
            timeline.add(own)
        return results

    await run_rounds(prepared, run, more)


def _told(error: Exception, following: Round, timeout_s: float) -> Exception:
    """Return the error of a round that is needed, in terms of what the caller has sent: the engine's count its sequences."""
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(
            f"No answer within {timeout_s:g} s. Send fewer inputs at once, or retry when there is less load."
        )
    if isinstance(error, ValidationFailed):
        return too_many_runs(following)
    if isinstance(error, Overloaded):
        return Overloaded(
            f"The inputs need {len(following.sequences)} runs of the model, for which other requests leave no time. Retry after the time "
            "in Retry-After, or send fewer or shorter inputs at once.",
            retry_after_s=error.retry_after_s,
        )
    return error
