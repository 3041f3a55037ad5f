"""Answers: a span of a context that answers a question."""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.errors import TrainingError
from training.finetune.bad_rows import require_columns, without_bad_rows
from training.finetune.kind import Kind, Report
from training.flags import Reading

_COLUMNS: Final = ["question", "context", "answers"]
_LONGEST: Final = 30
"""Tokens of an answer, as the scripts of BERT and of transformers have it."""
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
        longest = max(len(ids) for ids in tokenizer(list(rows["question"]), verbose=False)["input_ids"])
        room = max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
        if room <= self.options.doc_stride:
            raise TrainingError(
                f"a question of {longest} tokens leaves {max(room, 0)} for its context, and windows share "
                f"{self.options.doc_stride}: give a larger --max-length, or a smaller --doc-stride."
            )
        cut = tokenizer(
            list(rows["question"]),
            list(rows["context"]),
            truncation="only_second",
            max_length=max_length,
            stride=self.options.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows = [
            _Window(row, cut["offset_mapping"][i], [one == 1 for one in cut.sequence_ids(i)])
            for i, row in enumerate(cut["overflow_to_sample_mapping"])
        ]
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
        rows = self.held_out
        found = self._found(*prediction.predictions[:2])
        wanted = [answers["text"] or [""] for answers in rows["answers"]]
        exact = [max(_normal(text) == _normal(one) for one in texts) for text, texts in zip(found, wanted, strict=True)]
        f1 = [max(_overlap(text, one) for one in texts) for text, texts in zip(found, wanted, strict=True)]
        return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}

    def report(self, prediction: EvalPrediction, model: PreTrainedModel, folder: Path) -> Report:
        return Report(figures=self.metrics(prediction))

    def _found(self, starts: Any, ends: Any) -> list[str]:
        """Return the best answer to each held-out question; empty for none, if some questions have none."""
        contexts = self.held_out["context"]
        best: dict[int, tuple[float, str]] = {}
        nothing: dict[int, float] = defaultdict(lambda: np.inf)
        for window, start, end in zip(self._windows, starts, ends, strict=True):
            score, text = window.best(start, end, contexts[window.row])
            nothing[window.row] = min(nothing[window.row], float(start[0] + end[0]))
            if window.row not in best or score > best[window.row][0]:
                best[window.row] = (score, text)
        return [
            "" if self._has_unanswered and nothing[row] > best[row][0] else best[row][1] for row in range(len(contexts))
        ]


class _Window:
    """A part of a context, behind the question."""

    def __init__(self, row: int, offsets: Sequence[tuple[int, int]], is_context: Sequence[bool]) -> None:
        self.row = row
        self._offsets = offsets
        inside = np.flatnonzero(is_context)
        self._first, self._last = int(inside[0]), int(inside[-1])

    def span_of(self, answers: dict[str, Any]) -> tuple[int, int]:
        """Return the tokens of the first answer, or the first token twice if the window has not all of it."""
        if not answers["text"]:
            return 0, 0
        start = answers["answer_start"][0]
        end = start + len(answers["text"][0])
        own = range(self._first, self._last + 1)
        inside = [i for i in own if self._offsets[i][0] < end and self._offsets[i][1] > start]
        if not inside or self._offsets[self._first][0] > start or self._offsets[self._last][1] < end:
            return 0, 0
        return inside[0], inside[-1]

    def best(self, start: Any, end: Any, context: str) -> tuple[float, str]:
        """Return the likeliest span of the window: its logits, added, and its text."""
        first, last = self._first, self._last + 1
        scores = start[first:last, None] + end[None, first:last]
        scores = np.where(np.triu(np.tri(last - first, k=_LONGEST - 1, dtype=bool)), scores, -np.inf)
        begin, finish = divmod(int(scores.argmax()), last - first)
        text = context[self._offsets[first + begin][0] : self._offsets[first + finish][1]]
        return float(scores[begin, finish]), text


def _fault_of(row: dict[str, Any]) -> str | None:
    if not all(isinstance(row[name], str) and row[name].strip() for name in ("question", "context")):
        return "have an empty question or context"
    answers = row["answers"]
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
        return "have answers without text and answer_start"
    pairs = zip(answers["text"], answers["answer_start"], strict=False)
    if any(row["context"][start : start + len(text)] != text or not text for text, start in pairs):
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
