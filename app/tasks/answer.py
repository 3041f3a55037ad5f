"""Answers to questions: the most likely spans of a context, as in transformers' question-answering pipeline.

transformers 5 has no such pipeline any more. This follows that of the last version 4, except for its mistakes:

- It adds up the scores of an answer that is in several windows. The sum may exceed 1 and favours text where windows overlap.
  Here an answer has its highest score of any window.
- For a short context, which has fewer spans than it looks for, it also returns spans that begin with the special token at
  the start, with a score of 0; and if a question contains the text of that token, that may be the answer. Not here.
- With current tokenizers it does not cut a question that is longer than the limit, and fails if its windows do not fit next to
  the question.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from app.bundle.sequences import FloatArray, IntArray
from app.errors import ValidationFailed
from app.tasks.base import Model, TaskHandler, Usage, example
from app.tasks.inputs import MAX_TOP_K, ModelName, QuestionInputs, Request, as_list
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
from app.text.tokenizer import Direction
from app.work import go_on

MAX_TOKENS: Final = 384
"""Maximum tokens of a window, as in the pipeline and in fine-tuning since BERT's SQuAD script."""
DEFAULT_STRIDE: Final = 128
WEIGHT_OF_WINDOW: Final = 24
"""Cost of searching one window, in units of `weight`; a candidate costs a third of a unit, a token of the longest answer two."""


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


class AnswerRequest(Request):
    """Questions, each with a context to find its answer in."""

    model: ModelName = None
    inputs: QuestionInputs
    parameters: AnswerParameters = AnswerParameters()

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The inputs as a list of (question, context)."""
        return [(one.question, one.context) for one in as_list(self.inputs)]


class Answer(BaseModel):
    """A part of the context, `context[start:end]` in Python; empty for "no answer"."""

    answer: str
    score: float
    start: int
    end: int


class AnswerResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, best answer first; always a list."""

    model_config = example([{"answer": "Paris", "score": 0.9713, "start": 11, "end": 16}], tokens=18)

    model: str
    predictions: list[list[Answer]]
    usage: Usage


class AnswerHandler(TaskHandler[AnswerRequest, PreparedWindows, FloatArray]):
    """`POST /v1/answer`."""

    task = "answer"
    summary = "Answers to questions from a context"
    request = AnswerRequest
    response = AnswerResponse
    best = ("answer", "score", "start", "end")
    golden = "token_logits"
    short_bytes = SHORT_BYTES
    lighter = "Lower parameters.top_k, max_answer_length or stride, or send fewer or shorter inputs."

    def inputs_of(self, text: str, text_pair: str | None) -> Any:  # noqa: ANN401 - JSON
        return {"question": text, "context": text_pair}

    def example(self, model: Model) -> dict[str, Any]:
        return {
            "model": model.name,
            "inputs": {"question": "Where did Ada live?", "context": "Ada Lovelace lived in London."},
        }

    def prepare(self, model: Model, request: AnswerRequest) -> PreparedWindows:
        plans = [
            _plan(i, located, min(MAX_TOKENS, model.tokenizer.max_length), request.parameters)
            for i, located in enumerate(model.tokenizer.encode_located(request.listed, cut=None))
        ]
        refuse_many(sum(count_windows(len(plan.located.texts[1]), plan.room, plan.stride) for plan in plans))
        direction = model.tokenizer.direction
        return prepared_windows([plan.windows(direction) for plan in plans], sum(plan.is_cut for plan in plans))

    def answer(
        self,
        model: Model,  # noqa: ARG002
        request: AnswerRequest,
        prepared: PreparedWindows,
        results: Sequence[FloatArray],
    ) -> list[Any]:
        parameters = request.parameters
        predictions = []
        logits = iter(results)
        for (_, context), windows in zip(request.listed, prepared.windows, strict=True):
            found: dict[str, dict[str, Any]] = {}
            least_null = 1.0
            for one in windows:
                go_on()
                start, end = (probabilities(column, one) for column in next(logits).astype(np.float64).T)
                least_null = min(least_null, float(start[0] * end[0]))
                for key, answer in _answers(context, one, start[1:], end[1:], parameters):
                    if key not in found or answer["score"] > found[key]["score"]:
                        found[key] = answer
            answers = list(found.values())
            if parameters.handle_impossible_answer:
                answers.append({"answer": "", "score": least_null, "start": 0, "end": 0})
            # Python's sort is stable: of equal scores, that of the first window comes first.
            predictions.append(sorted(answers, key=_score, reverse=True)[: parameters.top_k])
        return predictions

    def weight(self, model: Model, request: AnswerRequest, prepared: PreparedWindows) -> int:  # noqa: ARG002
        parameters = request.parameters
        length = min(parameters.max_answer_length, MAX_TOKENS)
        return len(prepared.sequences) * (WEIGHT_OF_WINDOW + _candidates(parameters) // 3 + 2 * length)


class _Plan(NamedTuple):
    """How an input is read: the tokens before the context, and the room for the context in a window."""

    located: Located
    before: IntArray
    is_cut: bool
    room: int
    stride: int

    def windows(self, direction: Direction) -> list[Window]:
        context = self.located.texts[1]
        after = np.arange(context.stop, len(self.located.input_ids))
        parts = spread(context, self.room, self.stride, direction)
        return [window(self.located, self.before, part, after) for part in parts]


def _plan(i: int, located: Located, max_tokens: int, parameters: AnswerParameters) -> _Plan:
    question, context = located.texts
    cut_off = question[parameters.max_question_length :]
    before = np.delete(np.arange(context.start), cut_off)
    room = max_tokens - len(before) - (len(located.input_ids) - context.stop)
    if room < 1:
        raise ValidationFailed(
            f"inputs[{i}].question leaves no room for the context: this model reads {max_tokens} tokens at once. "
            f"Shorten it, or lower parameters.{parameters.called('max_question_length')}."
        )
    stride = parameters.stride
    if stride is None:
        stride = min(DEFAULT_STRIDE, max_tokens // 2)
        stride = stride if stride < room else room // 2
    elif stride >= room and len(context) > room:
        raise ValidationFailed(
            f"parameters.{parameters.called('stride')}: must be less than {room}, which is how many tokens of the context are read at once beside "
            f"the question of inputs[{i}]. Lower it, or leave it out."
        )
    return _Plan(located, before, bool(cut_off), room, min(stride, room - 1))


def probabilities(logits: FloatArray, one: Window) -> FloatArray:
    """Return the softmax over the first token, which means "no answer", and the tokens of the context."""
    chosen = np.concatenate([logits[:1], logits[one.begin : one.begin + len(one.offsets)]])
    exponentials = np.exp(chosen - chosen.max())
    shares: FloatArray = exponentials / exponentials.sum()
    return shares


def best_spans(
    start: FloatArray, end: FloatArray, max_length: int, count: int
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the first and last token and the score of the `count` spans with the largest start x end, best first.

    Args:
        start: float[tokens], probability that an answer starts there.
        end: float[tokens], probability that it ends there.
        max_length: Maximum tokens of a span.
        count: How many to return, if there are that many.
    """
    tokens = len(start)
    width = np.arange(min(max_length, tokens))
    first = np.arange(tokens)[:, None]
    firsts, widths = np.nonzero(first + width < tokens)
    lasts = firsts + widths
    scores = start[firsts] * end[lasts]
    if len(scores) > count:
        chosen = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    else:
        chosen = np.arange(len(scores))
    # Stable: of equal scores, the first in the text comes first.
    best = chosen[np.argsort(-scores[chosen], kind="stable")][:count]
    return firsts[best], lasts[best], scores[best]


def _answers(
    context: str, one: Window, start: FloatArray, end: FloatArray, parameters: AnswerParameters
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the answers of a window by lowercased text; spans with the same text are one answer."""
    firsts, lasts, scores = best_spans(start, end, parameters.max_answer_length, _candidates(parameters))
    # An answer is extended to whole words, as far as these are in the window.
    begins = one.offsets[np.searchsorted(one.words, one.words[firsts], "left"), 0]
    ends = one.offsets[np.searchsorted(one.words, one.words[lasts], "right") - 1, 1]
    found: dict[str, dict[str, Any]] = {}
    for begin, stop, score in zip(begins.tolist(), ends.tolist(), scores.tolist(), strict=True):
        text = context[begin:stop]
        answer = found.setdefault(text.lower(), {"answer": text, "score": 0.0, "start": begin, "end": stop})
        answer["score"] += score
    yield from found.items()


def _candidates(parameters: AnswerParameters) -> int:
    """Return how many spans to consider: more than `top_k`, as some have the same text."""
    return 2 * parameters.top_k + 10


def _score(answer: dict[str, Any]) -> float:
    return float(answer["score"])


HANDLER: Final = AnswerHandler()
