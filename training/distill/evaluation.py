"""What models are asked to tell how good they are, and what is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy.stats import pearsonr

Row = dict[str, str]
"""A row as `python -m app predict` takes it: text and perhaps text_pair, or question and context."""
Form = Literal["label", "labels", "number", "entities", "answer"]
"""What a model answers: one label, any of several, a number, entities, or a span of the context."""
MEASURES: Final[Mapping[Form, str]] = {
    "label": "accuracy",
    "labels": "F1 of labels",
    "number": "Pearson correlation",
    "entities": "F1 of entities",
    "answer": "exact match",
}
"""What tells how good its answers are; of each, more is better."""
Answer = Any
"""What a row is answered: a number, or a set of labels, entities or texts."""


@dataclass(slots=True)
class Evaluation:
    """Rows to ask, and their right answers; None until the first model is asked, where right is what the teacher answers."""

    rows: list[Row]
    answers: list[Answer] | None

    @property
    def parameters(self) -> dict[str, object]:
        """Of the requests: where the context lacks the answer to some questions, no answer competes with those that are found."""
        is_impossible = any(isinstance(right, set) and "" in right for right in self.answers or [])
        return {"handle_impossible_answer": True} if is_impossible else {}


def quality(form: Form, found: Sequence[Answer], wanted: Sequence[Answer]) -> float:
    """Return how well what was found is what is right, by the form's measure.

    The F1 of the sets of all rows is the share of rows that are right where each has one answer. Of several answers to a
    question each is right.
    """
    if form == "number":
        return float(pearsonr(found, wanted).statistic) if np.ptp(found) and np.ptp(wanted) else 0.0
    if form == "answer":
        wanted = [one & other or other for one, other in zip(found, wanted, strict=True)]
    same = sum(len(one & other) for one, other in zip(found, wanted, strict=True))
    total = sum(len(one) + len(other) for one, other in zip(found, wanted, strict=True))
    return 2 * same / total if total else 1.0
