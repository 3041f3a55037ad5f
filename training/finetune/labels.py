"""What the labels of rows mean: one of several, any of several, or a number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training.errors import TrainingError
from training.finetune.arguments import ProblemType

Label = str | list[str]
"""Of a row: the name of one or a number, or the names of several."""
_MOST_NUMBERS: Final = 50
"""Whole numbers with more values than these are no names of classes."""
_UNNAMED: Final = ["LABEL_0"]
"""What transformers calls the output of a head for numbers."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels, by number."""

    problem: ProblemType
    names: tuple[str, ...]
    are_known: bool
    """Whether they are those of the checkpoint's head."""

    def target(self, value: Label) -> int | list[float] | float:
        """Return what a model is to answer: a number of a label, 0 or 1 for each label, or a number."""
        if isinstance(value, list):
            return [float(name in value) for name in self.names]
        return float(value) if self.problem == "regression" else self.names.index(value)


def find_problem(values: Sequence[Label], asked: ProblemType | None) -> ProblemType:
    """Return what the labels of all rows are, by their looks if it was not asked for.

    Raises:
        TrainingError: they do not look like one thing, or not like what was asked for.
    """
    problem = asked or _guess(values)
    if problem == "multi_label_classification":
        if not all(isinstance(value, list) for value in values):
            raise TrainingError("several labels of a row are a list, or a cell that --label-delimiter parts.")
    elif any(isinstance(value, list) for value in values):
        raise TrainingError("a row has a list of labels: they are --problem-type multi_label_classification.")
    return problem


def read_labels(values: Sequence[Label], problem: ProblemType, known: Sequence[str]) -> Labels:
    """Find out what labels there are.

    Args:
        values: Of all rows.
        problem: What they are.
        known: The labels of the checkpoint's head, whose order is kept if they are the same.

    Raises:
        TrainingError: nothing can be learnt from them.
    """
    names = {name for value in values for name in ([value] if isinstance(value, str) else value)}
    if problem == "regression":
        if len(set(map(float, names))) == 1:
            raise TrainingError(f"all labels are {values[0]}: there is nothing to learn.")
        return Labels(problem, ("score",), list(known) in (["score"], _UNNAMED))
    if problem == "single_label_classification" and len(names) == 1:
        raise TrainingError(f"all rows have the label {values[0]!r}: there is nothing to tell it from.")
    if not names:
        raise TrainingError("no row has a label.")
    are_known = set(known) == names
    return Labels(problem, tuple(known if are_known else sorted(names, key=_order)), are_known)


def _guess(values: Sequence[Label]) -> ProblemType:
    if isinstance(values[0], list):
        return "multi_label_classification"
    if not all(is_number(value) for value in values):
        return "single_label_classification"
    numbers = {float(value) for value in values if isinstance(value, str)}
    if any(number != int(number) for number in numbers):
        return "regression"
    if len(numbers) > _MOST_NUMBERS:
        raise TrainingError(
            f"the labels are {len(numbers):,} different numbers: say whether they are --problem-type regression or "
            "single_label_classification."
        )
    return "single_label_classification"


def is_number(value: Label) -> bool:
    """Return whether a label can be a number to predict."""
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, before names by letter."""
    return (float(name), name) if is_number(name) else (math.inf, name)
