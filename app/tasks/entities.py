"""Entities: token labels to spans of the text, as in transformers' token-classification pipeline."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from app.bundle.sequences import FloatArray
from app.errors import ValidationFailed
from app.tasks.base import Model, TaskHandler, Usage, example
from app.tasks.inputs import MAX_TOP_K, TextsRequest, Truncation
from app.tasks.windows import (
    SHORT_BYTES,
    PreparedWindows,
    Window,
    count_windows,
    prepared_windows,
    refuse_many,
    spread,
    window,
)
from app.text.located import Located
from app.text.tokenizer import Tokenizer
from app.work import go_on

Join = Callable[[Sequence[str]], str]


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


class EntitiesRequest(TextsRequest):
    """Texts to find entities in."""

    parameters: EntitiesParameters = EntitiesParameters()


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

    model_config = example(
        [{"entity_group": "PER", "score": 0.9981, "word": "Ada Lovelace", "start": 0, "end": 12}], tokens=9
    )

    model: str
    predictions: list[list[Entity | LabelledToken]]
    usage: Usage


class EntitiesHandler(TaskHandler[EntitiesRequest, PreparedWindows, FloatArray]):
    """`POST /v1/entities`."""

    task = "entities"
    summary = "Named entities, or the labels of all tokens"
    request = EntitiesRequest
    response = EntitiesResponse
    golden = "token_logits"
    short_bytes = SHORT_BYTES

    def example(self, model: Model) -> dict[str, Any]:
        return {"model": model.name, "inputs": "Ada Lovelace lived in London."}

    def prepare(self, model: Model, request: EntitiesRequest) -> PreparedWindows:
        parameters, max_length = request.parameters, model.tokenizer.max_length
        if parameters.stride is not None and parameters.aggregation_strategy == "none":
            raise ValidationFailed(
                "parameters.stride: windows are merged by their entities, and aggregation_strategy none has no entities. "
                "Leave out one of the two."
            )
        if parameters.stride is None:
            return _cut(model.tokenizer, request)
        stride = parameters.stride
        texts = model.tokenizer.encode_located(request.listed, cut=None)
        [room, *_] = {max_length - len(text.input_ids) + len(text.texts[0]) for text in texts}  # the same for all texts
        if stride >= room:
            raise ValidationFailed(
                f"parameters.stride: must be less than {room}, the number of text tokens that this model reads at once."
            )
        refuse_many(sum(count_windows(len(text.texts[0]), room, stride) for text in texts))
        direction = parameters.truncation_direction or model.tokenizer.direction
        windows = [[_part(text, part) for part in spread(text.texts[0], room, stride, direction)] for text in texts]
        return prepared_windows(windows, truncated=0)

    def answer(
        self, model: Model, request: EntitiesRequest, prepared: PreparedWindows, results: Sequence[FloatArray]
    ) -> list[Any]:
        predictions = []
        logits = iter(results)
        for text, windows in zip(request.listed, prepared.windows, strict=True):
            found: list[Any] = []
            for one in windows:
                go_on()
                tokens = read_tokens(model.tokenizer, text, one, next(logits), model.manifest.special_tokens.unknown.id)
                found += _entities(tokens, model, request.parameters)
            predictions.append(found if len(windows) == 1 else without_overlaps(found))
        return predictions

    def weight(self, model: Model, request: EntitiesRequest, prepared: PreparedWindows) -> int:  # noqa: ARG002
        return prepared.tokens


class Token(NamedTuple):
    """A token of the text, or a word of several tokens, with the scores of its labels."""

    text: str
    scores: FloatArray  # float[labels]
    position: int
    start: int
    end: int
    goes_on: bool
    """Whether it continues the word of the token before."""


class Tagged(NamedTuple):
    """A token or word with its label."""

    label: str
    score: float
    token: Token


def read_tokens(tokenizer: Tokenizer, text: str, one: Window, logits: FloatArray, unknown: int) -> list[Token]:
    """Return the tokens of a window's text with the softmax of their logits."""
    rows = logits[one.begin : one.begin + len(one.offsets)].astype(np.float64)
    scores = np.exp(rows - rows.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    ids = one.sequence.input_ids[one.begin : one.begin + len(one.offsets)].tolist()
    tokens = []
    for i, (id_, (start, end)) in enumerate(zip(ids, one.offsets.tolist(), strict=True)):
        if id_ == unknown:
            token, goes_on = text[start:end], False
        else:
            token = tokenizer.token(id_)
            if tokenizer.marks_subwords:
                goes_on = len(token) != end - start
            else:  # it neither contains a space nor follows one
                goes_on = start > 0 and " " not in text[start - 1 : start + 1]
        tokens.append(Token(token, scores[i], one.begin + i, start, end, goes_on))
    return tokens


def _entities(tokens: Sequence[Token], model: Model, parameters: EntitiesParameters) -> list[dict[str, Any]]:
    strategy, labels, ignored = parameters.aggregation_strategy, model.manifest.labels, parameters.ignore_labels
    if strategy in ("none", "simple"):
        tagged = [_tag(token, token.scores, labels) for token in tokens]
    else:
        tagged = [_word(word, strategy, labels, model.tokenizer.join) for word in words(tokens)]
    if strategy == "none":
        return [
            {
                "entity": one.label,
                "score": one.score,
                "index": one.token.position,
                "word": one.token.text,
                "start": one.token.start,
                "end": one.token.end,
            }
            for one in tagged
            if one.label not in ignored
        ]
    return grouped(tagged, model.tokenizer.join, ignored)


def _tag(token: Token, scores: FloatArray, labels: Sequence[str]) -> Tagged:
    best = int(scores.argmax())
    return Tagged(labels[best], float(scores[best]), token)


def words(tokens: Sequence[Token]) -> list[list[Token]]:
    """Return the tokens word by word."""
    found: list[list[Token]] = []
    for token in tokens:
        if found and token.goes_on:
            found[-1].append(token)
        else:
            found.append([token])
    return found


def _word(tokens: Sequence[Token], strategy: str, labels: Sequence[str], join: Join) -> Tagged:
    """Return a word with the label that the strategy gives to all of its tokens."""
    if strategy == "first" or len(tokens) == 1:
        scores = tokens[0].scores
    elif strategy == "max":
        scores = max(tokens, key=lambda token: float(token.scores.max())).scores
    else:
        scores = np.mean([token.scores for token in tokens], axis=0)
    first = tokens[0]
    word = Token(
        join([token.text for token in tokens]), scores, first.position, first.start, tokens[-1].end, goes_on=False
    )
    return _tag(word, scores, labels)


def grouped(tagged: Sequence[Tagged], join: Join, ignored: Collection[str]) -> list[dict[str, Any]]:
    """Join adjacent tokens with the same label. A label that begins with B- starts a new group."""
    groups: list[list[Tagged]] = []
    for one in tagged:
        if groups and not one.label.startswith("B-") and _tag_name(one.label) == _tag_name(groups[-1][-1].label):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [
        {
            "entity_group": name,
            "score": sum(one.score for one in group) / len(group),
            "word": join([one.token.text for one in group]),
            "start": group[0].token.start,
            "end": group[-1].token.end,
        }
        for group in groups
        if (name := group_of(group[0].label)) not in ignored
    ]


def group_of(label: str) -> str:
    """Return the group of an entity whose first token has this label: PER for B-PER."""
    return label.split("-", 1)[-1]


def _tag_name(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def without_overlaps(entities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entities in text order; of overlapping ones only the longest, and of equally long ones the best score."""
    kept: list[dict[str, Any]] = []
    for one in sorted(entities, key=lambda entity: int(entity["start"])):
        last = kept[-1] if kept else None
        if last is None or one["start"] >= last["end"]:
            kept.append(one)
        elif (one["end"] - one["start"], one["score"]) > (last["end"] - last["start"], last["score"]):
            kept[-1] = one
    return kept


def _cut(tokenizer: Tokenizer, request: EntitiesRequest) -> PreparedWindows:
    """Return each text as one window, cut if it is too long.

    Raises:
        ValidationFailed: a text is too long and truncation is off.
    """
    parameters = request.parameters
    texts = tokenizer.encode_located(request.listed, parameters.truncation_direction or tokenizer.direction)
    for i, text in enumerate(texts):
        if text.was_truncated and not parameters.truncation:
            raise ValidationFailed(
                f"inputs[{i}] has more than {tokenizer.max_length} tokens, the most this model takes. Shorten it, or set "
                "parameters.stride to have it read in windows."
            )
    return prepared_windows([[whole_window(text)] for text in texts], sum(text.was_truncated for text in texts))


def whole_window(text: Located) -> Window:
    """Return a text as one window."""
    return _part(text, text.texts[0])


def _part(text: Located, part: range) -> Window:
    [tokens] = text.texts
    return window(text, np.arange(tokens.start), part, np.arange(tokens.stop, len(text.input_ids)))


HANDLER: Final = EntitiesHandler()
