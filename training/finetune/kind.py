"""What the kinds of tasks have in common: rows become features, predictions become figures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from training.finetune.arguments import Options, Task
from training.flags import Reading
from training.rows import Rows

Loss = Callable[..., Any]


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
    sampling: ClassVar[str] = "group_by_length"
    """How batches are drawn: of texts of about one length, for less padding."""
    train: datasets.Dataset
    held_out: datasets.Dataset

    @abstractmethod
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

    @staticmethod
    @abstractmethod
    def read(reading: Reading, rows: datasets.Dataset, source: Path) -> datasets.Dataset:
        """Return what is of use in the rows, in columns that are the kind's own.

        Raises:
            TrainingError: a column is missing, or there are bad rows and they are not to be left out.
        """

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
