"""What the kinds of tasks have in common: rows become features, predictions become figures."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import torch
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from training.errors import few, share, tell
from training.finetune.arguments import Options, ProblemType, Task
from training.finetune.bad_rows import without_labels
from training.finetune.labels import is_number
from training.finetune.split import split
from training.flags import Reading
from training.rows import Rows

Loss = Callable[..., Any]


def load_model(
    auto: Any, checkpoint: str, names: Sequence[str], problem: ProblemType | None, *, are_known: bool
) -> PreTrainedModel:
    """Return the checkpoint with a head for labels: its own if that is for the same, or a new one.

    Args:
        auto: The class of transformers that loads a network with the head.
        checkpoint: A folder or a name on the hub.
        names: The labels, by number.
        problem: What they are; None if each token has one.
        are_known: Whether they are the labels of the checkpoint's head.
    """
    model, loading = auto.from_pretrained(
        checkpoint,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type=problem,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    output = output_layer(model)
    [name] = (name for name, module in model.named_modules() if module is output)
    if not are_known and f"{name}.weight" not in loading["missing_keys"]:
        tell(f"The head of {checkpoint} is for other labels: a new one is learnt.")
        torch.nn.init.normal_(output.weight, std=model.config.initializer_range)
        torch.nn.init.zeros_(output.bias)
    return model


def output_layer(model: PreTrainedModel) -> torch.nn.Linear:
    """Return the last layer of the head, whose outputs are the logits."""
    # Not the last of the network: XLM-RoBERTa has its encoder behind its head.
    return [module for module in model.classifier.modules() if isinstance(module, torch.nn.Linear)][-1]


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
        if apart is None:
            self.find_problem([train])
            train = self._without_single(train)
            self.find_labels([train], known)
            train, held_out = split(train, self.subjects(train), self._strata(train), options.eval_share, options.seed)
        else:
            held_out = self.read(options, apart, options.eval_data or options.data)
            self.find_problem([train, held_out])
            held_out = self._without_unlearnt(train, held_out)
            self.find_labels([train, held_out], known)
        self.train, self.held_out = train, held_out
        self._tell_sides()

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

    def find_problem(self, parts: Sequence[datasets.Dataset]) -> None:  # noqa: B027 - only labels have several
        """Find out what the labels of all the rows are; errors as of the class."""

    @abstractmethod
    def find_labels(self, parts: Sequence[datasets.Dataset], known: Sequence[str]) -> None:
        """Find out what there is to learn in all the rows; errors as of the class."""

    @abstractmethod
    def subjects(self, rows: datasets.Dataset) -> list[str]:
        """Return what each row is about: rows with the same are either learnt from or held out."""

    def labels_of(self, rows: datasets.Dataset) -> list[Collection[str]]:
        """Return the labels of each row that need other rows with the same; none if there are no such labels."""
        return [()] * len(rows)

    def _without_single(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Leave out labels of one text alone, until there is none."""
        while True:
            labels = self.labels_of(rows)
            pairs = {(text, name) for text, names in zip(self.subjects(rows), labels, strict=True) for name in names}
            single = [name for name, count in Counter(name for _, name in pairs).items() if count == 1]
            if not single:
                return rows
            fault = "are of one text alone, and cannot be both learnt and evaluated"
            if all(map(is_number, single)):
                fault += " unless they are numbers to predict, --problem-type regression"
            rows = without_labels(rows, labels, single, fault, skip=self.options.skip_bad_rows)

    def _without_unlearnt(self, train: datasets.Dataset, held_out: datasets.Dataset) -> datasets.Dataset:
        labels = self.labels_of(held_out)
        unlearnt = _all(labels) - _all(self.labels_of(train))
        fault = "occur only in the held-out rows, and cannot be learnt"
        return without_labels(held_out, labels, unlearnt, fault, skip=self.options.skip_bad_rows)

    def _strata(self, rows: datasets.Dataset) -> list[str]:
        """Return the rarest label of each row: those that are not are evaluated anyway."""
        labels = self.labels_of(rows)
        counts = Counter(name for names in labels for name in names)
        return [min(names, key=lambda name: (counts[name], name), default="") for names in labels]

    def _tell_sides(self) -> None:
        """Print which labels and texts are not on the side where they should be."""
        learnt, evaluated = (_all(self.labels_of(rows)) for rows in (self.train, self.held_out))
        for only, told in (
            (learnt - evaluated, "are not evaluated, as no held-out row has them"),
            (evaluated - learnt, "are not learnt, as only held-out rows have them"),
        ):
            if only:
                tell(f"{len(only):,} of {len(learnt | evaluated):,} labels {told}: {few(sorted(only))}.")
        texts = set(self.subjects(self.train))
        if both := sum(text in texts for text in self.subjects(self.held_out)):
            tell(
                f"{share(both, len(self.held_out))} held-out rows have a text that is learnt from, too: the figures are better "
                "than those of new texts."
            )

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


def _all(labels: Sequence[Collection[str]]) -> set[str]:
    return set().union(*labels)
