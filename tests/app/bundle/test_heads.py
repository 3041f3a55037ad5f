"""The ends of the graphs: what they are fed beside tokens, and whose rows are whose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.heads import MaskHead, SequenceHead, TokenHead
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence

VOCABULARY = 12


def sequence(masks: list[int], top_k: int = 1, targets: list[int] | None = None) -> TokenSequence:
    length = max(masks, default=0) + 2
    chosen = None if targets is None else np.array(targets, np.int32)
    ids, types = np.arange(length, dtype=np.int32), np.zeros(length, np.int32)
    return TokenSequence(ids, types, np.array(masks, np.int32), top_k, chosen)


def run(scores: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """What the graph of a masked-token model returns for these scores."""
    tokens = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return {"scores": scores, "top_tokens": tokens, "top_scores": np.take_along_axis(scores, tokens, axis=1)}


def cut(batch: list[TokenSequence], scores: np.ndarray) -> list[MaskScores]:
    head, starts = MaskHead(), np.zeros(len(batch), np.int64)
    [k] = head.inputs(batch, starts)["k"]
    outputs = {name: array for name, array in run(scores, int(k)).items() if name in head.outputs(batch)}
    return [masks(result) for result in head.split(outputs, batch, starts)]


def masks(result: SequenceResult) -> MaskScores:
    assert isinstance(result, MaskScores)
    return result


@pytest.mark.parametrize("output", ["logits", "embeddings"])
def test_a_sequence_head_returns_a_row_per_sequence(output: str) -> None:
    head = SequenceHead(output)
    batch, starts = [sequence([]), sequence([])], np.array([0, 2])
    assert head.inputs(batch, starts) == {}
    assert head.outputs(batch) == [output]
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float16)
    first, second = head.split({output: rows}, batch, starts)
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [4, 5, 6])  # type: ignore[union-attr]
    assert first.dtype == second.dtype == np.float32  # type: ignore[union-attr]


def test_a_token_head_returns_each_sequences_rows() -> None:
    head = TokenHead()
    batch, starts = [sequence([3]), sequence([0]), sequence([1])], np.array([5, 0, 2])  # 5, 2 and 3 tokens
    assert head.inputs(batch, starts) == {}
    assert head.outputs(batch) == ["token_logits"]
    rows = np.arange(20).reshape(10, 2).astype(np.float16)
    results = head.split({"token_logits": rows}, batch, starts)
    assert [one[:, 0].tolist() for one in results if isinstance(one, np.ndarray)] == [
        [10, 12, 14, 16, 18],
        [0, 2],
        [4, 6, 8],
    ]
    assert all(one.dtype == np.float32 for one in results)  # type: ignore[union-attr]


def test_mask_positions_are_offset_by_their_sequence() -> None:
    batch = [sequence([1, 3]), sequence([0]), sequence([2], top_k=7)]
    feeds = MaskHead().inputs(batch, np.array([10, 0, 5]))
    assert feeds["mask_index"].tolist() == [11, 13, 0, 7]
    assert feeds["k"].tolist() == [7]


def test_all_scores_are_requested_only_with_targets() -> None:
    head = MaskHead()
    assert head.outputs([sequence([0]), sequence([1])]) == ["top_scores", "top_tokens"]
    assert "scores" in head.outputs([sequence([0]), sequence([1], targets=[3])])


@given(st.data())
def test_each_sequence_gets_its_own_scores(data: st.DataObject) -> None:
    batch = []
    for _ in range(data.draw(st.integers(1, 5))):
        positions = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True).map(sorted))
        targets = data.draw(st.none() | st.lists(st.integers(0, VOCABULARY - 1), min_size=1, unique=True).map(sorted))
        most = VOCABULARY if targets is None else len(targets)
        batch.append(sequence(positions, data.draw(st.integers(1, most)), targets))
    rows = sum(len(one.masks) for one in batch)
    scores = np.array(data.draw(st.permutations(range(rows * VOCABULARY))), np.float32).reshape(rows, VOCABULARY)
    row = 0
    for one, result in zip(batch, cut(batch, scores), strict=True):
        allowed = range(VOCABULARY) if one.targets is None else one.targets.tolist()
        for tokens, values in zip(result.tokens.tolist(), result.scores.tolist(), strict=True):
            best = sorted(allowed, key=lambda token, row=row: -scores[row, token])[: one.top_k]
            assert tokens == best
            assert values == [scores[row, token] for token in best]
            row += 1
    assert row == rows


def test_equal_scores_keep_the_order_of_the_vocabulary() -> None:
    [result] = cut([sequence([0], top_k=3, targets=[2, 5, 9])], np.ones((1, VOCABULARY), np.float32))
    assert result.tokens.tolist() == [[2, 5, 9]]


@pytest.mark.parametrize("targets", [None, [1, 2]])
def test_results_have_the_documented_types(targets: list[int] | None) -> None:
    [result] = cut([sequence([0], targets=targets)], np.ones((1, VOCABULARY), np.float16))
    assert (result.tokens.dtype, result.scores.dtype) == (np.dtype(np.int64), np.dtype(np.float32))
