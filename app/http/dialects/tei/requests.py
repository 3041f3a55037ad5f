"""The forms of requests to text-embeddings-inference that run a model, and what each is in the native API.

Unknown keys are ignored, as that server does.
"""

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from app.tasks.inputs import MAX_INPUTS, ModelName, Text, TextInputs, as_list

Sequence = Annotated[list[str], Field(min_length=1, max_length=2)]
"""One text, or a pair."""


def _no_token_ids(value: object) -> object:
    if isinstance(value, list) and any(isinstance(item, int | list) for item in value):
        raise PydanticCustomError("token_ids", "holds token ids; send texts, which this server tokenizes itself")
    return value


def _kind(value: object) -> str | None:
    """Name the kind of `/predict`'s inputs, as `app.tasks.inputs` does: a list of strings is one input, never a batch."""
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    if not value or isinstance(value[0], list):
        return "<list>"
    return "<pair>" if len(value) <= 2 else None


PredictInputs = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[Sequence, Tag("<pair>")]
    | Annotated[list[Sequence], Field(min_length=1, max_length=MAX_INPUTS), Tag("<list>")],
    Discriminator(
        _kind,
        custom_error_type="not_inputs",
        custom_error_message="should be a text, a pair [text, text], or a batch [[text], [text, text], ...] of both",
    ),
]


class Form(BaseModel):
    """A request: how it is said in the native API, and how the answer is said in this one."""

    model_config = ConfigDict(strict=True, frozen=True)

    model: ModelName = None

    @abstractmethod
    def native(self) -> dict[str, Any]:
        """Return `inputs` and `parameters` of the task's own request."""

    @abstractmethod
    def characters(self) -> int:
        """Return how many characters the inputs of all sequences have."""

    def written(self, predictions: list[Any]) -> object:
        """Return the answer."""
        return predictions


class Truncating(BaseModel):
    """What becomes of inputs that are too long: they are cut if nothing is said, the default of `--auto-truncate`."""

    model_config = ConfigDict(strict=True, frozen=True)

    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None

    def truncation(self) -> dict[str, Any]:
        """Return the native parameters."""
        direction = self.truncation_direction and self.truncation_direction.lower()
        return {"truncation": self.truncate is not False, "truncation_direction": direction}


class EmbedForm(Form, Truncating):
    """Texts to embed."""

    inputs: Annotated[TextInputs, BeforeValidator(_no_token_ids)]
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: int | None = Field(None, ge=1)

    def native(self) -> dict[str, Any]:
        chosen = {"prompt_name": self.prompt_name, "dimensions": self.dimensions}
        return {
            "inputs": self.inputs,
            "parameters": self.truncation() | {"normalize": self.normalize} | _said(chosen),
        }

    def characters(self) -> int:
        return sum(map(len, as_list(self.inputs)))


class PredictForm(Form, Truncating):
    """Texts and pairs to classify."""

    inputs: PredictInputs
    raw_scores: bool = False

    def native(self) -> dict[str, Any]:
        function = {"function_to_apply": "none"} if self.raw_scores else {}
        inputs = [one[0] if len(one) == 1 else {"text": one[0], "text_pair": one[1]} for one in self._sequences()]
        return {"inputs": inputs, "parameters": self.truncation() | function}

    def characters(self) -> int:
        return sum(len(text) for one in self._sequences() for text in one)

    def written(self, predictions: list[Any]) -> object:
        return predictions if self._is_batch() else predictions[0]

    def _is_batch(self) -> bool:
        return isinstance(self.inputs[0], list)

    def _sequences(self) -> list[list[str]]:
        inputs: Any = self.inputs
        if isinstance(inputs, str):
            return [[inputs]]
        return inputs if self._is_batch() else [inputs]


class RerankForm(Form, Truncating):
    """Texts to rank by a query."""

    query: Text
    texts: list[str] = Field(min_length=1, max_length=MAX_INPUTS)
    raw_scores: bool = False
    return_text: bool = False

    def native(self) -> dict[str, Any]:
        function = {"function_to_apply": "none" if self.raw_scores else "sigmoid"}
        return {
            "inputs": {"query": self.query, "texts": self.texts},
            "parameters": self.truncation() | function | {"return_documents": self.return_text},
        }

    def characters(self) -> int:
        return len(self.query) * len(self.texts) + sum(map(len, self.texts))

    def written(self, predictions: list[Any]) -> object:
        return predictions[0]


class Sentences(BaseModel):
    """A text, and the texts that it is compared with."""

    model_config = ConfigDict(strict=True, frozen=True)

    source_sentence: Text
    sentences: list[Text] = Field(min_length=1, max_length=MAX_INPUTS)


class SimilarityParameters(Truncating):
    """How to embed the sentences."""

    prompt_name: str | None = None


class SimilarityForm(Form):
    """A text to compare with others."""

    inputs: Sentences
    parameters: SimilarityParameters | None = None

    def native(self) -> dict[str, Any]:
        parameters = self.parameters or SimilarityParameters()
        return {
            "inputs": self.inputs.model_dump(),
            "parameters": parameters.truncation() | _said({"prompt_name": parameters.prompt_name}),
        }

    def characters(self) -> int:
        return len(self.inputs.source_sentence) + sum(map(len, self.inputs.sentences))

    def written(self, predictions: list[Any]) -> object:
        return predictions[0]


def _said(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}
