"""What the labels of rows mean: one of several, any of several, or a number."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.errors import TrainingError, few
from training.finetune.arguments import ProblemType

_MOST_NUMBERS: Final = 50
"""Whole numbers with more values than these are no names of classes."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels, by number."""

    problem: ProblemType
    names: tuple[str, ...]

    def target(self, value: Any) -> int | list[float] | float:
        """Return what a model is to answer: a number of a label, 0 or 1 for each label, or a number."""
        if self.problem == "regression":
            return float(value)
        if self.problem == "single_label_classification":
            return self.names.index(str(value))
        return [float(name in value) for name in self.names]


def read_labels(values: Sequence[Any], problem: ProblemType | None, known: Sequence[str]) -> Labels:
    """Find out what labels there are.

    Args:
        values: Of all rows: text or numbers, or a list of names for a row.
        problem: What they are; None to go by their looks.
        known: The labels of the checkpoint's head, whose order is kept if they are the same.

    Raises:
        TrainingError: nothing can be learnt from them.
    """
    problem = problem or _problem(values)
    if problem == "regression":
        if not all(_is_number(value) for value in values):
            raise TrainingError(f"a label is no number: {next(v for v in values if not _is_number(v))!r}.")
        if len(set(map(float, values))) == 1:
            raise TrainingError(f"all labels are {values[0]}: there is nothing to learn.")
        return Labels(problem, ("score",))
    if problem == "multi_label_classification":
        if not all(isinstance(value, list) for value in values):
            raise TrainingError("several labels of a row are a list, or a cell that --label-delimiter parts.")
        counts = Counter(name for value in values for name in value)
    else:
        if any(isinstance(value, list | dict) for value in values):
            raise TrainingError(
                "a row has a list of labels, or none that has a name: they are --problem-type multi_label_classification."
            )
        counts = Counter(map(str, values))
    if problem == "single_label_classification" and len(counts) == 1:
        raise TrainingError(f"all rows have the label {next(iter(counts))!r}: there is nothing to tell it from.")
    if not counts:
        raise TrainingError("no row has a label.")
    if once := [name for name, count in counts.items() if count == 1]:
        raise TrainingError(
            f"{len(once)} of {len(counts)} labels occur only once ({few(once)}), and cannot be both learnt and evaluated. "
            "Merge or remove them; if the labels are numbers to predict, say --problem-type regression."
        )
    names = tuple(known) if set(known) == set(counts) else tuple(sorted(counts, key=_order))
    return Labels(problem, names)


def _problem(values: Sequence[Any]) -> ProblemType:
    if isinstance(values[0], list):
        return "multi_label_classification"
    if not all(_is_number(value) for value in values):
        return "single_label_classification"
    numbers = set(map(float, values))
    if any(number != int(number) for number in numbers):
        return "regression"
    if len(numbers) > _MOST_NUMBERS:
        raise TrainingError(
            f"the labels are {len(numbers):,} different numbers: say whether they are --problem-type regression or "
            "single_label_classification."
        )
    return "single_label_classification"


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, before names by letter."""
    return (float(name), name) if _is_number(name) else (math.inf, name)
