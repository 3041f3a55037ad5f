"""Run a graph file without a GPU: CPU graphs in ONNX Runtime, CUDA graphs in `onnx.reference`.

A graph gets its inputs and gives its results as in the server, through `app.bundle`; a CPU session has the server's options.
The only module of the export that imports `onnxruntime`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator

from app.bundle.graph_inputs import Feeds, pack
from app.bundle.heads import MaskHead, Outputs, head_of
from app.bundle.manifest import Target
from app.bundle.sequences import FloatArray, IntArray, MaskScores, TokenSequence
from app.bundle.session import PROVIDERS, configure
from model_export.check.reference_operators import OPERATORS
from model_export.check.sequences import TOP_K
from model_export.errors import ExportError, one_line


class RunnableGraph:
    """A graph file that runs on this machine, whatever device it was written for."""

    def __init__(self, path: Path, *, target: Target, position_offset: int) -> None:
        """Load the graph.

        Raises:
            ExportError: it cannot run.
        """
        self.target: Final = target
        self._position_offset: Final = position_offset
        self._evaluate: Callable[[list[str], Feeds], list[npt.NDArray[Any]]]
        try:
            if target == "cpu":
                options = configure(ort.SessionOptions(), threads=0, target=target)
                session = ort.InferenceSession(path, options, providers=[PROVIDERS[target]])
                self._evaluate = session.run
                self._dtypes = {node.name: np.dtype(np.int64) for node in session.get_inputs()}
                outputs = [node.name for node in session.get_outputs()]
            else:
                evaluator = ReferenceEvaluator(str(path), new_ops=list(OPERATORS))
                self._evaluate = lambda outputs, feeds: list(evaluator.run(outputs, dict(feeds)))
                self._dtypes = {
                    node.name: tensor_dtype_to_np_dtype(node.type.tensor_type.elem_type)
                    for node in evaluator.proto_.graph.input
                }
                outputs = evaluator.output_names
        except Exception as error:
            raise ExportError(f"{path} cannot be loaded ({one_line(error)}). Export the model again.") from error
        head = head_of(outputs)
        if head is None:
            raise ExportError(f"{path} was written by another version of the export. Export the model again.")
        self._head: Final = head

    def answers(self, batch: Sequence[TokenSequence]) -> list[FloatArray]:
        """Run the sequences as one batch, and return for each what `check.reference` answers to it.

        Raises:
            ExportError: the best tokens that the server would return for a mask are not those of its scores.
        """
        outputs = self._head.outputs(batch)
        if isinstance(self._head, MaskHead):
            outputs = [*outputs, "scores"]
        values, starts = self.run(batch, outputs)
        results = self._head.split(values, batch, starts)
        ends = np.cumsum([len(sequence.masks) for sequence in batch])
        return [
            _full_scores(result, values["scores"][end - len(sequence.masks) : end])
            if isinstance(result, MaskScores)
            else result
            for sequence, result, end in zip(batch, results, ends, strict=True)
        ]

    def run(self, batch: Sequence[TokenSequence], outputs: Sequence[str]) -> tuple[Outputs, IntArray]:
        """Run the sequences as one batch, and return the outputs of these names and the first token of each sequence."""
        feeds = pack(batch, target=self.target, position_offset=self._position_offset)
        starts = feeds["cls_index"].astype(np.int64, copy=False)
        feeds |= self._head.inputs(batch, starts)
        inputs: Feeds = {name: feeds[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}
        return dict(zip(outputs, self._evaluate(list(outputs), inputs), strict=True)), starts


def _full_scores(best: MaskScores, scores: npt.NDArray[Any]) -> FloatArray:
    """Return the scores float32[masks, vocab], of which `best` must be the largest."""
    expected = -np.sort(-scores, axis=1)[:, :TOP_K]
    if not ((best.scores == expected) & (np.take_along_axis(scores, best.tokens, 1) == expected)).all():
        raise ExportError("The graph's best tokens are not those of its scores. Report this with the checkpoint.")
    return scores
