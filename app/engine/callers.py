"""Whom a request is from, as far as an engine needs to know. Imports nothing of the project."""

from typing import NamedTuple


class Caller(NamedTuple):
    """One of those who have a key. Requests of nobody in particular have None instead.

    `share` is how much of the service it gets while others want it, too, as a weight; `tokens_per_second` how much it may run on
    average, None for any amount; `burst` how many tokens it may save up.
    """

    name: str
    share: float = 1.0
    tokens_per_second: float | None = None
    burst: float = 0.0
