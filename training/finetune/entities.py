"""Entities: spans of characters, each with a type."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import datasets
import torch
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.errors import TrainingError, few, share, tell
from training.finetune.bad_rows import require_columns, without_bad_rows
from training.finetune.cut import tell_cut
from training.finetune.kind import Kind, Report, label_options
from training.flags import Reading
from training.markdown import table

TOKENS: Final = ("tokens", "words")
TAGS: Final = ("ner_tags", "tags", "labels")
SPANS: Final = ("entities", "spans")
_OUTSIDE: Final = "O"
_PREFIXES: Final = "BIELMSU"
"""Of the schemes IOB, BILOU and BIOES: begins, goes on, ends, is alone."""
_IGNORED: Final = -100
"""The label of a token that is none of the text's own."""


class Span(NamedTuple):
    """An entity: its characters, and its type."""

    start: int
    end: int
    type: str


class Entities(Kind):
    """The label of each token: O, or B- and I- with the type of the entity that it begins or goes on."""

    task = "entities"
    pipeline = "token-classification"
    best_metric = "f1"

    @staticmethod
    def read(reading: Reading, rows: datasets.Dataset, source: Path) -> datasets.Dataset:
        def first(names: Sequence[str]) -> str | None:
            return next((name for name in names if name in rows.column_names), None)

        tokens = first(TOKENS)
        text = tokens or (reading.text_column or ["text"])[0]
        label = (reading.label_column or [first(TAGS if tokens else SPANS) or SPANS[0]])[0]
        require_columns(rows, [text], source, "--text-column")
        require_columns(rows, [label], source, "--label-column")
        parse = _from_tags if tokens else _from_spans

        def fault_of(row: dict[str, Any]) -> str | None:
            try:
                parse(row[text], row[label])
            except ValueError as error:
                return str(error)
            return None

        rows = without_bad_rows(rows, fault_of, source, skip=reading.skip_bad_rows)
        found = [parse(row[text], row[label]) for row in rows]
        return datasets.Dataset.from_dict(
            {"text": [text for text, _ in found], "spans": [[span._asdict() for span in spans] for _, spans in found]}
        )

    @staticmethod
    def written(row: dict[str, Any]) -> dict[str, Any]:
        spans = [{"start": span["start"], "end": span["end"], "label": span["type"]} for span in row["spans"]]
        return {"text": row["text"], "entities": spans}

    def find_labels(self, parts: Sequence[datasets.Dataset], known: Sequence[str]) -> None:
        counts = Counter(span["type"] for part in parts for spans in part["spans"] for span in spans)
        if not counts:
            raise TrainingError("no row has an entity: there is nothing to find.")
        if once := [name for name, count in counts.items() if count == 1]:
            raise TrainingError(
                f"{len(once)} of {len(counts)} types of entities occur only once ({few(once)}), and cannot be both learnt "
                "and evaluated. Merge or remove them."
            )
        names = [_OUTSIDE, *(f"{prefix}-{name}" for name in sorted(counts) for prefix in "BI")]
        self.names = tuple(known) if set(known) == set(names) else tuple(names)

    def subjects(self, rows: datasets.Dataset) -> list[str]:
        return list(rows["text"])

    def model(self, checkpoint: str) -> PreTrainedModel:
        return AutoModelForTokenClassification.from_pretrained(
            checkpoint,
            **label_options(self.names),
            problem_type=None,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )

    def features(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
        texts = list(rows["text"])
        tell_cut(
            [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]], max_length, tokenizer.model_max_length
        )
        cut = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
        numbers = {name: i for i, name in enumerate(self.names)}
        labels, split_spans = [], 0
        for i, spans in enumerate(rows["spans"]):
            own = [one is not None for one in cut.sequence_ids(i)]
            named, inexact = _labels(cut["offset_mapping"][i], own, [Span(**span) for span in spans])
            split_spans += inexact
            labels.append([_IGNORED if name is None else numbers[name] for name in named])
        if split_spans:
            total = sum(map(len, rows["spans"]))
            tell(f"{share(split_spans, total)} entities begin or end within a token; the whole token counts as theirs.")
        columns = {name: cut[name] for name in tokenizer.model_input_names if name in cut}
        return datasets.Dataset.from_dict({**columns, "labels": labels})

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        return DataCollatorForTokenClassification(tokenizer)

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        wanted, found = self._tags(prediction)
        return {
            "precision": float(precision_score(wanted, found, zero_division=0)),
            "recall": float(recall_score(wanted, found, zero_division=0)),
            "f1": float(f1_score(wanted, found, zero_division=0)),
        }

    def report(self, prediction: EvalPrediction, model: PreTrainedModel, folder: Path) -> Report:
        figures = classification_report(*self._tags(prediction), output_dict=True, zero_division=0)
        by_type = {
            name: {
                "precision": row["precision"],
                "recall": row["recall"],
                "f1": row["f1-score"],
                "entities": row["support"],
            }
            for name, row in figures.items()
            if not name.endswith(" avg")
        }
        rows = [[name, *map(_plain, row.values())] for name, row in by_type.items()]
        return Report(
            figures={
                **self.metrics(prediction),
                "types": {name: {k: _plain(v) for k, v in row.items()} for name, row in by_type.items()},
            },
            sections=["## By type\n\n" + table(["type", "precision", "recall", "F1", "entities"], rows)],
        )

    def _tags(self, prediction: EvalPrediction) -> tuple[list[list[str]], list[list[str]]]:
        """Return the labels of each row's tokens, and the predicted ones."""
        best = prediction.predictions.argmax(-1)
        is_own = prediction.label_ids != _IGNORED
        names = self.names
        return (
            [[names[i] for i in row[own]] for row, own in zip(prediction.label_ids, is_own, strict=True)],
            [[names[i] for i in row[own]] for row, own in zip(best, is_own, strict=True)],
        )


def _from_tags(tokens: Any, tags: Any) -> tuple[str, list[Span]]:
    """Return tokens as a text, and what their tags say as spans of it.

    Raises:
        ValueError: with the end of a sentence that says what is wrong with the row.
    """
    if not isinstance(tokens, list) or not isinstance(tags, list) or not tokens:
        raise ValueError("have no tokens")
    if len(tokens) != len(tags):
        raise ValueError("have more tokens than tags, or fewer")
    if not all(isinstance(tag, str) and tag for tag in tags) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("have tokens that are no text, or tags without a name")
    starts, position = [], 0
    for token in tokens:
        starts.append(position)
        position += len(token) + 1
    spans: list[Span] = []
    goes_on = False
    for token, tag, start in zip(tokens, tags, starts, strict=True):
        prefix, dash, kind = tag.partition("-")
        if tag == _OUTSIDE:
            goes_on = False
            continue
        if not dash or prefix not in _PREFIXES:  # without a prefix, what follows an entity of its type is of it
            prefix, kind = "I", tag
        if prefix in "IELM" and goes_on and spans[-1].type == kind:
            spans[-1] = spans[-1]._replace(end=start + len(token))
        else:
            spans.append(Span(start, start + len(token), kind))
        goes_on = prefix not in "ELSU"
    return " ".join(tokens), spans


def _from_spans(text: Any, spans: Any) -> tuple[str, list[Span]]:
    """Return the text with its spans in order; errors as in `_from_tags`."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("have an empty text")
    try:
        found = sorted(
            Span(int(span["start"]), int(span["end"]), str(span.get("label") or span["type"])) for span in spans or []
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError("have entities without start, end and label") from None
    if any(not 0 <= span.start < span.end <= len(text) for span in found):
        raise ValueError("have entities outside of the text")
    if any(first.end > second.start for first, second in pairwise(found)):
        raise ValueError("have entities that overlap")
    return text, found


def _labels(
    offsets: Sequence[tuple[int, int]], is_own: Sequence[bool], spans: Sequence[Span]
) -> tuple[list[str | None], int]:
    """Return the label of each token, None for those that are not the text's, and how many spans cut a token in two."""
    labels: list[str | None] = [_OUTSIDE if own else None for own in is_own]
    inexact = 0
    for span in spans:
        inside = [i for i, (start, end) in enumerate(offsets) if is_own[i] and start < span.end and end > span.start]
        for i in inside:
            labels[i] = f"{'B' if i == inside[0] else 'I'}-{span.type}"
        inexact += bool(inside) and (offsets[inside[0]][0] < span.start or offsets[inside[-1]][1] > span.end)
    return labels, inexact


def _plain(value: Any) -> Any:
    """Return a number of NumPy as JSON has it."""
    return value.item() if hasattr(value, "item") else value
