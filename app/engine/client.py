"""The seam between HTTP and models."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from app.messages import QueueStatistics, SequenceResult, Timeline, TokenSequence


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
