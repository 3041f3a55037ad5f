"""Answers to questions: the likeliest parts of a context, as transformers' question-answering pipeline chose them.

transformers 5 has none any more; this is like that of its last version 4, which is right but for these:

- It adds up the scores of an answer that several windows hold, which may then be over 1 and prefers what stands where windows
  overlap. Here an answer has the score of the window that is surest of it.
- Of a short context, which has fewer spans than it looks for, it also tells spans that begin with the special token of the
  start, with a score of 0; and if a question holds the text of that token, it may be the answer. Here neither is.
- With the tokenizers of today it does not cut a question that is longer than it was told, and fails where its windows do not
  fit beside one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from pydantic import BaseModel

from app.bundle import Task
from app.catalog import Model
from app.errors import ValidationFailed
from app.messages import FloatArray, IntArray
from app.schemas import AnswerParameters, AnswerRequest, AnswerResponse
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
from app.tokenization import Located

MAX_TOKENS: Final = 384
"""Of a window, as in the pipeline: what models for question answering are fine-tuned with since BERT's own SQuAD script."""
DEFAULT_STRIDE: Final = 128
WEIGHT_OF_WINDOW: Final = 24
"""What it takes to look through one window, as `weight` counts; a third of one is what a candidate takes."""


class QuestionAnswering:
    """`POST /v1/answer`."""

    task: ClassVar[Task] = "answer"
    summary: ClassVar[str] = "Answers to questions from a context"
    request: ClassVar[type[BaseModel]] = AnswerRequest
    response: ClassVar[type[BaseModel]] = AnswerResponse
    short_bytes: ClassVar[int] = SHORT_BYTES

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
        return prepared_windows([plan.windows() for plan in plans], sum(plan.is_cut for plan in plans))

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
                start, end = (probabilities(column, one) for column in next(logits).astype(np.float64).T)
                least_null = min(least_null, float(start[0] * end[0]))
                for key, answer in _answers(context, one, start[1:], end[1:], parameters):
                    if key not in found or answer["score"] > found[key]["score"]:
                        found[key] = answer
            answers = list(found.values())
            if parameters.handle_impossible_answer:
                answers.append({"answer": "", "score": least_null, "start": 0, "end": 0})
            # Python's sort is stable: of equal scores the first window's comes first.
            predictions.append(sorted(answers, key=_score, reverse=True)[: parameters.top_k])
        return predictions

    def weight(self, model: Model, request: AnswerRequest, prepared: PreparedWindows) -> int:  # noqa: ARG002
        return len(prepared.sequences) * (WEIGHT_OF_WINDOW + _candidates(request.parameters) // 3)


class _Plan(NamedTuple):
    """How an input is read: the tokens before its context, and the room for it in a window."""

    located: Located
    before: IntArray
    is_cut: bool
    room: int
    stride: int

    def windows(self) -> list[Window]:
        context = self.located.texts[1]
        after = np.arange(context.stop, len(self.located.input_ids))
        return [window(self.located, self.before, part, after) for part in spread(context, self.room, self.stride)]


def _plan(i: int, located: Located, max_tokens: int, parameters: AnswerParameters) -> _Plan:
    question, context = located.texts
    cut_off = question[parameters.max_question_length :]
    before = np.delete(np.arange(context.start), cut_off)
    room = max_tokens - len(before) - (len(located.input_ids) - context.stop)
    if room < 1:
        raise ValidationFailed(
            f"inputs[{i}].question leaves no room for the context: this model reads {max_tokens} tokens at once. "
            "Shorten it, or lower parameters.max_question_length."
        )
    stride = parameters.stride
    if stride is None:
        stride = min(DEFAULT_STRIDE, max_tokens // 2)
        stride = stride if stride < room else room // 2
    elif stride >= room and len(context) > room:
        raise ValidationFailed(
            f"parameters.stride: must be less than {room}, which is how many tokens of the context are read at once beside "
            f"the question of inputs[{i}]. Lower it, or leave it out."
        )
    return _Plan(located, before, bool(cut_off), room, min(stride, room - 1))


def probabilities(logits: FloatArray, one: Window) -> FloatArray:
    """Return the softmax over the first token, which stands for no answer, and the tokens of the context."""
    chosen = np.concatenate([logits[:1], logits[one.begin : one.begin + len(one.offsets)]])
    exponentials = np.exp(chosen - chosen.max())
    shares: FloatArray = exponentials / exponentials.sum()
    return shares


def best_spans(
    start: FloatArray, end: FloatArray, max_length: int, count: int
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the first and last token and the score of the `count` spans with the largest start x end, best first.

    Args:
        start: float[tokens], how likely an answer starts there.
        end: float[tokens], how likely it ends there.
        max_length: The most tokens of a span.
        count: How many, if there are as many.
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
    # Stable: of equal scores the first in the text comes first.
    best = chosen[np.argsort(-scores[chosen], kind="stable")][:count]
    return firsts[best], lasts[best], scores[best]


def _answers(
    context: str, one: Window, start: FloatArray, end: FloatArray, parameters: AnswerParameters
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the answers of a window, those of one wording together, with the wording that they are told apart by."""
    firsts, lasts, scores = best_spans(start, end, parameters.max_answer_length, _candidates(parameters))
    # An answer has whole words, as far as they stand in the window.
    begins = one.offsets[np.searchsorted(one.words, one.words[firsts], "left"), 0]
    ends = one.offsets[np.searchsorted(one.words, one.words[lasts], "right") - 1, 1]
    found: dict[str, dict[str, Any]] = {}
    for begin, stop, score in zip(begins.tolist(), ends.tolist(), scores.tolist(), strict=True):
        text = context[begin:stop]
        answer = found.setdefault(text.lower(), {"answer": text, "score": 0.0, "start": begin, "end": stop})
        answer["score"] += score
    yield from found.items()


def _candidates(parameters: AnswerParameters) -> int:
    """Return how many spans are looked at: some of them turn out to be the same words."""
    return 2 * parameters.top_k + 10


def _score(answer: dict[str, Any]) -> float:
    return float(answer["score"])
