"""Compare the graphs of a bundle with expected answers, and every sequence in a batch with the same sequence alone.

CPU graphs run in ONNX Runtime with the session options of the server; CUDA graphs in `onnx.reference`, which needs no
GPU. The only module of the export that imports `onnxruntime`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import tokenizers
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator

from app.bundle.cpus import has_exact_int8_products
from app.bundle.files import Bundle
from app.bundle.graph_inputs import Feeds, pack
from app.bundle.manifest import GoldenCase, Parity, Precision, Target, Task
from app.bundle.sequences import TokenSequence
from model_export.check.reference_ops import OPERATORS
from model_export.check.samples import Sample, random_samples
from model_export.checkpoint.network import FloatArray
from model_export.errors import ExportError, one_line

TOLERANCE: Final[Mapping[Precision, float]] = MappingProxyType({"fp32": 1e-4, "fp16": 5e-3, "int8": 0.15})
"""Most that an answer may differ from the reference; in fp16 and int8 of the largest answer, if that is over 1.

fp16 rounds each of hundreds of results by up to 2**-11 (4.9e-4) of itself. For the random checkpoints of the tests, answers
are off by at most five such roundings (2.5e-3 of the largest), for the demo checkpoint by one. int8 was off by at most 0.07
of the largest for both; `model_export.check.comparison` decides whether it is good enough.
"""
ALONE_TOLERANCE: Final[Mapping[Target, float | None]] = MappingProxyType({"cpu": 0.0, "cuda": None})
"""ONNX Runtime's CPU kernels sum a row in the same order in any batch, so no difference is allowed. The BLAS under
`onnx.reference` does not, so there the tolerance of the reference applies."""
TOP_K: Final = 5
MOST_SCORE_DIFFERENCE: Final = 2e-3
"""Largest difference of a classifier's score in half precision, as callers get it, after softmax or sigmoid."""
SURE: Final = 0.01
"""Half precision may not change the best label if its score led by more than this."""

_CHECKERS: Final[Mapping[Target, Literal["onnxruntime", "onnx.reference"]]] = MappingProxyType(
    {"cpu": "onnxruntime", "cuda": "onnx.reference"}
)


class RunnableGraph:
    """A graph file that can be run here, whatever device it was written for."""

    def __init__(self, path: Path, *, target: Target, task: Task, position_offset: int) -> None:
        """Load the graph.

        Raises:
            ExportError: it is not one that can be run.
        """
        self.target: Final = target
        self._task: Final = task
        self._position_offset: Final = position_offset
        self._run: Callable[[list[str], Feeds], list[npt.NDArray[Any]]]
        try:
            if target == "cpu":
                options = ort.SessionOptions()
                options.log_severity_level = 3
                if not has_exact_int8_products():
                    options.add_session_config_entry("session.x64quantprecision", "1")
                session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                self._run = session.run
                self._dtypes = {node.name: np.dtype(np.int64) for node in session.get_inputs()}
            else:
                evaluator = ReferenceEvaluator(str(path), new_ops=list(OPERATORS))
                self._run = lambda outputs, feeds: list(evaluator.run(outputs, dict(feeds)))
                self._dtypes = {
                    node.name: tensor_dtype_to_np_dtype(node.type.tensor_type.elem_type)
                    for node in evaluator.proto_.graph.input
                }
        except Exception as error:
            raise ExportError(f"{path} cannot be loaded ({one_line(error)}). Export the model again.") from error

    def answers(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """Run the samples as one batch and return what `model_export.check.reference` answers to each.

        Raises:
            ExportError: the best tokens that the graph returns are not those of its scores.
        """
        match self._task:
            case "classify" | "next-sentence":
                return list(self.values(samples, ["logits"])["logits"])
            case "embed":
                return list(self.values(samples, ["embeddings"])["embeddings"])
            case "entities" | "answer":
                return self._token_logits(samples)
            case "fill-mask":
                return self._scores(samples)

    def _token_logits(self, samples: Sequence[Sample]) -> list[FloatArray]:
        logits = self.values(samples, ["token_logits"])["token_logits"]
        starts = self._feeds(samples)["cls_index"]
        return [logits[start : start + len(s.input_ids)] for start, s in zip(starts, samples, strict=True)]

    def _scores(self, samples: Sequence[Sample]) -> list[FloatArray]:
        values = self.values(samples, ["scores", "top_scores", "top_tokens"])
        scores = values["scores"]
        best = -np.sort(-scores, axis=1)[:, :TOP_K]
        is_best = (values["top_scores"] == best) & (np.take_along_axis(scores, values["top_tokens"], 1) == best)
        if not is_best.all():
            raise ExportError("The graph's best tokens are not those of its scores. Report this with the checkpoint.")
        return np.split(scores, np.cumsum([len(sample.masks) for sample in samples])[:-1])

    def values(self, samples: Sequence[Sample], outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Run the samples as one batch and return the outputs named."""
        feeds = self._feeds(samples)
        starts = feeds["cls_index"].astype(np.int64, copy=False)
        feeds["mask_index"] = np.concatenate([start + s.masks for start, s in zip(starts, samples, strict=True)])
        feeds["k"] = np.array([TOP_K])
        feeds = {name: feeds[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}
        return dict(zip(outputs, self._run(list(outputs), feeds), strict=True))

    def _feeds(self, samples: Sequence[Sample]) -> Feeds:
        sequences = [
            TokenSequence(sample.input_ids.astype(np.int32), sample.token_type_ids.astype(np.int32))
            for sample in samples
        ]
        return pack(sequences, target=self.target, position_offset=self._position_offset)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples that are run together, and what the reference answers to each."""

    samples: Sequence[Sample]
    expected: Sequence[FloatArray]


@dataclass(frozen=True, slots=True)
class Examination:
    """What a graph is tested with: a batch of every length, whose samples also run alone, and a batch of texts."""

    lengths: Batch
    texts: Batch

    def tolerance(self, precision: Precision) -> float:
        """Return the default tolerance of a precision, scaled to the expected answers."""
        if precision == "fp32":
            return TOLERANCE[precision]
        largest = max(float(np.abs(answer).max(initial=0.0)) for answer in self.lengths.expected)
        return TOLERANCE[precision] * max(1.0, largest)

    def measure(self, graph: RunnableGraph, tolerance: float) -> Parity:
        """Return how far a graph's answers are from the expected ones, and from its own to each sample alone."""
        together = graph.answers(self.lengths.samples)
        return Parity(
            reference_max_abs_diff=max(
                largest_difference(together, self.lengths.expected),
                largest_difference(graph.answers(self.texts.samples), self.texts.expected),
            ),
            alone_max_abs_diff=_difference_from_alone(graph, self.lengths.samples, together),
            tolerance=tolerance,
            checked_with=_CHECKERS[graph.target],
        )


def _difference_from_alone(graph: RunnableGraph, samples: Sequence[Sample], together: Sequence[FloatArray]) -> float:
    """Return how far the answers in a batch, `together`, are from those to each sample alone."""
    return largest_difference(together, [graph.answers([sample])[0] for sample in samples])


def largest_difference(answers: Iterable[FloatArray], expected: Iterable[FloatArray]) -> float:
    """Return the largest absolute difference; infinite where an answer is not a number."""
    differences = [np.abs(a - e).max(initial=0.0) for a, e in zip(answers, expected, strict=True)]
    return float(np.nan_to_num(np.max(differences), nan=np.inf))


def check(name: str, target: Target, parity: Parity) -> None:
    """Refuse a variant whose differences are over the tolerance.

    Raises:
        ExportError: the answers are wrong, or depend on the other sequences of the batch.
    """
    if not parity.reference_max_abs_diff <= parity.tolerance:
        raise ExportError(
            f"{name} differs from the reference by {parity.reference_max_abs_diff:.2g}; {parity.tolerance:.2g} is "
            "allowed. Leave it out of --variants, or allow more with --tolerance."
        )
    allowed = ALONE_TOLERANCE[target]
    if not parity.alone_max_abs_diff <= (parity.tolerance if allowed is None else allowed):
        raise ExportError(
            f"The answers of {name} depend on the other sequences of the batch: they differ by "
            f"{parity.alone_max_abs_diff:.2g} from those to each sequence alone. Leave it out of --variants and report this."
        )


def check_scores(
    name: str, batch: Batch, answers: Sequence[FloatArray], to_scores: Callable[[FloatArray], FloatArray]
) -> None:
    """Refuse a variant of a classifier whose scores or best labels are not those of the reference.

    Raises:
        ExportError: a score differs by too much, or a best label with a clear lead changed.
    """
    expected = np.stack([to_scores(answer) for answer in batch.expected])
    scores = np.stack([to_scores(answer) for answer in answers])
    worst = largest_difference(scores, expected)
    ranked = np.sort(expected, axis=1)
    is_sure = ranked[:, -1] - ranked[:, -2] > SURE if expected.shape[1] > 1 else np.zeros(len(expected), bool)
    flips = int((is_sure & (expected.argmax(axis=1) != scores.argmax(axis=1))).sum())
    if not worst <= MOST_SCORE_DIFFERENCE or flips:
        raise ExportError(
            f"The scores of {name} differ from the reference by {worst:.2g}; {MOST_SCORE_DIFFERENCE:g} is allowed; "
            f"{flips} of {len(expected)} texts get another label. Leave it out of --variants, or allow more with --tolerance."
        )


def verify_bundle(bundle: Bundle, progress: Callable[[str], None]) -> dict[str, Parity]:
    """Check a bundle without its checkpoint: every file, the golden answers, and each sequence alone and in a batch.

    Returns:
        What was measured now, by variant, with the tolerances of the export.

    Raises:
        BundleError: a file is missing or changed.
        ExportError: a variant does not give the golden answers, or its answers depend on the rest of the batch.
    """
    manifest = bundle.manifest
    mask = manifest.special_tokens.mask
    progress("Reading the golden answers")
    cases = bundle.golden.cases
    _check_tokenizer(bundle, cases)
    golden_samples = [Sample.of(case, mask, manifest.task) for case in cases]
    samples = random_samples(
        max_length=manifest.max_length, vocab_size=manifest.architecture.vocab_size, mask=mask, task=manifest.task
    )
    measured = {}
    for variant in manifest.variants:
        progress(f"Checking {variant.name}")
        for file in (variant.graph, variant.external_data):
            if file is not None:
                bundle.verify_file(file)
        graph = RunnableGraph(
            bundle.path(variant.graph),
            target=variant.target,
            task=manifest.task,
            position_offset=manifest.position_offset,
        )
        answers = graph.answers(golden_samples)
        measured[variant.name] = Parity(
            reference_max_abs_diff=max(map(_golden_difference, cases, answers)),
            alone_max_abs_diff=_difference_from_alone(graph, samples, graph.answers(samples)),
            tolerance=variant.parity.tolerance,
            checked_with=variant.parity.checked_with,
        )
        check(variant.name, variant.target, measured[variant.name])
    return measured


def _golden_difference(case: GoldenCase, answer: FloatArray) -> float:
    if case.masks is None:
        expected = next(value for value in (case.logits, case.token_logits, case.embedding) if value is not None)
        return largest_difference([answer], [np.array(expected, np.float32)])
    scores = [row[list(mask.tokens)] for row, mask in zip(answer, case.masks, strict=True)]
    return largest_difference(scores, [np.array(mask.scores, np.float32) for mask in case.masks])


def _check_tokenizer(bundle: Bundle, cases: Sequence[GoldenCase]) -> None:
    path = bundle.verify_file(bundle.manifest.tokenizer)
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    for case in cases:
        if tuple(tokenizer.encode(case.text, case.text_pair).ids) != case.input_ids:
            raise ExportError(
                f"{path} tokenizes the golden texts differently than at the export. Export the model again."
            )
