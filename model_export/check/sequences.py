"""Make sequences to check graphs with: random ones of mixed lengths, and those of texts."""

from typing import Final

import numpy as np
import numpy.typing as npt

from app.bundle.manifest import SpecialToken
from app.bundle.sequences import TokenSequence, to_sequence

TOP_K: Final = 5
"""Tokens that are compared for each mask."""

_SEED: Final = 20181011
_LENGTHS: Final = (17, 1, 33, 2, 5)


def checked_sequence(input_ids: npt.ArrayLike, types: npt.ArrayLike, mask: SpecialToken | None) -> TokenSequence:
    """Return a sequence of integers [tokens]; every `mask` in it is answered, none if it is None."""
    return to_sequence(input_ids, types, mask_id=None if mask is None else mask.id, top_k=TOP_K)


def random_sequences(max_length: int, vocab_size: int, mask: SpecialToken | None) -> list[TokenSequence]:
    """Return random tokens: lengths from 1 to `max_length`, mixed; the same for the same arguments."""
    generator = np.random.default_rng(_SEED)
    sequences = []
    for length in [*(length for length in _LENGTHS if length < max_length), max_length]:
        input_ids = generator.integers(0, vocab_size, length)
        if mask is not None:
            input_ids[generator.choice(length, min(length, 2), replace=False)] = mask.id
        sequences.append(checked_sequence(input_ids, np.arange(length) >= length / 2, mask))
    return sequences
