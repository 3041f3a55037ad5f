"""The answers of the HTTP API."""

from typing import Any

from pydantic import BaseModel, ConfigDict


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
