"""What the HTTP endpoint asks of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel

from app.bundle import Task
from app.catalog import Model
from app.messages import IntArray, SequenceResult, TokenSequence
from app.schemas import Truncation
from app.tokenization import TextInput

Req_contra = TypeVar("Req_contra", bound=BaseModel, contravariant=True)
Pre = TypeVar("Pre", bound="Prepared")
Res_contra = TypeVar("Res_contra", bound=SequenceResult, contravariant=True)


SHORT_BYTES: Final = 16 * 1024
"""Largest body that most tasks prepare on the event loop: over it, that takes longer than a switch to a worker thread is
worth, about 1 ms."""
NO_MASKS: Final[IntArray] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inputs of one request, ready for the engine; what its answer needs beside them, where it is of a task's own kind."""

    sequences: list[TokenSequence]
    truncated: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


def prepare_whole(model: Model, inputs: Sequence[TextInput], parameters: Truncation) -> Prepared:
    """Tokenize inputs that are one sequence each, cut as the parameters say.

    Raises:
        ValidationFailed: one is too long, and may not be cut.
    """
    encoded = model.tokenizer.encode(
        inputs, truncation=parameters.truncation, direction=parameters.truncation_direction
    )
    return Prepared(
        [TokenSequence(one.input_ids, one.token_type_ids, NO_MASKS) for one in encoded],
        sum(one.was_truncated for one in encoded),
    )


class TaskHandler(Protocol[Req_contra, Pre, Res_contra]):
    """One task of the API. Has no state; `prepare` and `answer` may run in a worker thread."""

    task: ClassVar[Task]
    summary: ClassVar[str]
    request: ClassVar[type[BaseModel]]
    """Has `model`, `inputs` and `parameters`."""
    response: ClassVar[type[BaseModel]]
    short_bytes: ClassVar[int]
    """The largest body that is prepared on the event loop."""

    def example(self, model: Model) -> dict[str, Any]:
        """Return a request that this model answers, for the description of the API."""

    def prepare(self, model: Model, request: Req_contra) -> Pre:
        """Tokenize a request's inputs.

        Raises:
            ValidationFailed: the model cannot answer one of them.
        """

    def answer(self, model: Model, request: Req_contra, prepared: Pre, results: Sequence[Res_contra]) -> list[Any]:
        """Return `predictions`: for each input what the response model says, as plain data.

        `results` are those of the prepared sequences, in their order.
        """

    def weight(self, model: Model, request: Req_contra, prepared: Pre) -> int:
        """Return how long it takes to make the answer, in about 4 us: long ones are made off the event loop."""
