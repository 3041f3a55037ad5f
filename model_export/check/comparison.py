"""Run the fp32 graph of a network on sentences, to measure the ranges of its activations and to keep its answers.

int8 is calibrated with the ranges and judged by the answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

import numpy as np
import tokenizers

from app.bundle.manifest import Agreement, SpecialToken, Task
from model_export.check.parity import RunnableGraph
from model_export.check.samples import Sample
from model_export.check.sentences import questions, sentences
from model_export.checkpoint.network import FloatArray, Network
from model_export.errors import ExportError
from model_export.graph.cpu import CpuBuilder
from model_export.graph.onnx_file import write_onnx

MOST_CHANGED: Final[Mapping[Task, float]] = MappingProxyType(
    {"classify": 0.01, "fill-mask": 0.1, "next-sentence": 0.01, "entities": 0.01, "answer": 0.05, "embed": 0.1}
)
"""Largest share of best answers that may differ from fp32.

A mask's two best words are often nearly as likely and as good as each other, and so are the nearest sentences. For embeddings, 6%
changed with the demo checkpoint, each to the second nearest, whose cosine was lower by at most 0.009, and 8.5% with the random
checkpoints of the tests. Of the answers to questions 2.7% changed with the random checkpoints, which are not fine-tuned to be
certain, and of the tokens' labels 0.9%.
"""

_BATCH: Final = 16
_CALIBRATION_EVERY: Final = 8
_MOVED: Final = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sentences and fp32's answers to them, and the activations' ranges on other sentences. See `observe`."""

    task: Task
    samples: Sequence[Sample]
    answers: Sequence[FloatArray]
    ranges: Mapping[str, FloatArray]

    def agreement(self, graph: RunnableGraph) -> Agreement:
        """Return how often a graph's best answers differ from fp32's."""
        scores, expected = (choices(self.task, answers) for answers in (_answers(graph, self.samples), self.answers))
        changed = [
            one.argmax() != other.argmax() if len(other) > 1 else abs(one - other)[0] > _MOVED * np.ptp(expected)
            for one, other in zip(scores, expected, strict=True)
        ]
        return Agreement(answers=len(changed), changed=int(sum(changed)))


def choices(task: Task, answers: Sequence[FloatArray]) -> list[FloatArray]:
    """Return for each best answer the scores that it is the largest of, float32[choices].

    Args:
        task: The task.
        answers: A graph's answers to the samples.
    """
    match task:
        case "classify" | "next-sentence":
            return list(answers)
        case "fill-mask":
            return [row for rows in answers for row in rows]
        case "entities":  # the labels of the special tokens at both ends are never returned
            return [row for rows in answers for row in rows[1:-1]]
        case "answer":
            return [column for rows in answers for column in rows.T]
        case "embed":
            stacked = np.stack(answers)
            directions = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
            cosines = directions @ directions.T
            np.fill_diagonal(cosines, -1)
            return list(cosines)


def observe(
    network: Network, tokenizer: tokenizers.Tokenizer, *, max_length: int, mask: SpecialToken | None
) -> Comparison:
    """Run the fp32 CPU graph of a network on sentences: some to measure ranges, the others to compare answers."""
    samples = _samples(tokenizer, network.task, max_length=max_length, mask=mask)
    calibration = samples[::_CALIBRATION_EVERY]
    compared = [sample for i, sample in enumerate(samples) if i % _CALIBRATION_EVERY]
    with TemporaryDirectory() as folder:
        graph = CpuBuilder(network, shows_norms=True).build()
        path = Path(folder) / "observed.onnx"
        write_onnx(graph, path)
        offset = network.config.position_offset
        observed = RunnableGraph(path, target="cpu", task=network.task, position_offset=offset)
        norms = [node.name for node in graph.outputs if node.name.endswith("_norm")]
        answers = _answers(observed, compared)
        return Comparison(network.task, compared, answers, _ranges(observed, calibration, norms))


def check_agreement(name: str, task: Task, agreement: Agreement) -> None:
    """Refuse a variant that changes too many answers.

    Raises:
        ExportError: it does.
    """
    share = agreement.changed / agreement.answers
    if share > MOST_CHANGED[task]:
        raise ExportError(
            f"{name} changes {agreement.changed} of {agreement.answers} best answers ({share:.1%}); "
            f"{MOST_CHANGED[task]:.0%} is allowed. Leave it out of --variants, or keep it with --keep-inaccurate."
        )


def _ranges(graph: RunnableGraph, samples: Sequence[Sample], norms: Sequence[str]) -> dict[str, FloatArray]:
    ranges: dict[str, FloatArray] = {}
    for start in range(0, len(samples), _BATCH):
        for name, value in graph.values(samples[start : start + _BATCH], norms).items():
            largest = np.abs(value).max(axis=0)
            ranges[name] = np.maximum(ranges[name], largest) if name in ranges else largest
    return ranges


def _answers(graph: RunnableGraph, samples: Sequence[Sample]) -> list[FloatArray]:
    return [
        answer for start in range(0, len(samples), _BATCH) for answer in graph.answers(samples[start : start + _BATCH])
    ]


def _samples(
    tokenizer: tokenizers.Tokenizer, task: Task, *, max_length: int, mask: SpecialToken | None
) -> list[Sample]:
    samples = []
    for i, (text, text_pair) in enumerate(_texts(task)):
        encoding = tokenizer.encode(text, text_pair)
        input_ids = np.array(encoding.ids[:max_length], np.int64)
        masks = np.empty(0, np.int64)
        if task == "fill-mask" and mask is not None:
            masks = np.array([1 + i % (len(input_ids) - 2)])
            input_ids[masks] = mask.id
        samples.append(Sample(input_ids, np.array(encoding.type_ids[:max_length], np.int64), masks))
    return samples


def _texts(task: Task) -> Sequence[tuple[str, str | None]]:
    match task:
        case "classify" | "fill-mask":
            return sentences()
        case "entities" | "embed":
            return [(text, None) for text, _ in sentences()]
        case "next-sentence":
            texts = [text for text, _ in sentences()]
            return list(pairwise(texts))
        case "answer":
            return questions()
