"""How many tokens a second each caller may run: a bucket of tokens for each, which fills at its rate.

A request is admitted while its caller's bucket is not in debt, however large it is, and takes its tokens out. So a refused
request is admitted after the time that it was told, and one that is larger than the bucket is admitted, too: what comes after
it waits until the debt is paid.
"""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from app.engine.callers import Caller
from app.errors import RateLimited


class Bucket(NamedTuple):
    """So many tokens were in it at a time of the machine's monotonic clock, and so many a second came; fewer than none are a debt."""

    tokens: float
    at: float
    rate: float


def refuse_debt(caller: Caller, bucket: Bucket | None, now: float) -> None:
    """Pass if a request of a caller with this bucket may be admitted; None is a full one.

    Raises:
        RateLimited: it may not, until the debt is paid.
    """
    rate = caller.tokens_per_second
    if rate is None or bucket is None:
        return
    debt = -bucket.tokens - (now - bucket.at) * rate
    if debt > 0:
        raise RateLimited(
            f"This caller has used more than its {rate:g} tokens a second. Retry after the time in Retry-After.",
            retry_after_s=max(1, math.ceil(debt / rate)),
        )


class Rates:
    """The buckets of all callers of an engine, whatever model they ask."""

    def __init__(self) -> None:
        self._buckets: Final[dict[str, Bucket]] = {}

    def check(self, caller: Caller, now: float) -> None:
        """Pass if a request may be admitted; raises as `refuse_debt`."""
        refuse_debt(caller, self._buckets.get(caller.name), now)

    def charge(self, caller: Caller, tokens: int, now: float) -> None:
        """Take out what an admitted request runs."""
        rate = caller.tokens_per_second
        if rate is None:
            self._buckets.pop(caller.name, None)
            return
        bucket = self._buckets.get(caller.name)
        filled = caller.burst if bucket is None else bucket.tokens + (now - bucket.at) * rate
        self._buckets[caller.name] = Bucket(min(caller.burst, filled) - tokens, now, rate)

    def debts(self, now: float) -> Mapping[str, Bucket]:
        """Return the buckets that are in debt, by name."""
        return {name: one for name, one in self._buckets.items() if one.tokens + (now - one.at) * one.rate < 0}
