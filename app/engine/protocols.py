"""What HTTP knows of an engine, and what an engine knows of that which runs a model's batches."""

from collections.abc import Callable, Sequence
from typing import Protocol

from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.callers import Caller
from app.engine.messages import ModelState, Timeline


class EngineClient(Protocol):
    """What the HTTP layer knows of an engine, wherever it runs."""

    async def infer(
        self,
        model: str,
        sequences: Sequence[TokenSequence],
        timeline: Timeline | None = None,
        caller: Caller | None = None,
    ) -> list[SequenceResult]:
        """Return the result of each sequence, in order. Cancelling the call withdraws what has not run.

        `model` is the key of its bundle. A `timeline` is filled in; it stays empty where nothing is known, as after EngineLost.

        Raises:
            Overloaded, RateLimited: nothing was admitted; a retry after the time it names may help.
            ValidationFailed: it could not be answered in time even alone; fewer sequences may be.
            DeadlineExceeded: a retry may help.
            Internal: one of the sequences cannot be run; a retry does not help.
            EngineLost, NotReady: a retry helps once there is an engine again.
            Replaced: this bundle is no longer served.
        """

    def check_rate(self, caller: Caller) -> None:
        """Raise if a caller is over its rate, before its request is even read.

        Raises:
            RateLimited: as `infer` does.
        """

    def check(self, model: str, sequences: int, caller: Caller | None = None) -> None:
        """Raise if a request of this many sequences would not be admitted now, before any work is done for it.

        Raises:
            Overloaded, RateLimited, EngineLost, NotReady, Replaced: as `infer` does.
        """


class Administration(Protocol):
    """Which models are served, as an operator sees and changes it."""

    async def states(self) -> Sequence[ModelState]:
        """Return the state of each model, by name.

        Raises:
            EngineLost, NotReady: there is no engine.
        """

    async def load(self, name: str) -> ModelState:
        """Serve the bundle of this name as it is in the models folder now; return once no request gets another.

        Raises:
            NotFound: the folder has no such bundle.
            BadBundle, NoRoom: it cannot be loaded; what was served is served still.
            EngineLost, NotReady: there is no engine.
        """

    async def unload(self, name: str) -> ModelState:
        """Serve a model no longer; return once its memory is free.

        Raises:
            NotFound: it is not served.
            EngineLost, NotReady: there is no engine.
        """


class Runner(Protocol):
    """Runs batches of one model.

    Called in the engine's one thread, except for `run` on a CPU, which several threads may call at once, and for what
    `launch` returns.
    """

    @property
    def provider(self) -> str: ...

    @property
    def variant_name(self) -> str: ...

    @property
    def threads(self) -> Sequence[int]:
        """How many CPU cores a run may take, from the fewest; empty where another device runs."""

    @property
    def launches_ahead(self) -> bool:
        """Whether a batch should be launched while another one runs."""

    def keep_threads(self, threads: Sequence[int]) -> None:
        """Run with no other numbers of threads from now on."""

    def launch(self, batch: Sequence[TokenSequence], threads: int = 0) -> Callable[[], list[SequenceResult]]:
        """Begin to run a batch with so many threads, 0 for the most, and return a function that waits for its results.

        Call that once, in any thread.
        """

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]: ...

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Run a batch, and free the memory of the device that only larger batches need."""
