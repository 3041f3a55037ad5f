"""The requests of the HTTP API: validated strictly, straight from the body's bytes."""

from typing import Annotated, Final, Literal

from pydantic import Field

from app.tasks.inputs import PairInputs, QuestionInputs, Request, SentenceInputs, Text, TextInputs, TextPair, as_list

MAX_TOP_K: Final = 1000

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
