"""Count how often int8 changes the best answer, on sentences that the fp32 graph of the same network answers too.

fp32 also shows the ranges of its activations, with which int8 is calibrated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from app.bundle.manifest import Agreement
from app.bundle.sequences import FloatArray, TokenSequence
from model_export.check.runnable_graph import RunnableGraph
from model_export.check.sentences import generated_texts
from model_export.check.sequences import checked_sequence
from model_export.checkpoint.load import LoadedCheckpoint
from model_export.errors import InaccurateVariant
from model_export.graph.cpu import CpuBuilder
from model_export.graph.onnx_file import write_onnx
from model_export.tasks import ResultKind, TaskSpec

_SENTENCES: Final = 460
_MORE_SENTENCES: Final = 4 * _SENTENCES
"""They decide where a few too many labels change. By chance, one graph in five that changes 0.8% changes over 1% of 402."""
_BATCH: Final = 16
_CALIBRATION_EVERY: Final = 8
_MOVED: Final = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sequences and fp32's answers to them, and the activations' ranges on other sequences. See `observe`."""

    task: TaskSpec
    batch: Sequence[TokenSequence]
    answers: Sequence[FloatArray]
    ranges: Mapping[str, FloatArray]
    """Largest magnitudes float32[channels], by activation."""
    observe_more: "Callable[[], Comparison] | None" = None
    """Compares more sequences, if chance could decide."""

    def agreement(self, graph: RunnableGraph) -> Agreement:
        """Return how often a graph's best answers differ from fp32's; if up to twice as often as allowed, on more sequences."""
        scores, expected = (choices(self.task.result, one) for one in (_answers(graph, self.batch), self.answers))
        changed = [
            one.argmax() != other.argmax() if len(other) > 1 else abs(one - other)[0] > _MOVED * np.ptp(expected)
            for one, other in zip(scores, expected, strict=True)
        ]
        agreement = Agreement(answers=len(changed), changed=int(sum(changed)))
        limit = self.task.most_changed
        if self.observe_more is not None and limit < _share(agreement) <= 2 * limit:
            return self.observe_more().agreement(graph)
        return agreement


def choices(result: ResultKind, answers: Sequence[FloatArray]) -> list[FloatArray]:
    """Return for each best answer the scores that it is the largest of, float32[choices]."""
    match result:
        case "labels":
            return list(answers)
        case "masked-tokens":
            return [row for rows in answers for row in rows]
        case "token-labels":  # the labels of the special tokens at both ends are never returned
            return [row for rows in answers for row in rows[1:-1]]
        case "span":
            return [column for rows in answers for column in rows.T]
        case "embedding":  # the best answer is the nearest other text
            stacked = np.stack(answers)
            directions = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
            cosines = directions @ directions.T
            np.fill_diagonal(cosines, -1)
            return list(cosines)


def observe(checkpoint: LoadedCheckpoint, sentences: int = _SENTENCES) -> Comparison:
    """Run a checkpoint's fp32 CPU graph on sentences: some to measure ranges, the others to compare answers."""
    network, sequences = checkpoint.network, _sequences(checkpoint, sentences)
    calibration = sequences[::_CALIBRATION_EVERY]
    compared = [sequence for i, sequence in enumerate(sequences) if i % _CALIBRATION_EVERY]
    with TemporaryDirectory() as folder:
        graph = CpuBuilder(network, shows_norms=True).build()
        path = Path(folder) / "observed.onnx"
        write_onnx(graph, path)
        observed = RunnableGraph(path, target="cpu", position_offset=network.config.position_offset)
        norms = [node.name for node in graph.outputs if node.name.endswith("_norm")]
        answers, ranges = _answers(observed, compared), _ranges(observed, calibration, norms)
    # Of the others, more answers may change, so that chance is less of it; and among more texts the nearest is more often another.
    is_of_labels = network.task.result == "labels" and sentences == _SENTENCES
    observe_more = partial(observe, checkpoint, _MORE_SENTENCES) if is_of_labels else None
    return Comparison(network.task, compared, answers, ranges, observe_more)


def check_agreement(name: str, task: TaskSpec, agreement: Agreement) -> None:
    """Refuse a variant that changes too many answers.

    Raises:
        InaccurateVariant: it does.
    """
    share = _share(agreement)
    if share > task.most_changed:
        raise InaccurateVariant(
            f"{name} changes {agreement.changed} of {agreement.answers} best answers ({share:.1%}); "
            f"{task.most_changed:.0%} is allowed.",
            "Leave it out of --variants, or keep it with --keep-inaccurate.",
        )


def _share(agreement: Agreement) -> float:
    return agreement.changed / agreement.answers


def _ranges(graph: RunnableGraph, sequences: Sequence[TokenSequence], norms: Sequence[str]) -> dict[str, FloatArray]:
    ranges: dict[str, FloatArray] = {}
    for start in range(0, len(sequences), _BATCH):
        values, _ = graph.run(sequences[start : start + _BATCH], norms)
        for name, value in values.items():
            largest = np.abs(value).max(axis=0)
            ranges[name] = np.maximum(ranges[name], largest) if name in ranges else largest
    return ranges


def _answers(graph: RunnableGraph, sequences: Sequence[TokenSequence]) -> list[FloatArray]:
    batches = [sequences[start : start + _BATCH] for start in range(0, len(sequences), _BATCH)]
    return [answer for batch in batches for answer in graph.answers(batch)]


def _sequences(checkpoint: LoadedCheckpoint, sentences: int) -> list[TokenSequence]:
    sequences = []
    for i, (text, text_pair) in enumerate(generated_texts(checkpoint.network.task.inputs, sentences)):
        encoding = checkpoint.tokenizer.fast.encode(text, text_pair)
        input_ids = encoding.ids[: checkpoint.max_length]
        if checkpoint.mask is not None:
            input_ids[1 + i % (len(input_ids) - 2)] = checkpoint.mask.id
        sequences.append(checked_sequence(input_ids, encoding.type_ids[: checkpoint.max_length], checkpoint.mask))
    return sequences
