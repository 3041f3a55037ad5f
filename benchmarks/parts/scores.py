"""How far a precision's scores are from those of fp32, and whether a best answer is another: what a caller sees of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from app.bundle.manifest import Manifest
from app.bundle.sequences import MaskScores, SequenceResult
from app.tasks.classify import default_function
from app.tasks.scores import FUNCTIONS

MOST_DIFFERENCE: Final = 2e-3
"""Of a classifier's score in fp16, as the export promises, and of an embedding's direction."""
SURE: Final = 0.01
"""Where the best score leads by more than this, it has to be the best in every precision."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of so many answers: the largest difference of a score, and how many have another best one that was sure.

    A difference is infinite where a score is not a number.
    """

    answers: int
    difference: float
    flips: int

    def is_good(self, most: float) -> bool:
        """Return whether no difference is over `most`, and no sure answer is another."""
        return self.difference <= most and self.flips == 0


def most_difference(manifest: Manifest, tolerance: float) -> float:
    """Return how far scores may be off: where the export promises nothing, as of regressions and tokens, by its `tolerance`."""
    is_promised = manifest.task in ("classify", "next-sentence", "embed") and manifest.problem_type != "regression"
    return MOST_DIFFERENCE if is_promised else max(MOST_DIFFERENCE, tolerance)


def compare(manifest: Manifest, exact: Sequence[SequenceResult], measured: Sequence[SequenceResult]) -> Comparison:
    """Compare answers as callers get them by default: by softmax or sigmoid, or logits where those are the answer.

    Of masked tokens only the best are known. One that is among the best of one side alone counts with the least score of
    the other side, which is over its own.
    """
    pairs = [pair for two in zip(exact, measured, strict=True) for pair in _scores(manifest, *two)]
    differences = [np.abs(one - other).max() for one, other in pairs]
    flips = sum(_leads(one) > SURE and int(np.argmax(one)) != int(np.argmax(other)) for one, other in pairs)
    return Comparison(len(pairs), float(np.nan_to_num(np.max(differences), nan=np.inf)), flips)


def _scores(manifest: Manifest, exact: SequenceResult, measured: SequenceResult) -> Iterator[tuple[Scores, Scores]]:
    """Yield the scores of both sides, in one order, for each thing that is answered."""
    if isinstance(exact, MaskScores):
        assert isinstance(measured, MaskScores)
        for tokens, scores, other_tokens, other_scores in zip(
            exact.tokens, exact.scores, measured.tokens, measured.scores, strict=True
        ):
            known = dict(zip(tokens.tolist(), scores.tolist(), strict=True))
            others = dict(zip(other_tokens.tolist(), other_scores.tolist(), strict=True))
            both = list(known | others)
            yield (
                np.array([known.get(token, scores[-1]) for token in both], np.float64),
                np.array([others.get(token, other_scores[-1]) for token in both], np.float64),
            )
        return
    assert not isinstance(measured, MaskScores)
    if manifest.task == "embed":  # a direction: nothing in it is best
        cosine = np.dot(exact, measured) / np.linalg.norm(exact) / np.linalg.norm(measured)
        yield np.ones(1), np.array([cosine], np.float64)
        return
    # Of an answer the start and the end are each one token of all; all others are scores of labels.
    rows, other_rows = (np.atleast_2d(one.T if manifest.task == "answer" else one) for one in (exact, measured))
    function = FUNCTIONS[default_function(manifest)]
    for row, other in zip(rows, other_rows, strict=True):
        yield np.array(function(row.tolist())), np.array(function(other.tolist()))


def _leads(scores: Scores) -> float:
    best = np.sort(scores)[::-1]
    return float(best[0] - best[1]) if len(best) > 1 else 0.0
