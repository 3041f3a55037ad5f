"""Classification of texts and of pairs of texts."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    precision_recall_fscore_support,
    root_mean_squared_error,
)
from sklearn.utils.class_weight import compute_class_weight
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.errors import TrainingError, few
from training.figures import draw_calibration, draw_confusion
from training.finetune.arguments import Options, ProblemType
from training.finetune.bad_rows import fault_of_texts, parse_rows, require_columns
from training.finetune.calibration import expected_calibration_error, reliability, temperature
from training.finetune.cut import encode
from training.finetune.kind import Kind, Loss, Report, load_model, output_layer
from training.finetune.labels import Label, find_problem, is_number, read_labels
from training.flags import Reading
from training.markdown import table

TEXT, PAIR, LABEL = "text", "text_pair", "label"
_MARKS: Final = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
}
_BEST: Final[Mapping[ProblemType, str]] = {
    "single_label_classification": "f1_macro",
    "multi_label_classification": "f1_micro",
    "regression": "pearson",
}


class Classification(Kind):
    """One label, several labels or a number for a text or a pair."""

    task = "classify"
    pipeline = "text-classification"

    @staticmethod
    def read(reading: Reading, rows: datasets.Dataset, source: Path) -> datasets.Dataset:
        texts = reading.text_column or ([TEXT, PAIR] if PAIR in rows.column_names else [TEXT])
        if len(texts) > 2:
            raise TrainingError("--text-column names one column, or two.")
        labels = reading.label_column or [LABEL]
        require_columns(rows, texts, source, "--text-column")
        require_columns(rows, labels, source, "--label-column")
        if reading.label_delimiter == "":
            raise TrainingError("--label-delimiter is at least one character.")
        is_regression = isinstance(reading, Options) and reading.problem_type == "regression"

        def parse(row: dict[str, Any]) -> dict[str, Any]:
            cells = [row[name] for name in texts]
            if fault := fault_of_texts(cells):
                raise ValueError(fault)
            label = _label(row, labels, reading.label_delimiter)
            if is_regression and not is_number(label):
                raise ValueError("have a label that is no number")
            return {TEXT: cells[0], PAIR: cells[1] if len(cells) > 1 else "", LABEL: label}

        return parse_rows(rows.select_columns(list({*texts, *labels})), parse, source, skip=reading.skip_bad_rows)

    @staticmethod
    def written(row: dict[str, Any]) -> dict[str, Any]:
        return row if row[PAIR] else {TEXT: row[TEXT], LABEL: row[LABEL]}

    def find_problem(self, parts: Sequence[datasets.Dataset]) -> None:
        self._problem = find_problem([value for part in parts for value in part[LABEL]], self.options.problem_type)

    def find_labels(self, parts: Sequence[datasets.Dataset], known: Sequence[str]) -> None:
        options = self.options
        self.labels = read_labels([value for part in parts for value in part[LABEL]], self._problem, known)
        self._is_single = self.labels.problem == "single_label_classification"
        self.best_metric = _BEST[self.labels.problem]
        if options.class_weights == "balanced" and self.labels.problem == "regression":
            raise TrainingError("--class-weights are for labels, and these are numbers to predict.")
        if options.calibrate and not self._is_single:
            raise TrainingError("--calibrate is for texts with one label each.")

    def subjects(self, rows: datasets.Dataset) -> list[str]:
        return ["\n".join(pair) for pair in zip(rows[TEXT], rows[PAIR], strict=True)]

    def labels_of(self, rows: datasets.Dataset) -> list[Collection[str]]:
        if self._problem == "regression":
            return super().labels_of(rows)
        return [[value] if isinstance(value, str) else value for value in rows[LABEL]]

    def model(self, checkpoint: str) -> PreTrainedModel:
        labels = self.labels
        auto = AutoModelForSequenceClassification
        return load_model(auto, checkpoint, labels.names, labels.problem, are_known=labels.are_known)

    def features(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
        texts, pairs = list(rows[TEXT]), list(rows[PAIR]) if any(rows[PAIR]) else None
        cut = encode(tokenizer, texts, pairs, max_length)
        columns = {name: cut[name] for name in tokenizer.model_input_names if name in cut}
        return datasets.Dataset.from_dict({**columns, "labels": [self.labels.target(value) for value in rows[LABEL]]})

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        return DataCollatorWithPadding(tokenizer)

    def loss(self) -> Loss | None:
        if self.options.class_weights == "none":
            return None
        targets = np.array([self.labels.target(value) for value in self.train[LABEL]])
        return _Balanced(targets, len(self.labels.names), is_single=self._is_single)

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        logits, targets = prediction.predictions, prediction.label_ids
        match self.labels.problem:
            case "single_label_classification":
                best = logits.argmax(-1)
                return {
                    "accuracy": accuracy_score(targets, best),
                    "f1_macro": f1_score(targets, best, labels=_evaluated(targets), average="macro", zero_division=0),
                }
            case "multi_label_classification":
                chosen = logits > 0
                each = [f1_score(targets[:, i], chosen[:, i], zero_division=0) for i in _evaluated(targets)]
                return {
                    "exact": accuracy_score(targets, chosen),
                    # Column by column: of one label alone the library would count the rows without it.
                    "f1_micro": f1_score(targets.ravel(), chosen.ravel(), zero_division=0),
                    "f1_macro": sum(each) / max(len(each), 1),
                }
            case "regression":
                scores = logits.squeeze(-1)
                is_flat = np.ptp(scores) == 0 or np.ptp(targets) == 0  # without a correlation
                return {
                    "rmse": root_mean_squared_error(targets, scores),
                    "mae": mean_absolute_error(targets, scores),
                    "pearson": 0.0 if is_flat else float(pearsonr(targets, scores).statistic),
                    "spearman": 0.0 if is_flat else float(spearmanr(targets, scores).statistic),
                }

    def report(self, prediction: EvalPrediction, model: PreTrainedModel, folder: Path) -> Report:
        report = Report(figures={name: float(value) for name, value in self.metrics(prediction).items()})
        if self.labels.problem == "regression":
            return report
        logits, targets = prediction.predictions, prediction.label_ids
        self._add_labels(report, logits.argmax(-1) if self._is_single else logits > 0, targets)
        if self._is_single:
            self._add_confusion(report, logits.argmax(-1), targets, folder)
            self._add_calibration(report, logits, targets, model, folder)
        return report

    def _add_labels(self, report: Report, chosen: Any, targets: Any) -> None:
        names, numbers = self.labels.names, _evaluated(targets)
        if self._is_single:
            columns = precision_recall_fscore_support(targets, chosen, labels=numbers, average=None, zero_division=0)
        else:
            each = [
                precision_recall_fscore_support(targets[:, i], chosen[:, i], labels=[1], average=None, zero_division=0)
                for i in numbers
            ]
            columns = [[figures[0] for figures in one] for one in zip(*each, strict=True)]
        by_label = {
            names[i]: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "rows": int(rows)}
            for i, precision, recall, f1, rows in zip(numbers, *columns, strict=True)
        }
        report.figures["labels"] = by_label
        section = table(["label", "precision", "recall", "F1", "rows"], [[k, *v.values()] for k, v in by_label.items()])
        if others := [name for name in names if name not in by_label]:
            section += f"\n\nNo held-out row has these labels, which `f1_macro` leaves out: {few(others)}."
        report.sections.append(f"## By label\n\n{section}")

    def _add_confusion(self, report: Report, best: Any, targets: Any, folder: Path) -> None:
        counts = confusion_matrix(targets, best, labels=range(len(self.labels.names)))
        report.figures["confusion"] = counts.tolist()
        draw_confusion(counts, self.labels.names, folder / "confusion.png")
        report.sections.append("## Confusion\n\n![Labels by predicted labels](confusion.png)")

    def _add_calibration(self, report: Report, logits: Any, targets: Any, model: PreTrainedModel, folder: Path) -> None:
        found = temperature(logits, targets)
        scores, truer = softmax(logits, -1), softmax(logits / found, -1)
        before, after = (expected_calibration_error(each, targets) for each in (scores, truer))
        if self.options.calibrate:
            _divide_logits(model, found)
        report.figures["calibration"] = {
            "temperature": found,
            "expected_error": before,
            "expected_error_at_temperature": after,
            "is_applied": self.options.calibrate,
        }
        curves = {"as it is": reliability(scores, targets), f"temperature {found:.2f}": reliability(truer, targets)}
        draw_calibration(curves, folder / "calibration.png")
        applied = (
            "The checkpoint's logits are divided by it."
            if self.options.calibrate
            else "`--calibrate` divides the logits by it."
        )
        report.sections.append(
            f"## Calibration\n\nScores differ from the share that is right by {before:.3f} on average (expected calibration "
            f"error, 15 bins), and by {after:.3f} at the temperature {found:.2f}, which was found on the same rows. {applied}\n\n"
            "![Share that is right by score](calibration.png)"
        )


def _label(row: dict[str, Any], columns: list[str], delimiter: str | None) -> Label:
    """Return the label of a row as text, or its labels.

    Raises:
        ValueError: with the end of a sentence that says what is wrong with the row.
    """
    if len(columns) > 1:
        marks = {name: _MARKS.get(str(row[name]).strip().lower()) for name in columns}
        if None in marks.values():
            raise ValueError("have a label that is neither 0 nor 1")
        return [name for name, is_marked in marks.items() if is_marked]
    value = row[columns[0]]
    if isinstance(value, str) and delimiter is not None:
        value = [name for name in value.split(delimiter) if name.strip()]
    return [_name(one) for one in value] if isinstance(value, list) else _name(value)


def _name(value: Any) -> str:
    """Return a label as a CSV has it; errors as of `_label`."""
    name = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    if isinstance(value, dict | list | None) or name.lower() in ("", "nan"):
        raise ValueError("have no label")
    return name


def _evaluated(targets: Any) -> list[int]:
    """Return the numbers of the labels that rows have, [rows] or [rows, labels] of 0 and 1."""
    return list(map(int, np.unique(targets) if targets.ndim == 1 else np.flatnonzero(targets.any(0))))


class _Balanced:
    """A loss to which each label contributes as much as any other, however rare it is."""

    def __init__(self, targets: Any, labels: int, *, is_single: bool) -> None:
        self._is_single = is_single
        if is_single:
            weights = np.ones(labels)  # of one that only the held-out rows have
            present = np.unique(targets)
            weights[present] = compute_class_weight("balanced", classes=present, y=targets)
        else:
            positive = targets.sum(0).clip(1)
            weights = (len(targets) - positive).clip(1) / positive
        self._weights = torch.tensor(weights, dtype=torch.float32)

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        functions = torch.nn.functional
        weights = self._weights.to(labels.device)
        if self._is_single:
            total = functions.cross_entropy(outputs.logits, labels, weight=weights, reduction="sum")
        else:
            total = functions.binary_cross_entropy_with_logits(
                outputs.logits, labels, pos_weight=weights, reduction="sum"
            )
        # A step may be of several batches, whose labels all count the same.
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def _divide_logits(model: PreTrainedModel, divisor: float) -> None:
    last = output_layer(model)
    with torch.no_grad():
        last.weight /= divisor
        last.bias /= divisor
