"""Work for a request that takes long: it ends with its caller and its deadline, and when it turns out to be too much.

It runs in a thread, which nothing can stop from outside. So every loop that may take long calls `go_on` at each turn, as do
those that are seldom run in a thread: outside of work, it does nothing.
"""

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Final, TypeVar

from app.errors import DeadlineExceeded, ValidationFailed

T = TypeVar("T")


class Dropped(Exception):
    """Nobody waits for this work any more."""


class Work:
    """One piece of work, which may be dropped from another thread."""

    def __init__(self, timeout_s: float, most_tokens: int | None = None) -> None:
        """Begin to count the time.

        Args:
            timeout_s: How long it may take from now on, seconds, its wait for a thread included.
            most_tokens: How many tokens the request may have; None if that is not known.
        """
        self._timeout_s = timeout_s
        self._deadline = monotonic() + timeout_s
        self._most_tokens = most_tokens
        self._tokens = 0
        self._is_dropped = False

    def drop(self) -> None:
        """End it at its next turn."""
        self._is_dropped = True

    def run(self, function: Callable[[], T]) -> T:
        """Do it in this thread.

        Raises:
            Dropped: it was dropped.
            DeadlineExceeded: its time is over.
            ValidationFailed: the request has too many tokens.
        """
        before = _CURRENT.set(self)
        try:
            self.go_on(0)
            return function()
        finally:
            _CURRENT.reset(before)

    def go_on(self, tokens: int) -> None:
        """Pass if the work is to go on, with so many tokens more. Raises as `run` does."""
        if self._is_dropped:
            raise Dropped
        if monotonic() > self._deadline:
            raise late(self._timeout_s)
        self._tokens += tokens
        if self._most_tokens is not None and self._tokens > self._most_tokens:
            raise ValidationFailed(
                f"The inputs have more than {self._most_tokens} tokens, which is what this model answers within the "
                f"{self._timeout_s:g} s that a request may take here (BERT_REQUEST_TIMEOUT_S). Send fewer or shorter inputs "
                "at once."
            )


def late(timeout_s: float) -> DeadlineExceeded:
    """Return the error of work whose time is over."""
    return DeadlineExceeded(
        f"The request was not read, tokenized or written within {timeout_s:g} s. Send less at once, or retry when there is less "
        "load."
    )


_CURRENT: Final[ContextVar[Work | None]] = ContextVar("work", default=None)


def go_on(tokens: int = 0) -> None:
    """Pass if the work that this thread does is to go on; `tokens` of the request are new.

    Raises:
        Dropped, DeadlineExceeded, ValidationFailed: as `Work.run`, through which they go.
    """
    work = _CURRENT.get()
    if work is not None:
        work.go_on(tokens)
