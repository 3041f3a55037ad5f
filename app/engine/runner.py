"""What an engine needs of whatever runs a model's batches."""

from collections.abc import Callable, Sequence
from typing import Protocol

from app.messages import SequenceResult, TokenSequence


class Runner(Protocol):
    """Runs batches of one model.

    Called in one thread of the engine's, but for `run` on a CPU, which several threads may call at once, and for what `launch`
    returns.
    """

    @property
    def provider(self) -> str: ...

    @property
    def variant_name(self) -> str: ...

    @property
    def threads(self) -> int | None:
        """How many CPU cores a run takes; None where another device runs."""

    @property
    def launches_ahead(self) -> bool:
        """Whether a batch should be launched while another one runs."""

    def launch(self, batch: Sequence[TokenSequence]) -> Callable[[], list[SequenceResult]]:
        """Begin to run a batch. What is returned must be called once, in any thread, and waits for the results."""

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]: ...

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Run a batch and give back the device's memory that larger ones took."""
