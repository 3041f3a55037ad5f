"""What goes into a graph and comes out of it, by sequence. Plain data."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(slots=True)
class TokenSequence:
    """One tokenized input with its special tokens. Nobody changes one: it is not frozen as that takes longer to make.

    `masks` holds the positions of its mask tokens, empty unless the task asks for them. `top_k` is how many tokens are
    wanted per mask; `targets` names the only token ids that may be answered.
    """

    input_ids: IntArray  # int64[tokens]
    token_type_ids: IntArray  # int64[tokens]
    masks: IntArray  # int64[masks]
    top_k: int = 0
    targets: IntArray | None = None  # int64[targets]

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class MaskScores:
    """The tokens answered for each mask of one sequence, best first."""

    tokens: IntArray  # int64[masks, k]
    scores: FloatArray  # float32[masks, k]


SequenceResult = FloatArray | MaskScores
"""The answer to one sequence: `MaskScores` for masked tokens, else numbers.

A row float32[labels or hidden] for what is asked of a text (classify, next-sentence, embed), or a row for each of its tokens
float32[tokens, labels] (entities, answer).
"""
