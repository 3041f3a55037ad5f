"""What goes into a graph and comes out of it, by sequence. Plain data."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

TokenArray = npt.NDArray[np.int32]
"""Ids or positions of tokens."""
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


NO_MASKS: Final[TokenArray] = np.empty(0, np.int32)


@dataclass(slots=True)
class TokenSequence:
    """One tokenized input with its special tokens. It is never changed, and not frozen as that takes longer to make.

    `masks` holds the positions of its mask tokens, empty unless the task asks for them. `top_k` is how many tokens are
    wanted per mask; `targets` names the only token ids that may be answered.
    """

    input_ids: TokenArray  # int32[tokens]
    token_type_ids: TokenArray  # int32[tokens]
    masks: TokenArray = field(default_factory=lambda: NO_MASKS)  # int32[masks]
    top_k: int = 0
    targets: TokenArray | None = None  # int32[targets]

    def __len__(self) -> int:
        return len(self.input_ids)


def to_sequence(
    input_ids: npt.ArrayLike, token_type_ids: npt.ArrayLike, *, mask_id: int | None = None, top_k: int = 0
) -> TokenSequence:
    """Return a sequence of integers [tokens], whose masks are the tokens `mask_id`; there are none if it is None."""
    ids = np.array(input_ids, np.int32)
    masks = NO_MASKS if mask_id is None else np.flatnonzero(ids == mask_id).astype(np.int32)
    return TokenSequence(ids, np.array(token_type_ids, np.int32), masks, top_k)


@dataclass(frozen=True, slots=True)
class MaskScores:
    """The tokens answered for each mask of one sequence, best first."""

    tokens: IntArray  # int64[masks, k]
    scores: FloatArray  # float32[masks, k]


SequenceResult = FloatArray | MaskScores
"""The answer to one sequence: `MaskScores` for masked tokens, else numbers.

A row float32[labels or hidden] for tasks that answer texts (classify, next-sentence, embed), or a row for each of its tokens
float32[tokens, labels] (entities, answer).
"""
