"""Entities: spans of characters, each with a type."""

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import datasets
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.errors import TrainingError, share, tell
from training.finetune.bad_rows import parse_rows, require_columns
from training.finetune.cut import encode
from training.finetune.kind import Kind, Report, load_model
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

        def parse(row: dict[str, Any]) -> dict[str, Any]:
            found, spans = (_from_tags if tokens else _from_spans)(row[text], row[label])
            return {"text": found, "spans": [span._asdict() for span in spans]}

        return parse_rows(rows, parse, source, skip=reading.skip_bad_rows)

    @staticmethod
    def written(row: dict[str, Any]) -> dict[str, Any]:
        spans = [{"start": span["start"], "end": span["end"], "label": span["type"]} for span in row["spans"]]
        return {"text": row["text"], "entities": spans}

    def find_labels(self, parts: Sequence[datasets.Dataset], known: Sequence[str]) -> None:
        types = {name for part in parts for names in self.labels_of(part) for name in names}
        if not types:
            raise TrainingError("no row has an entity: there is nothing to find.")
        names = [_OUTSIDE, *(f"{prefix}-{name}" for name in sorted(types) for prefix in "BI")]
        self._are_known = set(known) == set(names)
        self.names = tuple(known if self._are_known else names)
        self._missed: list[list[str]] = []

    def subjects(self, rows: datasets.Dataset) -> list[str]:
        return list(rows["text"])

    def labels_of(self, rows: datasets.Dataset) -> list[Collection[str]]:
        return [{span["type"] for span in spans} for spans in rows["spans"]]

    def model(self, checkpoint: str) -> PreTrainedModel:
        auto = AutoModelForTokenClassification
        return load_model(auto, checkpoint, self.names, None, are_known=self._are_known)

    def features(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
        texts = list(rows["text"])
        cut = encode(tokenizer, texts, None, max_length, return_offsets_mapping=True)
        numbers = {name: i for i, name in enumerate(self.names)}
        labels, missed, split_spans = [], [], 0
        for i, spans in enumerate(rows["spans"]):
            own = [one is not None for one in cut.sequence_ids(i)]
            named, without_token, inexact = _labels(cut["offset_mapping"][i], own, [Span(**span) for span in spans])
            split_spans += inexact
            missed.append(without_token)
            labels.append([_IGNORED if name is None else numbers[name] for name in named])
        total = sum(map(len, rows["spans"]))
        if split_spans:
            tell(f"{share(split_spans, total)} entities begin or end within a token; the whole token counts as theirs.")
        is_held_out = rows is self.held_out
        if any(missed):
            told = "count as not found" if is_held_out else "are not learnt"
            tell(f"{share(sum(map(len, missed)), total)} entities lie behind the cut and {told}.")
        if is_held_out:
            self._missed = missed
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
        wanted = [[names[i] for i in row[own]] for row, own in zip(prediction.label_ids, is_own, strict=True)]
        found = [[names[i] for i in row[own]] for row, own in zip(best, is_own, strict=True)]
        # An entity without a token is as one that was not found.
        missed = [[f"B-{name}" for name in types] for types in self._missed]
        return (
            [row + types for row, types in zip(wanted, missed, strict=True)],
            [row + [_OUTSIDE] * len(types) for row, types in zip(found, missed, strict=True)],
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
        found = sorted(map(_span, spans or []))
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise ValueError("have entities without start, end and label") from None
    if any(not 0 <= span.start < span.end <= len(text) for span in found):
        raise ValueError("have entities outside of the text")
    if any(first.end > second.start for first, second in pairwise(found)):
        raise ValueError("have entities that overlap")
    return text, found


def _span(given: Any) -> Span:
    if (name := given.get("label") or given["type"]) is None:
        raise ValueError
    return Span(int(given["start"]), int(given["end"]), str(name))


def _labels(
    offsets: Sequence[tuple[int, int]], is_own: Sequence[bool], spans: Sequence[Span]
) -> tuple[list[str | None], list[str], int]:
    """Return the label of each token, None if it is not the text's, the types of spans without one, and how many spans cut one."""
    labels: list[str | None] = [_OUTSIDE if own else None for own in is_own]
    missed: list[str] = []
    inexact = 0
    for span in spans:
        inside = [i for i, (start, end) in enumerate(offsets) if is_own[i] and start < span.end and end > span.start]
        for i in inside:
            labels[i] = f"{'B' if i == inside[0] else 'I'}-{span.type}"
        if not inside:
            missed.append(span.type)
        else:
            inexact += offsets[inside[0]][0] < span.start or offsets[inside[-1]][1] > span.end
    return labels, missed, inexact


def _plain(value: Any) -> Any:
    """Return a number of NumPy as JSON has it."""
    return value.item() if hasattr(value, "item") else value
