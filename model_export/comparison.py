"""What the fp32 graph of a network does with sentences: how large its activations get, and what it answers.

A precision that rounds for its speed is fitted to the former and judged by the latter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

import numpy as np
import tokenizers

from app.bundle import Agreement, SpecialToken, Task
from model_export.cpu_graph import CpuBuilder
from model_export.errors import ExportError
from model_export.network import FloatArray, Network
from model_export.onnx_file import write_onnx
from model_export.samples import Sample
from model_export.sentences import sentences
from model_export.verify import RunnableGraph

MOST_CHANGED: Final[Mapping[Task, float]] = MappingProxyType({"classify": 0.01, "fill-mask": 0.1})
"""Largest share of best answers that may differ from fp32. A mask's two best words often are as likely, and as good."""

_BATCH: Final = 16
_CALIBRATION_EVERY: Final = 8
_MOVED: Final = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sentences and what fp32 answers to them, and the activations' ranges on others. See `observe`."""

    samples: Sequence[Sample]
    answers: FloatArray
    ranges: Mapping[str, FloatArray]

    def agreement(self, graph: RunnableGraph) -> Agreement:
        """Return how often a graph's best answers are others."""
        answers = _answers(graph, self.samples)
        if answers.shape[1] > 1:
            changed = answers.argmax(axis=1) != self.answers.argmax(axis=1)
        else:
            changed = np.abs(answers - self.answers) > _MOVED * np.ptp(self.answers)
        return Agreement(answers=len(answers), changed=int(changed.sum()))


def observe(
    network: Network, tokenizer: tokenizers.Tokenizer, *, max_length: int, mask: SpecialToken | None
) -> Comparison:
    """Run the fp32 CPU graph of a network on sentences: some to find ranges with, the others to compare answers on."""
    samples = _samples(tokenizer, max_length=max_length, mask=mask if network.task == "fill-mask" else None)
    calibration = samples[::_CALIBRATION_EVERY]
    compared = [sample for i, sample in enumerate(samples) if i % _CALIBRATION_EVERY]
    with TemporaryDirectory() as folder:
        graph = CpuBuilder(network, shows_norms=True).build()
        path = Path(folder) / "observed.onnx"
        write_onnx(graph, path)
        offset = network.config.position_offset
        observed = RunnableGraph(path, target="cpu", task=network.task, position_offset=offset)
        norms = [node.name for node in graph.outputs if node.name.endswith("_norm")]
        return Comparison(compared, _answers(observed, compared), _ranges(observed, calibration, norms))


def check_agreement(name: str, task: Task, agreement: Agreement) -> None:
    """Refuse a variant that changes too many answers.

    Raises:
        ExportError: it does.
    """
    share = agreement.changed / agreement.answers
    if share > MOST_CHANGED[task]:
        raise ExportError(
            f"{name} changes {agreement.changed} of {agreement.answers} best answers ({share:.1%}), and "
            f"{MOST_CHANGED[task]:.0%} is allowed. Leave it out of --variants, or keep it with --keep-inaccurate."
        )


def _ranges(graph: RunnableGraph, samples: Sequence[Sample], norms: Sequence[str]) -> dict[str, FloatArray]:
    ranges: dict[str, FloatArray] = {}
    for start in range(0, len(samples), _BATCH):
        for name, value in graph.values(samples[start : start + _BATCH], norms).items():
            largest = np.abs(value).max(axis=0)
            ranges[name] = np.maximum(ranges[name], largest) if name in ranges else largest
    return ranges


def _answers(graph: RunnableGraph, samples: Sequence[Sample]) -> FloatArray:
    parts = [graph.answers(samples[start : start + _BATCH]) for start in range(0, len(samples), _BATCH)]
    return np.concatenate([np.atleast_2d(answer) for part in parts for answer in part])


def _samples(tokenizer: tokenizers.Tokenizer, *, max_length: int, mask: SpecialToken | None) -> list[Sample]:
    samples = []
    for i, (text, text_pair) in enumerate(sentences()):
        encoding = tokenizer.encode(text, text_pair)
        input_ids = np.array(encoding.ids[:max_length], np.int64)
        masks = np.empty(0, np.int64)
        if mask is not None:
            masks = np.array([1 + i % (len(input_ids) - 2)])
            input_ids[masks] = mask.id
        samples.append(Sample(input_ids, np.array(encoding.type_ids[:max_length], np.int64), masks))
    return samples
