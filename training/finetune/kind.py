"""What the kinds of tasks have in common: rows become features, predictions become figures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from training.finetune.arguments import Options, Task
from training.finetune.split import split
from training.flags import Reading
from training.rows import Rows

Loss = Callable[..., Any]


def label_options(names: Sequence[str]) -> dict[str, Any]:
    """Return the options of a head that has these labels."""
    numbers = {name: i for i, name in enumerate(names)}
    return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": numbers}


@dataclass(slots=True)
class Report:
    """What the held-out rows say of a model."""

    figures: dict[str, Any]
    """By name, as JSON has them."""
    sections: list[str] = field(default_factory=list)
    """Markdown, each with its heading."""


class Kind(ABC):
    """One kind of task, with its rows."""

    task: ClassVar[Task]
    pipeline: ClassVar[str]
    """Its name on the hub."""
    best_metric: str
    """The name of the figure by which the best step is chosen; more is better."""
    train: datasets.Dataset
    held_out: datasets.Dataset

    def __init__(self, options: Options, rows: Rows, evaluation: datasets.Dataset | None, known: Sequence[str]) -> None:
        """Check the rows and part them.

        Args:
            options: What was asked for.
            rows: What was given to learn from.
            evaluation: What was given to hold out, if it was given apart.
            known: The labels of the checkpoint's head.

        Raises:
            TrainingError: nothing can be learnt from them; the message says why.
        """
        self.options = options
        train = self.read(options, rows.train, options.data)
        apart = evaluation if evaluation is not None else rows.held_out
        held_out = None if apart is None else self.read(options, apart, options.eval_data or options.data)
        self.find_labels([train] if held_out is None else [train, held_out], known)
        if held_out is None:
            train, held_out = split(train, self.subjects(train), self.strata(train), options.eval_share, options.seed)
        self.train, self.held_out = train, held_out

    @staticmethod
    @abstractmethod
    def read(reading: Reading, rows: datasets.Dataset, source: Path) -> datasets.Dataset:
        """Return what is of use in the rows, in columns that are the kind's own.

        Raises:
            TrainingError: a column is missing, or there are bad rows and they are not to be left out.
        """

    @staticmethod
    @abstractmethod
    def written(row: dict[str, Any]) -> dict[str, Any]:
        """Return a row that was read, as JSON lines have it; it can be read again without an option."""

    @abstractmethod
    def find_labels(self, parts: Sequence[datasets.Dataset], known: Sequence[str]) -> None:
        """Find out what there is to learn in all the rows; errors as of the class."""

    @abstractmethod
    def subjects(self, rows: datasets.Dataset) -> list[str]:
        """Return what each row is about: rows with the same are either learnt from or held out."""

    def strata(self, rows: datasets.Dataset) -> list[str] | None:
        """Return the label of each row, if it has one, whose share is to be the same in both parts."""
        return None

    @abstractmethod
    def model(self, checkpoint: str) -> PreTrainedModel:
        """Return the checkpoint with a head for the task."""

    @abstractmethod
    def features(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
        """Return what the model takes, for each row or window of it, and how many texts are cut is printed."""

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Return what makes a batch of features."""

    def loss(self) -> Loss | None:
        """Return the loss; None for the model's own."""
        return None

    @abstractmethod
    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the figures that are told during training."""

    @abstractmethod
    def report(self, prediction: EvalPrediction, model: PreTrainedModel, folder: Path) -> Report:
        """Write the figures' pictures into the folder, and return what they show."""
