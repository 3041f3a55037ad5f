"""What each task's graph takes beside the packed tokens, what it returns, and how that is cut up by sequence.

The one place to teach the engine a new task. Pure NumPy, runs in the engine's thread.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from app.bundle import Task
from app.messages import MaskScores, SequenceResult, TokenSequence
from app.packing import Feeds, IntArray

Outputs = dict[str, npt.NDArray[np.generic]]


class Head(Protocol):
    """The end of a graph, as the runner sees it. `starts` is int64[batch], where each sequence begins."""

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:
        """Return the inputs of this head's graph that are not `app.packing`'s."""

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:
        """Return the names of the outputs this batch needs."""

    def cut(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:
        """Return the result of each sequence."""


class SequenceHead:
    """One output with a row for each sequence: `logits` float32[batch, labels], `embeddings` float32[batch, hidden]."""

    def __init__(self, output: str) -> None:
        self._output: Final = output

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:  # noqa: ARG002
        return {}

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:  # noqa: ARG002
        return [self._output]

    def cut(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:  # noqa: ARG002
        return list(outputs[self._output].astype(np.float32, copy=False))


class TokenHead:
    """`token_logits` float32[tokens, labels], a sequence's rows from where it starts."""

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:  # noqa: ARG002
        return {}

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:  # noqa: ARG002
        return ["token_logits"]

    def cut(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:
        rows = outputs["token_logits"].astype(np.float32, copy=False)
        return [rows[start : start + len(one)] for start, one in zip(starts.tolist(), batch, strict=True)]


class FillMaskHead:
    """`top_scores` and `top_tokens` [masks, k]; `scores` float32[masks, vocab] where a sequence names its targets.

    One `k` serves the batch, the largest: the best tokens are sorted, so each sequence's own are the first of them.
    """

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:
        positions = [start + sequence.masks for start, sequence in zip(starts, batch, strict=True)]
        return {
            "mask_index": np.concatenate(positions),
            "k": np.array([max(1, *(sequence.top_k for sequence in batch))], np.int64),
        }

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:
        names = ["top_scores", "top_tokens"]
        # The whole vocabulary's scores leave the device only when somebody asks for tokens of their own.
        return [*names, "scores"] if any(sequence.targets is not None for sequence in batch) else names

    def cut(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:  # noqa: ARG002
        results: list[SequenceResult] = []
        end = 0
        for sequence in batch:
            start, end = end, end + len(sequence.masks)
            if sequence.targets is None:
                tokens = outputs["top_tokens"][start:end, : sequence.top_k]
                scores = outputs["top_scores"][start:end, : sequence.top_k]
            else:
                chosen = outputs["scores"][start:end][:, sequence.targets].astype(np.float32)
                order = np.argsort(np.negative(chosen), axis=1, kind="stable")[:, : sequence.top_k]
                tokens = sequence.targets[order]
                scores = np.take_along_axis(chosen, order, axis=1)
            results.append(MaskScores(tokens.astype(np.int64), scores.astype(np.float32)))
        return results


HEADS: Final[dict[Task, Head]] = {
    "classify": SequenceHead("logits"),
    "fill-mask": FillMaskHead(),
    "next-sentence": SequenceHead("logits"),
    "entities": TokenHead(),
    "answer": TokenHead(),
    "embed": SequenceHead("embeddings"),
}
