"""The end of a graph: its inputs besides the tokens, its outputs, and how these are split by sequence.

A graph's outputs tell which head it has, so neither the engine nor the check of an export knows a task. Pure NumPy.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from app.bundle.graph_inputs import Feeds
from app.bundle.sequences import IntArray, MaskScores, SequenceResult, TokenSequence

Outputs = dict[str, npt.NDArray[np.generic]]


class Head(Protocol):
    """One kind of end. `starts` is int64[batch], the first token of each sequence."""

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:
        """Return the graph's inputs besides those of `pack`."""

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:
        """Return the names of the outputs this batch needs."""

    def split(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:
        """Return the result of each sequence."""


class SequenceHead:
    """One output with a row for each sequence: `logits` float32[batch, labels], `embeddings` float32[batch, size]."""

    def __init__(self, output: str) -> None:
        self._output: Final = output

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:  # noqa: ARG002
        return {}

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:  # noqa: ARG002
        return [self._output]

    def split(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:  # noqa: ARG002
        return list(outputs[self._output].astype(np.float32, copy=False))


class TokenHead:
    """`token_logits` float32[tokens, labels]; the rows of a sequence begin at its start."""

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:  # noqa: ARG002
        return {}

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:  # noqa: ARG002
        return ["token_logits"]

    def split(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:
        rows = outputs["token_logits"].astype(np.float32, copy=False)
        return [rows[start : start + len(one)] for start, one in zip(starts.tolist(), batch, strict=True)]


class MaskHead:
    """`top_scores` and `top_tokens` [masks, k]; `scores` float32[masks, vocab] if a sequence has targets.

    `k` is the largest `top_k` in the batch: the best tokens are sorted, so each sequence takes the first ones.
    """

    def inputs(self, batch: Sequence[TokenSequence], starts: IntArray) -> Feeds:
        """Return the graph's inputs besides those of `pack`.

        Raises:
            ValueError: a mask is outside of its sequence: it would be answered with a token of another one.
        """
        if any(len(one.masks) and not 0 <= one.masks.min() <= one.masks.max() < len(one) for one in batch):
            raise ValueError("a mask is outside of its sequence")
        positions = [start + sequence.masks for start, sequence in zip(starts, batch, strict=True)]
        return {
            "mask_index": np.concatenate(positions),
            "k": np.array([max(1, *(sequence.top_k for sequence in batch))], np.int64),
        }

    def outputs(self, batch: Sequence[TokenSequence]) -> list[str]:
        names = ["top_scores", "top_tokens"]
        # The scores of the whole vocabulary are copied from the device only if a request has targets.
        return [*names, "scores"] if any(sequence.targets is not None for sequence in batch) else names

    def split(self, outputs: Outputs, batch: Sequence[TokenSequence], starts: IntArray) -> list[SequenceResult]:  # noqa: ARG002
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


def joined(parts: Sequence[SequenceResult]) -> MaskScores:
    """Return the scores of a sequence's masks that were computed part by part."""
    scores = [part for part in parts if isinstance(part, MaskScores)]
    return MaskScores(np.concatenate([one.tokens for one in scores]), np.concatenate([one.scores for one in scores]))


_BY_OUTPUT: Final[Mapping[str, Head]] = MappingProxyType(
    {
        "logits": SequenceHead("logits"),
        "embeddings": SequenceHead("embeddings"),
        "token_logits": TokenHead(),
        "top_scores": MaskHead(),
    }
)


def head_of(outputs: Iterable[str]) -> Head | None:
    """Return the head of a graph with these outputs, None if none of them is known."""
    return next((_BY_OUTPUT[name] for name in outputs if name in _BY_OUTPUT), None)
