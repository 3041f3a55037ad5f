"""Answers: a span of a context that answers a question."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np
import torch
from scipy.special import softmax
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.errors import TrainingError, share, tell
from training.finetune.bad_rows import require_columns, without_bad_rows
from training.finetune.kind import Kind, Report
from training.flags import Reading

_COLUMNS: Final = ["question", "context", "answers"]
_QUESTION: Final = 64
"""Tokens of a question that the server reads, if a request does not ask for more."""
_STRIDE: Final = 128
"""Tokens that two windows share, or half a window if that is less."""
_CANDIDATES: Final = 12
"""Spans of a window that the server looks at for one answer; those of the same text are one."""
_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


class Answers(Kind):
    """The first and the last token of the answer; the first token of all where the context has none."""

    task = "answer"
    pipeline = "question-answering"
    best_metric = "f1"

    @staticmethod
    def read(reading: Reading, rows: datasets.Dataset, source: Path) -> datasets.Dataset:
        require_columns(rows, _COLUMNS, source, "They are SQuAD's: no option")
        return without_bad_rows(rows.select_columns(_COLUMNS), _fault_of, source, skip=reading.skip_bad_rows)

    @staticmethod
    def written(row: dict[str, Any]) -> dict[str, Any]:
        return row

    def find_labels(self, parts: Sequence[datasets.Dataset], known: Sequence[str]) -> None:
        self._has_unanswered = any(not answers["text"] for part in parts for answers in part["answers"])
        self._windows: list[_Window] = []

    def subjects(self, rows: datasets.Dataset) -> list[str]:
        # Not two questions on one context: what is learnt of it would be evaluated.
        return list(rows["context"])

    def model(self, checkpoint: str) -> PreTrainedModel:
        return AutoModelForQuestionAnswering.from_pretrained(
            checkpoint, num_labels=2, problem_type=None, ignore_mismatched_sizes=True, dtype=torch.float32
        )

    def features(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
        questions, longest = _questions(rows["question"], tokenizer)
        room = max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
        stride = self.options.doc_stride or min(_STRIDE, room // 2)
        if room <= stride:
            raise TrainingError(
                f"a question of {longest} tokens leaves {max(room, 0)} for its context, and windows share {stride}: give a larger "
                "--max-length, or a smaller --doc-stride."
            )
        cut = tokenizer(
            questions,
            list(rows["context"]),
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows = [
            _Window(row, cut["offset_mapping"][i], cut.word_ids(i), [one == 1 for one in cut.sequence_ids(i)])
            for i, row in enumerate(cut["overflow_to_sample_mapping"])
        ]
        if empty := [window.row for window in windows if not len(window.tokens)]:
            raise TrainingError(f"a context has no token: {rows['context'][empty[0]]!r}.")
        if rows is self.held_out:
            self._windows = windows
        answers = rows["answers"]
        spans = [window.span_of(answers[window.row]) for window in windows]
        columns = {name: cut[name] for name in tokenizer.model_input_names if name in cut}
        return datasets.Dataset.from_dict(
            {**columns, "start_positions": [start for start, _ in spans], "end_positions": [end for _, end in spans]}
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        return DataCollatorWithPadding(tokenizer)

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return self._figures(prediction, may_be_none=self._has_unanswered)

    def report(self, prediction: EvalPrediction, model: PreTrainedModel, folder: Path) -> Report:
        told = (
            f"## How to ask\n\nThe figures are of answers of at most {self.options.max_answer_length} tokens: a server's "
            "`parameters.max_answer_length`, whose default is 15."
        )
        if self._has_unanswered:
            always = self._figures(prediction, may_be_none=False)
            told += (
                " Some questions have no answer: the figures are of requests with `handle_impossible_answer: true`, and without it "
                f"F1 is {always['f1']:.3f}."
            )
        return Report(figures=self.metrics(prediction), sections=[told])

    def _figures(self, prediction: EvalPrediction, *, may_be_none: bool) -> dict[str, float]:
        found = self._found(*prediction.predictions[:2], may_be_none=may_be_none)
        wanted = [answers["text"] or [""] for answers in self.held_out["answers"]]
        exact = [max(_normal(text) == _normal(one) for one in texts) for text, texts in zip(found, wanted, strict=True)]
        f1 = [max(_overlap(text, one) for one in texts) for text, texts in zip(found, wanted, strict=True)]
        return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}

    def _found(self, starts: Any, ends: Any, *, may_be_none: bool) -> list[str]:
        """Return the best answer to each held-out question, as the server gives it; empty for none, if that may be."""
        contexts = self.held_out["context"]
        found: list[dict[str, tuple[float, str]]] = [{} for _ in contexts]
        nothing = np.ones(len(contexts))
        for window, start, end in zip(self._windows, starts, ends, strict=True):
            row = window.row
            none, answers = window.answers(start, end, contexts[row], self.options.max_answer_length)
            nothing[row] = min(nothing[row], none)
            for key, answer in answers.items():
                if key not in found[row] or answer[0] > found[row][key][0]:
                    found[row][key] = answer
        best = [max(answers.values(), key=itemgetter(0)) for answers in found]
        return ["" if may_be_none and none > score else text for none, (score, text) in zip(nothing, best, strict=True)]


class _Window:
    """A part of a context, behind the question."""

    def __init__(
        self, row: int, offsets: Sequence[tuple[int, int]], words: Sequence[int | None], is_context: Sequence[bool]
    ) -> None:
        self.row = row
        self.tokens = np.flatnonzero(is_context)
        self._offsets = np.array(offsets)
        self._words = np.array([words[i] for i in self.tokens.tolist()])

    def span_of(self, answers: dict[str, Any]) -> tuple[int, int]:
        """Return the tokens of the first answer, or the first token twice if the window has not all of it."""
        if not answers["text"]:
            return 0, 0
        start = answers["answer_start"][0]
        end = start + len(answers["text"][0])
        begins, ends = self._offsets[self.tokens].T
        inside = self.tokens[(begins < end) & (ends > start)]
        if not len(inside) or begins[0] > start or ends[-1] < end:
            return 0, 0
        return int(inside[0]), int(inside[-1])

    def answers(self, start: Any, end: Any, context: str, longest: int) -> tuple[float, dict[str, tuple[float, str]]]:
        """Return the score of no answer, and the likeliest answers with theirs, by their text without case.

        Args:
            start: [tokens], logits of a beginning there.
            end: [tokens], logits of an end there.
            context: All of it.
            longest: Tokens of an answer.
        """
        likely = softmax(np.stack([start, end])[:, [0, *self.tokens]].astype(np.float64), axis=-1)
        count = len(self.tokens)
        firsts, lasts = np.nonzero(np.tril(np.triu(np.ones((count, count), bool)), longest - 1))
        scores = likely[0, 1:][firsts] * likely[1, 1:][lasts]
        found: dict[str, tuple[float, str]] = {}
        for i in np.argsort(-scores, kind="stable")[:_CANDIDATES]:
            # Whole words, as far as the window has them.
            first = np.searchsorted(self._words, self._words[firsts[i]], "left")
            last = np.searchsorted(self._words, self._words[lasts[i]], "right") - 1
            text = context[self._offsets[self.tokens[first], 0] : self._offsets[self.tokens[last], 1]]
            before, text = found.get(text.lower(), (0.0, text))
            found[text.lower()] = (before + float(scores[i]), text)
        return float(likely[0, 0] * likely[1, 0]), found


def _questions(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], int]:
    """Return the questions as far as the server reads them, and the tokens of the longest."""
    offsets = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    lengths = [len(one) for one in offsets]
    if long := sum(length > _QUESTION for length in lengths):
        tell(
            f"{share(long, len(lengths))} questions have more than {_QUESTION} tokens and lose their end, as in a server."
        )
    cut = [
        text[: one[_QUESTION - 1][1]] if len(one) > _QUESTION else text
        for text, one in zip(questions, offsets, strict=True)
    ]
    return cut, min(max(lengths), _QUESTION)


def _fault_of(row: dict[str, Any]) -> str | None:
    if not all(isinstance(row[name], str) and row[name].strip() for name in ("question", "context")):
        return "have an empty question or context"
    answers = row["answers"] if isinstance(row["answers"], dict) else {}
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return "have answers without as many text as answer_start"
    if not all(isinstance(text, str) and isinstance(start, int) for text, start in zip(texts, starts, strict=True)):
        return "have answers that are no text, or an answer_start that is no whole number"
    if any(
        not text or start < 0 or not row["context"].startswith(text, start)
        for text, start in zip(texts, starts, strict=True)
    ):
        return "have an answer that is not at its answer_start"
    return None


def _normal(text: str) -> str:
    """Return a text as SQuAD compares it: without case, punctuation, articles and needless spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _overlap(found: str, wanted: str) -> float:
    """Return the F1 of the words that two texts have in common."""
    first, second = _normal(found).split(), _normal(wanted).split()
    if not first or not second:
        return float(first == second)
    same = (Counter(first) & Counter(second)).total()
    return 2 * same / (len(first) + len(second))
