"""Inputs that the model reads in rounds: which sequences are next depends on the results of those before."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.bundle.sequences import SequenceResult, TokenSequence
from app.errors import ValidationFailed
from app.tasks.base import Prepared
from app.work import go_on


class Round(NamedTuple):
    """Sequences that run together. Without a round that is not needed, the answer is less exact."""

    sequences: list[TokenSequence]
    is_needed: bool = True

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


Results = Sequence[SequenceResult] | None
"""Those of a round, or None if it was not needed and did not run."""
Rounds = Generator[Round, Results, Any]
"""The rounds of one input, and its prediction."""


@dataclass(frozen=True, slots=True)
class PreparedRounds(Prepared):
    """The inputs of one request. `sequences` are the first round of all, `predictions` are there after the last one."""

    inputs: list[Rounds]
    predictions: list[Any]
    waiting: list[tuple[int, int]]
    """The inputs without a prediction, by number, and how many results each waits for."""

    def more(self, results: Results) -> Round | None:
        """Take the results of a round, and return the next one, None after the last.

        Raises:
            ValidationFailed: they show that an input cannot be answered.
        """
        sequences: list[TokenSequence] = []
        is_needed = False
        waiting = self.waiting.copy()
        self.waiting.clear()
        begin = 0
        for number, count in waiting:
            own = None if results is None else results[begin : begin + count]
            begin += count
            go_on()
            try:
                following = self.inputs[number].send(own)
            except StopIteration as end:
                self.predictions[number] = end.value
                continue
            self.waiting.append((number, len(following.sequences)))
            sequences += following.sequences
            is_needed |= following.is_needed
        return Round(sequences, is_needed) if sequences else None


def prepare_rounds(inputs: list[Rounds], truncated: int) -> PreparedRounds:
    """Begin the rounds of the inputs of a request.

    Raises:
        ValidationFailed: an input cannot be answered, or all of them not in time.
    """
    sequences: list[TokenSequence] = []
    waiting = []
    for number, one in enumerate(inputs):
        begun = next(one)
        sequences += begun.sequences
        waiting.append((number, len(begun.sequences)))
        try:
            go_on(begun.tokens)
        except ValidationFailed:  # which says that the caller's texts are so long
            raise too_many_runs(Round(sequences)) from None
    return PreparedRounds(sequences, truncated, inputs, predictions=[None] * len(inputs), waiting=waiting)


def too_many_runs(following: Round) -> ValidationFailed:
    """Return the error for inputs whose next round could not be answered in time."""
    return ValidationFailed(
        f"The inputs need {len(following.sequences)} runs of the model, of {following.tokens} tokens in all, which is more than it does "
        "within the time that a request may take here (BERT_REQUEST_TIMEOUT_S). Send fewer or shorter inputs at once."
    )


async def run_rounds(
    prepared: PreparedRounds,
    run: Callable[[Round], Awaitable[Results]],
    more: Callable[[Results], Awaitable[Round | None]],
) -> None:
    """Run all rounds.

    Args:
        prepared: The inputs.
        run: Runs a round. May return None for one that is not needed.
        more: Calls `prepared.more`, maybe in a thread.
    """
    following: Round | None = Round(prepared.sequences)
    while following is not None:
        following = await more(await run(following))
