"""The requests and answers of the HTTP API, as callers see them in OpenAPI.

Requests are validated strictly, straight from the body's bytes. An error names the place and the kind of the problem and
never repeats the caller's text.
"""

import re
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import PydanticCustomError

from app.errors import InvalidJson, ServiceError, ValidationFailed

T = TypeVar("T")

MAX_TOP_K: Final = 1000
MAX_INPUTS: Final = 4096
"""Largest value of `--max-inputs`. Part of the schema, so that a body of a million items is refused at the first item too
many: one of 4 MB took 13 s to refuse when each of its items was reported."""
SHOWN_PROBLEMS: Final = 5
KINDS: Final = frozenset({"<text>", "<pair>", "<list>", "<one>"})
"""Tags of the kinds of inputs. Pydantic puts them into an error's location; callers do not get to see them."""
# An unknown key is repeated in an error only if it looks like a name: it may also be a text in the wrong place.
KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")


def _sayable(text: str) -> str:
    if not text:
        raise PydanticCustomError("empty_text", "is an empty string; send some text")
    return _without_nul(text)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul_in_text", "contains a NUL character; remove it")
    return text


Text = Annotated[str, AfterValidator(_sayable)]


def _kind(value: object) -> str | None:
    """Name the kind of an input, so that an error is about the kind that was sent and not about every alternative."""
    kinds: dict[type, str] = {str: "<text>", dict: "<pair>", list: "<list>", TextPair: "<pair>"}
    return kinds.get(type(value))


class Request(BaseModel):
    """Unknown keys and wrong types are errors; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPair(Request):
    """Two texts that the model reads together."""

    text: Text
    text_pair: Annotated[str, AfterValidator(_without_nul)] | None = None


class SentencePair(Request):
    """Two texts of which the second may continue the first."""

    text: Text
    text_pair: Text


class QuestionContext(Request):
    """A question, and the text that holds its answer."""

    question: Text
    context: Text


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
SentenceInputs = Annotated[
    Annotated[SentencePair, Tag("<one>")]
    | Annotated[list[SentencePair], Field(min_length=1, max_length=MAX_INPUTS), Tag("<list>")],
    Discriminator(
        _one_or_list,
        custom_error_type="not_inputs",
        custom_error_message='should be {"text": ..., "text_pair": ...} or a list of these',
    ),
]
QuestionInputs = Annotated[
    Annotated[QuestionContext, Tag("<one>")]
    | Annotated[list[QuestionContext], Field(min_length=1, max_length=MAX_INPUTS), Tag("<list>")],
    Discriminator(
        _one_or_list,
        custom_error_type="not_inputs",
        custom_error_message='should be {"question": ..., "context": ...} or a list of these',
    ),
]
ModelName = Annotated[
    str | None, Field(description="The model's name; optional if only one model does this task.", examples=[None])
]


class Truncation(Request):
    """What happens to inputs that are too long."""

    truncation: bool = Field(True, description="Cut inputs that are too long; if false, they are an error.")
    truncation_direction: Literal["right", "left"] = Field("right", description="The end that is cut off.")


class ClassifyParameters(Truncation):
    """How to classify."""

    top_k: int | None = Field(None, ge=1, le=MAX_TOP_K, description="Return only the best labels; default: all.")
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None,
        description="Turns logits into scores. Default: none for regression, sigmoid for multi-label models and models "
        "with one label, else softmax.",
    )


class FillMaskParameters(Request):
    """How to fill masks."""

    top_k: int = Field(5, ge=1, le=MAX_TOP_K, description="How many tokens to return for each mask.")
    targets: list[Text] | None = Field(
        None, min_length=1, max_length=MAX_TOP_K, description="Choose among these words only; each must be one token."
    )


class NextSentenceParameters(Truncation):
    """How to tokenize pairs."""


class EntitiesParameters(Truncation):
    """How to find entities."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = Field(
        "simple",
        description="How tokens become entities. none: every token is returned by itself. simple: adjacent tokens with the "
        "same label are joined. first, average, max: like simple, but all tokens of a word get the same label: that of its "
        "first token, the best on average, or that of the token with the highest score.",
    )
    ignore_labels: list[str] = Field(
        ["O"], max_length=MAX_TOP_K, description="Labels to leave out (with none), or entity groups."
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="Read a text that is too long in windows of the model's maximum length instead of cutting it; "
        "consecutive windows share this many tokens. Not with none.",
    )


class AnswerParameters(Request):
    """How to find answers."""

    top_k: int = Field(1, ge=1, le=MAX_TOP_K, description="How many answers to return.")
    max_answer_length: int = Field(15, ge=1, description="Longest answer, in tokens.")
    max_question_length: int = Field(64, ge=1, description="Longest question, in tokens; the rest is cut off.")
    stride: int | None = Field(
        None,
        ge=0,
        description="A long context is read in windows; consecutive windows share this many tokens. Default: 128, or half "
        "a window if that is less.",
    )
    handle_impossible_answer: bool = Field(
        False, description='Let "no answer" compete: it is returned as an empty answer with its own score.'
    )


class EmbedParameters(Truncation):
    """How to embed."""

    normalize: bool | None = Field(
        None,
        description="Scale every embedding to unit length (L2). Default: what the model's sentence-transformers files say, "
        "otherwise false.",
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the bytes of little-endian float32 numbers, a quarter of the size."
    )


def as_list(inputs: T | list[T]) -> list[T]:
    """Return the `inputs` of a request as a list, also if there is only one."""
    return inputs if isinstance(inputs, list) else [inputs]


class TextsRequest(Request):
    """The common part of requests whose inputs are texts."""

    model: ModelName = None
    inputs: TextInputs

    @property
    def listed(self) -> list[str]:
        """The inputs as a list."""
        return as_list(self.inputs)


class ClassifyRequest(Request):
    """Texts, or pairs of texts, to classify."""

    model: ModelName = None
    inputs: PairInputs
    parameters: ClassifyParameters = ClassifyParameters()

    @property
    def listed(self) -> list[str | tuple[str, str]]:
        """The inputs as a list, pairs as tuples. An empty second text counts as none."""
        inputs: list[str | TextPair] = as_list(self.inputs)
        return [
            item if isinstance(item, str) else (item.text, item.text_pair) if item.text_pair else item.text
            for item in inputs
        ]


class FillMaskRequest(TextsRequest):
    """Texts with one or more mask tokens to fill."""

    parameters: FillMaskParameters = FillMaskParameters()


class NextSentenceRequest(Request):
    """Pairs of texts: does the second continue the first?"""

    model: ModelName = None
    inputs: SentenceInputs
    parameters: NextSentenceParameters = NextSentenceParameters()

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The inputs as a list of pairs."""
        return [(pair.text, pair.text_pair) for pair in as_list(self.inputs)]


class EntitiesRequest(TextsRequest):
    """Texts to find entities in."""

    parameters: EntitiesParameters = EntitiesParameters()


class AnswerRequest(Request):
    """Questions, each with a context to find its answer in."""

    model: ModelName = None
    inputs: QuestionInputs
    parameters: AnswerParameters = AnswerParameters()

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The inputs as a list of (question, context)."""
        return [(one.question, one.context) for one in as_list(self.inputs)]


class EmbedRequest(TextsRequest):
    """Texts to embed."""

    parameters: EmbedParameters = EmbedParameters()


class Usage(BaseModel):
    """How many tokens the model processed, including special tokens and every window, and how many inputs were cut."""

    tokens: int
    truncated: int


def _example(prediction: Any, tokens: int) -> ConfigDict:  # noqa: ANN401 - JSON
    usage: dict[str, Any] = {"tokens": tokens, "truncated": 0}
    return ConfigDict(json_schema_extra={"examples": [{"model": "name", "predictions": [prediction], "usage": usage}]})


class LabelScore(BaseModel):
    """A label and its score."""

    label: str
    score: float


class ClassifyResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, best label first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "sentiment",
                    "predictions": [[{"label": "POSITIVE", "score": 0.9994}, {"label": "NEGATIVE", "score": 0.0006}]],
                    "usage": {"tokens": 6, "truncated": 0},
                }
            ]
        }
    )

    model: str
    predictions: list[list[LabelScore]]
    usage: Usage


class TokenScore(BaseModel):
    """A token for a mask: its id, its text, its softmax score over the vocabulary, and the input with the mask replaced."""

    token: int
    token_str: str
    score: float
    sequence: str


class FillMaskResponse(BaseModel):
    """`predictions[i][j]` belongs to the j-th mask of `inputs[i]`, best token first."""

    model: str
    predictions: list[list[list[TokenScore]]]
    usage: Usage


class NextSentence(BaseModel):
    """Whether the second text continues the first, and the probability that it does."""

    is_next: bool
    score: float


class NextSentenceResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`."""

    model_config = _example({"is_next": True, "score": 0.9991}, tokens=16)

    model: str
    predictions: list[NextSentence]
    usage: Usage


class Entity(BaseModel):
    """Adjacent tokens with the same label. `start` and `end` are character offsets: `text[start:end]` in Python."""

    model_config = ConfigDict(extra="forbid")

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class LabelledToken(BaseModel):
    """A token and its label, for the aggregation strategy none. `index` counts tokens, including special ones."""

    model_config = ConfigDict(extra="forbid")

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


class EntitiesResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, in text order."""

    model_config = _example(
        [{"entity_group": "PER", "score": 0.9981, "word": "Ada Lovelace", "start": 0, "end": 12}], tokens=9
    )

    model: str
    predictions: list[list[Entity | LabelledToken]]
    usage: Usage


class Answer(BaseModel):
    """A part of the context, `context[start:end]` in Python; empty for "no answer"."""

    answer: str
    score: float
    start: int
    end: int


class AnswerResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, best answer first; always a list."""

    model_config = _example([{"answer": "Paris", "score": 0.9713, "start": 11, "end": 16}], tokens=18)

    model: str
    predictions: list[list[Answer]]
    usage: Usage


class EmbedResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`: numbers, or text if base64 was requested."""

    model_config = _example([0.0713, -0.0265, 0.0498], tokens=6)

    model: str
    predictions: list[list[float] | str]
    usage: Usage


class ErrorResponse(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": "inputs: is an empty string; send some text",
                    "error_type": "validation",
                    "request_id": "0a1b2c3d4e5f6071",
                }
            ]
        }
    )

    error: str = Field(description="What happened and what to do.")
    error_type: Literal[
        "invalid_json", "unauthorized", "not_found", "payload_too_large", "validation", "overloaded", "not_ready",
        "engine_lost", "deadline_exceeded", "internal",
    ]  # fmt: skip
    request_id: str


def explain(error: ValidationError) -> ServiceError:
    """Turn pydantic's error for a body into one of the catalogue."""
    if error.error_count() > MAX_INPUTS + SHOWN_PROBLEMS:  # only unknown keys can be so many
        return ValidationFailed(f"The body has {error.error_count()} problems; /docs shows what a request looks like.")
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        detail = str(problems[0]["msg"]).removeprefix("Invalid JSON: ")
        return InvalidJson(
            f'The body is not valid JSON: {detail}. Send uncompressed UTF-8 such as {{"inputs": "some text"}}.'
        )
    shown = "; ".join(f"{_place(problem['loc'])}: {_message(problem)}" for problem in problems[:SHOWN_PROBLEMS])
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return ValidationFailed(f"{shown}{more}")


def _place(loc: tuple[int | str, ...]) -> str:
    """Write a location as the caller would: `inputs[3].text`."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part not in KINDS:
            name = part if KEY.fullmatch(part) else "(a key)"
            place += f".{name}" if place else name
    return place or "body"


def _message(problem: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    if problem["type"] == "extra_forbidden":
        return "is not a parameter of this endpoint; remove it"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "model_type" and problem["loc"]:
        return "should be an object; /docs shows what it holds"
    message = str(problem["msg"]).partition(" after validation")[0]
    return message[0].lower() + message[1:]
