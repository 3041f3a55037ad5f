"""The interface of a task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from app.bundle.manifest import Manifest, Task
from app.bundle.sequences import SequenceResult, TokenSequence
from app.errors import ValidationFailed
from app.tasks.inputs import Truncation, as_list
from app.text.located import Encoded
from app.text.pairs import Strategy
from app.text.tokenizer import TextInput, Tokenizer

Req = TypeVar("Req", bound=BaseModel)
Pre = TypeVar("Pre", bound="Prepared")
Res = TypeVar("Res", bound=SequenceResult)


SHORT_BYTES: Final = 16 * 1024
"""Largest body that most tasks prepare on the event loop. A larger one takes over about 1 ms, so that a worker thread is
better."""
BYTES_A_PAIR: Final = 64
"""Bytes that are tokenized in the time that it takes to join the tokens of a pair."""


@dataclass(frozen=True, slots=True)
class Model:
    """One served model."""

    name: str
    manifest: Manifest
    tokenizer: Tokenizer
    key: str = ""
    """That of its bundle, by which the engine knows it."""
    written_at: int = 0
    """When its bundle was, in seconds since 1970."""
    hash: str = ""
    """The first 12 digits of its bundle's identity, which people see."""

    @property
    def task(self) -> Task:
        return self.manifest.task


class Usage(BaseModel):
    """How many tokens the model processed, including special tokens and every window, and how many inputs were cut."""

    tokens: int
    truncated: int


def example(prediction: Any, tokens: int) -> ConfigDict:  # noqa: ANN401 - JSON
    """Return what shows a response with this prediction in OpenAPI."""
    usage: dict[str, Any] = {"tokens": tokens, "truncated": 0}
    return ConfigDict(json_schema_extra={"examples": [{"model": "name", "predictions": [prediction], "usage": usage}]})


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inputs of one request, ready for the engine. Subclasses add what the task needs for the answer."""

    sequences: list[TokenSequence]
    truncated: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


def prepare_whole(
    model: Model,
    inputs: Sequence[TextInput],
    parameters: Truncation,
    place: Callable[[int], str] = "inputs[{}]".format,
) -> Prepared:
    """Tokenize inputs that are one sequence each, with the truncation of the parameters.

    `place` returns where an input stands in the request, for the error.

    Raises:
        ValidationFailed: an input has no tokens, or is too long and truncation is off.
    """
    encoded = model.tokenizer.encode(
        inputs, truncation=parameters.truncation, direction=parameters.truncation_direction, place=place
    )
    return _prepared(encoded, place)


def prepare_pairs(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    parameters: Truncation,
    place: Callable[[int], str],
    strategy: Strategy = "longest_first",
) -> Prepared:
    """Tokenize pairs, of which many have a text in common, with the truncation of the parameters.

    Raises:
        ValidationFailed: a pair has no tokens, or is too long and truncation is off, or cannot be cut by this strategy.
    """
    encoded = model.tokenizer.encode_pairs(
        pairs,
        place,
        truncation=parameters.truncation,
        direction=parameters.truncation_direction,
        strategy=strategy,
    )
    return _prepared(encoded, place)


def _prepared(encoded: Sequence[Encoded], place: Callable[[int], str]) -> Prepared:
    for i, one in enumerate(encoded):
        if not len(one.input_ids):
            raise without_tokens(place(i))
    return Prepared(
        [TokenSequence(one.input_ids, one.token_type_ids) for one in encoded],
        sum(one.was_truncated for one in encoded),
    )


def without_tokens(place: str) -> ValidationFailed:
    """Return the error for an input that a tokenizer without special tokens makes nothing of: a model cannot run on that."""
    return ValidationFailed(f"{place} has no tokens: this model ignores all of its characters. Send other text.")


class TaskHandler(ABC, Generic[Req, Pre, Res]):
    """One task of the API. Stateless; `prepare` and `answer` may run in a worker thread, where their loops call `go_on`."""

    task: ClassVar[Task]
    summary: ClassVar[str]
    request: ClassVar[type[BaseModel]]
    """Has `model`, `inputs` and `parameters`."""
    response: ClassVar[type[BaseModel]]
    golden: ClassVar[str] = "logits"
    """The key of a golden case that has what the graph answers, of a task that models are exported for."""
    best: ClassVar[tuple[str, ...]] = ()
    """What a table has columns for: keys of an input's best prediction. None of a task whose predictions are not ranked."""
    short_bytes: ClassVar[int] = SHORT_BYTES
    """The most bytes that are prepared on the event loop."""
    takes_masks: ClassVar[bool] = False
    """Whether callers write the model's mask token into inputs."""
    lighter: ClassVar[str] = "Send fewer or shorter inputs at once."
    """What callers can do about an answer that is too much work."""

    def serves(self, manifest: Manifest) -> bool:
        """Return whether a model can do this task; one that was exported for it can."""
        return manifest.task == self.task

    def count(self, request: Req) -> int:
        """Return how many inputs a request has, which `--max-inputs` limits: of pairs that it is made into, all of them."""
        return len(as_list(request.inputs))  # type: ignore[attr-defined] # `request` promises them

    def bytes_to_prepare(self, model: Model, request: Req, body_bytes: int) -> int:  # noqa: ARG002
        """Estimate how many bytes of text `prepare` tokenizes for a body of `body_bytes`: more if it repeats some of them.

        Raises:
            ValidationFailed: the model cannot process the request.
        """
        return body_bytes

    def inputs_of(self, text: str, text_pair: str | None) -> Any:  # noqa: ANN401 - JSON
        """Return the `inputs` of a request for a golden case of a bundle that was exported for this task.

        Raises:
            ValueError: it is not one of this task.
        """
        if text_pair is not None:
            raise ValueError("a golden text has a pair")
        return text

    @abstractmethod
    def example(self, model: Model) -> dict[str, Any]:
        """Return an example request for this model, for OpenAPI."""

    @abstractmethod
    def prepare(self, model: Model, request: Req) -> Pre:
        """Tokenize a request's inputs.

        Raises:
            ValidationFailed: the model cannot process one of them.
        """

    @abstractmethod
    def answer(self, model: Model, request: Req, prepared: Pre, results: Sequence[Res]) -> list[Any]:
        """Return `predictions`, one for each input, as plain data in the form of the response model.

        `results` has one result for each prepared sequence, in order.
        """

    def weight(self, model: Model, request: Req, prepared: Pre) -> int:  # noqa: ARG002
        """Estimate how long `answer` takes, in units of about 4 us: long ones run in a worker thread."""
        return len(prepared.sequences)
