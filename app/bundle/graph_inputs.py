"""Lay sequences out as one padding-free batch.

Defines the names, types and meaning of the graph's inputs. Pure NumPy.

Every graph takes the tokens of all sequences, end to end, in integers of the size that it declares:

    input_ids, token_type_ids, position_ids   int[tokens]
    cls_index     int[batch]          first token of each sequence, in the given order of the sequences
    mask_index    int[masks]          masked tokens: flat positions of the mask tokens
    k             int64[1]            masked tokens: how many of the best tokens to return per mask

A graph that returns a row for each sequence returns them in the order of `cls_index`. One that returns a row for each token
returns them in packed order, so the rows of a sequence start at its `cls_index`:

    logits        float32[batch, labels]     classification, next sentence
    embeddings    float32[batch, hidden]     embeddings, pooled and not normalized
    token_logits  float32[tokens, labels]    entities; answers, whose two columns are start and end

A CPU graph attends within groups of sequences of equal length. Therefore the batch is sorted by length, and `cls_index`
gives the new position of each sequence:

    group_start   int64[groups, 1]    first token of each group
    group_end     int64[groups, 1]    one past its last token
    group_shape   int64[groups, 3]    number of sequences, their length, and -1 for the hidden size

A CUDA graph (com.microsoft.PackedMultiHeadAttention) takes sequences in any order:

    token_offset  int32[batch, seq]   flat padded positions of the tokens first, then of the padding
    cu_seqlens    int32[batch + 1]    cumulative sequence lengths, from 0
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from app.bundle.manifest import Target
from app.bundle.sequences import TokenSequence
from app.errors import OutOfDeviceMemory

Feeds = dict[str, npt.NDArray[np.generic]]

_EVERYWHERE: Final = frozenset({"input_ids", "token_type_ids", "position_ids", "cls_index", "mask_index", "k"})
INPUTS: Final[Mapping[Target, frozenset[str]]] = MappingProxyType(
    {
        "cpu": _EVERYWHERE | {"group_start", "group_end", "group_shape"},
        "cuda": _EVERYWHERE | {"token_offset", "cu_seqlens"},
    }
)
"""Possible inputs of a graph, by target. A graph declares those it uses, as int64 or int32."""
LARGEST_OFFSET: Final = np.iinfo(np.int32).max


def pack(batch: Sequence[TokenSequence], *, target: Target, position_offset: int = 0) -> Feeds:
    """Return the inputs that the graphs of all tasks share, and `cls_index`.

    Args:
        batch: At least one sequence, each of at least one token.
        target: The kind of device that the graph was written for.
        position_offset: The position id of a sequence's first token. If it is not 0 (RoBERTa and the like), the id before
            it is the pad token's: a pad token in the text gets that position and is not counted.

    Raises:
        ValueError: the batch is empty, or a sequence has no tokens or another number of types. A kernel divides by its length,
            and its types would be those of the sequence behind it.
        OutOfDeviceMemory: the batch is too large for CUDA's offsets.
    """
    lengths = np.fromiter(map(len, batch), np.int64, len(batch))
    if not len(lengths) or not lengths.min():
        raise ValueError("a batch needs a sequence, and a sequence a token")
    if any(len(sequence.token_type_ids) != len(sequence) for sequence in batch):
        raise ValueError("a sequence has not one token type for each token")
    input_ids = np.concatenate([sequence.input_ids for sequence in batch])
    token_type_ids = np.concatenate([sequence.token_type_ids for sequence in batch])
    starts = np.cumsum(lengths) - lengths
    cls_index = starts
    if target == "cpu" and len(lengths) > 1:
        order = np.argsort(lengths, kind="stable")
        lengths = lengths[order]
        begins, starts = starts[order], np.cumsum(lengths) - lengths
        token = np.arange(len(input_ids)) + np.repeat(begins - starts, lengths)
        input_ids, token_type_ids = input_ids[token], token_type_ids[token]
        cls_index = np.empty_like(starts)
        cls_index[order] = starts
    position_ids = np.arange(len(input_ids)) - np.repeat(starts, lengths) + position_offset
    if position_offset:
        is_counted = input_ids != position_offset - 1
        if not is_counted.all():
            count = np.cumsum(is_counted)
            before = np.repeat(count[starts] - is_counted[starts], lengths)
            position_ids = (count - before) * is_counted + position_offset - 1
    feeds: Feeds = {
        "input_ids": input_ids,
        "token_type_ids": token_type_ids,
        "position_ids": position_ids,
        "cls_index": cls_index,
    }
    if target == "cpu":
        sizes, counts = np.unique(lengths, return_counts=True)
        tokens = sizes * counts
        ends = np.cumsum(tokens)
        feeds["group_start"] = (ends - tokens)[:, None]
        feeds["group_end"] = ends[:, None]
        feeds["group_shape"] = np.stack([counts, sizes, np.full_like(sizes, -1)], axis=1)
    else:
        if len(lengths) * int(lengths.max()) > LARGEST_OFFSET:
            raise OutOfDeviceMemory("the padded positions of a batch do not fit into 32 bits")
        is_token = np.arange(lengths.max()) < lengths[:, None]
        order = np.concatenate([np.flatnonzero(is_token), np.flatnonzero(~is_token)])
        feeds["token_offset"] = order.astype(np.int32).reshape(is_token.shape)
        feeds["cu_seqlens"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return feeds
