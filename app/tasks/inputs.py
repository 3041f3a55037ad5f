"""What may stand under `inputs`: texts, pairs of texts, and lists of these.

Validated strictly. An error is about the kind of input that was sent, not about every alternative.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

T = TypeVar("T")

MAX_INPUTS: Final = 4096
"""Largest value of `--max-inputs`. Part of the schema, so that a body of a million items is refused at the first item too
many: one of 4 MB took 13 s to refuse when each of its items was reported."""
MAX_TOP_K: Final = 1000
KINDS: Final = frozenset({"<text>", "<pair>", "<list>", "<one>"})
"""Tags of the kinds of inputs. Pydantic puts them into an error's location; callers do not get to see them."""
ModelName = Annotated[
    str | None,
    Field(
        description="The model's name; optional if one model alone does this task, or is its default.", examples=[None]
    ),
]


def _not_empty(text: str) -> str:
    if not text:
        raise PydanticCustomError("empty_text", "is an empty string; send some text")
    return _without_nul(text)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul_in_text", "contains a NUL character; remove it")
    return text


Text = Annotated[str, AfterValidator(_not_empty)]
AnyText = Annotated[str, AfterValidator(_without_nul)]
"""A text that may be empty."""


def _kind(value: object) -> str | None:
    """Name the kind of an input, so that an error is about the kind that was sent and not about every alternative."""
    kinds: dict[type, str] = {str: "<text>", dict: "<pair>", list: "<list>", TextPair: "<pair>"}
    return kinds.get(type(value))


class Request(BaseModel):
    """Unknown keys and wrong types are errors; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def called(cls, name: str) -> str:
        """Return what callers call a field: in some APIs it has another name."""
        return cls.model_fields[name].alias or name


class TextPair(Request):
    """Two texts that the model reads together."""

    text: Text
    text_pair: AnyText | None = None


class SentencePair(Request):
    """Two texts of which the second may continue the first."""

    text: Text
    text_pair: Text


class QuestionContext(Request):
    """A question, and the text that holds its answer."""

    question: Text
    context: Text


class SentencesToCompare(Request):
    """A text, and the texts that it is compared with."""

    source_sentence: Text
    sentences: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


class QueryTexts(Request):
    """A query, and the texts to rank by it."""

    query: Text
    texts: Annotated[list[AnyText], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


def _one_or_list(value: object) -> str | None:
    """Name the kind of inputs that are objects or a list of objects."""
    if isinstance(value, list):
        return "<list>"
    return "<one>" if isinstance(value, dict | Request) else None


_PairOrText = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[TextPair, Tag("<pair>")],
    Discriminator(
        _kind,
        custom_error_type="not_an_input",
        custom_error_message='should be a text or {"text": ..., "text_pair": ...}',
    ),
]
PairInputs = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[TextPair, Tag("<pair>")]
    | Annotated[list[_PairOrText], Field(min_length=1, max_length=MAX_INPUTS), Tag("<list>")],
    Discriminator(
        _kind,
        custom_error_type="not_inputs",
        custom_error_message='should be a text, {"text": ..., "text_pair": ...}, or a list of these',
    ),
]
TextInputs = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS), Tag("<list>")],
    Discriminator(
        _kind,
        custom_error_type="not_inputs",
        custom_error_message="should be a text or a list of texts",
    ),
]
_OneOrList = Annotated[T, Tag("<one>")] | Annotated[list[T], Field(min_length=1, max_length=MAX_INPUTS), Tag("<list>")]


def _either(form: str) -> Discriminator:
    """Return what chooses between an object of this form and a list of them."""
    return Discriminator(
        _one_or_list,
        custom_error_type="not_inputs",
        custom_error_message=f"should be {form} or a list of these",
    )


SentenceInputs = Annotated[_OneOrList[SentencePair], _either('{"text": ..., "text_pair": ...}')]
QuestionInputs = Annotated[_OneOrList[QuestionContext], _either('{"question": ..., "context": ...}')]
RankInputs = Annotated[_OneOrList[QueryTexts], _either('{"query": ..., "texts": [...]}')]
SimilarityInputs = Annotated[_OneOrList[SentencesToCompare], _either('{"source_sentence": ..., "sentences": [...]}')]


def as_list(inputs: T | list[T]) -> list[T]:
    """Return the `inputs` of a request as a list, also if there is only one."""
    return inputs if isinstance(inputs, list) else [inputs]


def objects_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - a type
    """Yield the objects that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from objects_in(part)


def item_form(request: type[BaseModel]) -> type[BaseModel] | None:
    """Return the form of one of the `inputs` of a request where that is an object, None where it can only be a text."""
    return next(objects_in(request.model_fields["inputs"].annotation), None)


class Truncation(Request):
    """What happens to inputs that are too long."""

    truncation: bool = Field(True, description="Cut inputs that are too long; if false, they are an error.")
    truncation_direction: Literal["right", "left"] | None = Field(
        None,
        description="The end that is cut off. Default: the one that the model was trained with, nearly always right.",
    )


class TextsRequest(Request):
    """The common part of requests whose inputs are texts."""

    model: ModelName = None
    inputs: TextInputs

    @property
    def listed(self) -> list[str]:
        """The inputs as a list."""
        return as_list(self.inputs)
