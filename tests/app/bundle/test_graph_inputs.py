"""Batches without padding: each sequence is found whole where the graph's inputs say that it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.graph_inputs import Feeds, pack
from app.bundle.manifest import Target
from app.bundle.sequences import TokenArray, TokenSequence
from app.errors import OutOfDeviceMemory

PAD = 1
Ids = list[int]
batches = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=1, max_size=12)
targets = st.sampled_from(["cpu", "cuda"])


def packed(batch: list[Ids], target: Target, position_offset: int = 0) -> Feeds:
    # A token's type here tells its sequence and its place, so that no two are alike.
    sequences = [
        TokenSequence(np.array(ids, np.int32), (100 * i + np.arange(len(ids))).astype(np.int32))
        for i, ids in enumerate(batch)
    ]
    return pack(sequences, target=target, position_offset=position_offset)


def cut(feeds: Feeds, name: str, batch: list[Ids]) -> list[Ids]:
    """An input of the graph, sequence by sequence."""
    starts = feeds["cls_index"].tolist()
    return [feeds[name][start : start + len(ids)].tolist() for start, ids in zip(starts, batch, strict=True)]


def test_a_batch_beyond_cudas_offsets_is_halved_like_one_that_does_not_fit() -> None:
    """Its padded positions would overflow 32 bits, and be addresses outside of the tensor."""
    one, longest = np.zeros(1, np.int32), np.zeros(2**16, np.int32)
    batch = [TokenSequence(longest, longest)] + [TokenSequence(one, one)] * (2**15 - 1)
    with pytest.raises(OutOfDeviceMemory):
        pack(batch, target="cuda")


@given(batches, targets)
def test_each_sequence_is_packed_whole(batch: list[Ids], target: Target) -> None:
    feeds = packed(batch, target)
    assert cut(feeds, "input_ids", batch) == batch
    assert cut(feeds, "token_type_ids", batch) == [
        list(range(100 * i, 100 * i + len(ids))) for i, ids in enumerate(batch)
    ]
    assert cut(feeds, "position_ids", batch) == [list(range(len(ids))) for ids in batch]
    tokens = sum(map(len, batch))
    assert [len(feeds[name]) for name in ("input_ids", "token_type_ids", "position_ids")] == [tokens] * 3


@given(batches, targets)
def test_positions_equal_robertas(batch: list[Ids], target: Target) -> None:
    """RobertaEmbeddings counts the tokens that are not padding, from the padding's id on, which padding itself keeps."""
    positions = cut(packed(batch, target, position_offset=PAD + 1), "position_ids", batch)
    for ids, got in zip(batch, positions, strict=True):
        expected, count = [], 0
        for token in ids:
            count += token != PAD
            expected.append(PAD + count if token != PAD else PAD)
        assert got == expected


@given(batches)
def test_groups_of_one_length_cover_a_cpu_batch(batch: list[Ids]) -> None:
    feeds = packed(batch, "cpu")
    starts, ends = feeds["group_start"][:, 0].tolist(), feeds["group_end"][:, 0].tolist()
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == sum(map(len, batch))
    begins = dict(zip(feeds["cls_index"].tolist(), map(len, batch), strict=True))
    for start, end, (count, length, hidden) in zip(starts, ends, feeds["group_shape"].tolist(), strict=True):
        assert [begins.pop(start + i * length) for i in range(count)] == [length] * count
        assert count * length == end - start
        assert hidden == -1
    assert not begins


@given(batches)
def test_offsets_tell_where_a_cuda_batch_would_be_padded(batch: list[Ids]) -> None:
    feeds = packed(batch, "cuda")
    longest = max(map(len, batch))
    cells = [row * longest + column for row, ids in enumerate(batch) for column in range(len(ids))]
    offsets = feeds["token_offset"]
    assert offsets.shape == (len(batch), longest)
    assert offsets.ravel().tolist()[: len(cells)] == cells
    assert sorted(offsets.ravel().tolist()) == list(range(len(batch) * longest))
    assert feeds["cu_seqlens"].tolist() == [0, *np.cumsum([len(ids) for ids in batch])]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_arrays_have_the_documented_types(target: Target) -> None:
    feeds = packed([[1, 2, 3], [4]], target)
    int32 = {"input_ids", "token_type_ids", "token_offset", "cu_seqlens"}
    assert {name: str(array.dtype) for name, array in feeds.items()} == {
        name: "int32" if name in int32 else "int64" for name in feeds
    }


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_inputs_are_not_modified(target: Target) -> None:
    def arrays() -> list[TokenArray]:
        return [np.array(values, np.int32) for values in ([3, PAD, 2], [0, 0, 1], [5], [1])]

    given_arrays = first_ids, first_types, second_ids, second_types = arrays()
    batch = [TokenSequence(first_ids, first_types), TokenSequence(second_ids, second_types)]
    pack(batch, target=target, position_offset=PAD + 1)
    assert all(np.array_equal(now, before) for now, before in zip(given_arrays, arrays(), strict=True))
