"""How far a graph's answers may be from the reference's, and those in a batch from those to each sequence alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.bundle.manifest import Parity, Precision, Target
from app.bundle.sequences import FloatArray, TokenSequence
from model_export.check.reference import reference_answers, sigmoid, softmax
from model_export.check.runnable_graph import RunnableGraph
from model_export.checkpoint.network import Network
from model_export.errors import InaccurateVariant

TOLERANCE: Final[Mapping[Precision, float]] = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.15}
"""Most that an answer may differ from the reference; in fp16 and int8 of the largest answer, if that is over 1, in fp32 of a tenth of
it, if that is over 10.

fp32 has seven digits: a regression whose answers are around 80 was off by 1.2e-4, 1.5e-6 of its largest answer.
fp16 rounds each of hundreds of results by up to 2**-11 (4.9e-4) of itself. For the random checkpoints of the tests, answers
are off by at most five such roundings (2.5e-3 of the largest), for the demo checkpoint by one. int8 was off by at most 0.07
of the largest for both; `model_export.check.agreement` decides whether it is good enough.
"""
MOST_ROUNDING: Final = 16
"""Most that an answer in fp32 may differ, where it misses its tolerance, as a multiple of what rounding does to the reference.

Weights around 1 (those of trained models are around 0.05) turn roundings in the seventh digit into differences in the third, and the
reference has them, too. In a hundred random networks with such weights, graphs were off by up to 10 times as much as it.
"""
ALONE_TOLERANCE: Final[Mapping[Target, float | None]] = {"cpu": 0.0, "cuda": None}
"""ONNX Runtime's CPU kernels sum a row in the same order in any batch, so no difference is allowed. The BLAS under
`onnx.reference` does not, so there the tolerance of the reference applies."""
MOST_SCORE_DIFFERENCE: Final = 2e-3
"""Largest difference of a classifier's score in half precision, as callers get it, after softmax or sigmoid."""
SURE: Final = 0.01
"""Half precision may not change the best label if its score led by more than this."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences that run together, and what the reference answers to each."""

    sequences: Sequence[TokenSequence]
    expected: Sequence[FloatArray]


@dataclass(frozen=True, slots=True)
class ReferenceBatches:
    """What a graph is compared on: a batch of every length, whose sequences also run alone, and a batch of texts."""

    lengths: Batch
    texts: Batch

    def tolerance(self, precision: Precision) -> float:
        """Return the default tolerance of a precision, scaled to the expected answers."""
        largest = max(float(np.abs(answer).max(initial=0.0)) for answer in self.lengths.expected)
        return TOLERANCE[precision] * max(1.0, largest / 10 if precision == "fp32" else largest)

    def tolerance_of_rounding(self, network: Network) -> float:
        """Return the tolerance of fp32 by what rounding does to the reference of a network: its answers are compared with fp64's."""
        return MOST_ROUNDING * max(
            largest_difference(reference_answers(network, batch.sequences, is_exact=True), batch.expected)
            for batch in (self.lengths, self.texts)
        )

    def parity(self, graph: RunnableGraph, tolerance: float) -> Parity:
        """Return how far a graph's answers are from the expected ones, and from its own to each sequence alone."""
        together = graph.answers(self.lengths.sequences)
        return Parity(
            reference_max_abs_diff=max(
                largest_difference(together, self.lengths.expected),
                largest_difference(graph.answers(self.texts.sequences), self.texts.expected),
            ),
            alone_max_abs_diff=difference_from_alone(graph, self.lengths.sequences, together),
            tolerance=tolerance,
            checked_with="onnxruntime" if graph.target == "cpu" else "onnx.reference",
        )


def difference_from_alone(
    graph: RunnableGraph, sequences: Sequence[TokenSequence], together: Sequence[FloatArray]
) -> float:
    """Return how far the answers in a batch, `together`, are from those to each sequence alone."""
    return largest_difference(together, [graph.answers([sequence])[0] for sequence in sequences])


def largest_difference(answers: Iterable[FloatArray], expected: Iterable[FloatArray]) -> float:
    """Return the largest absolute difference; infinite where an answer is not a number."""
    differences = [np.abs(a - e).max(initial=0.0) for a, e in zip(answers, expected, strict=True)]
    return float(np.nan_to_num(np.max(differences), nan=np.inf))


def check(name: str, target: Target, parity: Parity) -> None:
    """Refuse a variant whose differences are over the tolerance.

    Raises:
        InaccurateVariant: the answers are wrong, or depend on the other sequences of the batch.
    """
    if not parity.reference_max_abs_diff <= parity.tolerance:
        raise InaccurateVariant(
            f"{name} differs from the reference by {parity.reference_max_abs_diff:.2g}; {parity.tolerance:.2g} is allowed.",
            "Leave it out of --variants, or allow more with --tolerance.",
        )
    allowed = ALONE_TOLERANCE[target]
    if not parity.alone_max_abs_diff <= (parity.tolerance if allowed is None else allowed):
        raise InaccurateVariant(
            f"The answers of {name} depend on the other sequences of the batch: they differ by "
            f"{parity.alone_max_abs_diff:.2g} from those to each sequence alone.",
            "Leave it out of --variants and report this.",
        )


def score_function(network: Network) -> Callable[[FloatArray], FloatArray] | None:
    """Return the function that makes a caller's scores of logits by default; None if there is none."""
    task, config = network.task, network.config
    if task.labels:
        return softmax
    if task.result != "labels" or config.problem_type == "regression":
        return None
    is_multi_label = config.problem_type == "multi_label_classification" or len(config.labels) == 1
    return sigmoid if is_multi_label else softmax


def check_scores(
    name: str, batch: Batch, answers: Sequence[FloatArray], to_scores: Callable[[FloatArray], FloatArray]
) -> None:
    """Refuse a variant of a classifier whose scores or best labels are not those of the reference.

    Raises:
        InaccurateVariant: a score differs by too much, or a best label with a clear lead changed.
    """
    expected = np.stack([to_scores(answer) for answer in batch.expected])
    scores = np.stack([to_scores(answer) for answer in answers])
    worst = largest_difference(scores, expected)
    ranked = np.sort(expected, axis=1)
    is_sure = ranked[:, -1] - ranked[:, -2] > SURE if expected.shape[1] > 1 else np.zeros(len(expected), bool)
    flips = int((is_sure & (expected.argmax(axis=1) != scores.argmax(axis=1))).sum())
    if not worst <= MOST_SCORE_DIFFERENCE or flips:
        raise InaccurateVariant(
            f"The scores of {name} differ from the reference by {worst:.2g}; {MOST_SCORE_DIFFERENCE:g} is allowed; "
            f"{flips} of {len(expected)} texts get another label.",
            "Leave it out of --variants, or allow more with --tolerance.",
        )
