"""What the HTTP endpoint asks of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel

from app.bundle import Task
from app.catalog import Model
from app.messages import SequenceResult, TokenSequence

Req_contra = TypeVar("Req_contra", bound=BaseModel, contravariant=True)
Res_contra = TypeVar("Res_contra", bound=SequenceResult, contravariant=True)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inputs of one request, ready for the engine."""

    sequences: list[TokenSequence]
    truncated: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


class TaskHandler(Protocol[Req_contra, Res_contra]):
    """One task of the API. Has no state; `prepare` and `answer` may run in a worker thread."""

    task: ClassVar[Task]
    summary: ClassVar[str]
    request: ClassVar[type[BaseModel]]
    """Has `model`, `inputs` and `parameters`."""
    response: ClassVar[type[BaseModel]]

    def example(self, model: Model) -> dict[str, Any]:
        """Return a request that this model answers, for the description of the API."""

    def prepare(self, model: Model, request: Req_contra) -> Prepared:
        """Tokenize a request's inputs.

        Raises:
            ValidationFailed: the model cannot answer one of them.
        """

    def answer(
        self, model: Model, request: Req_contra, sequences: Sequence[TokenSequence], results: Sequence[Res_contra]
    ) -> list[Any]:
        """Return `predictions`: for each input what the response model says, as plain data."""

    def weight(self, sequences: Sequence[TokenSequence]) -> int:
        """Return roughly how many objects the answer holds: large answers are made off the event loop."""
