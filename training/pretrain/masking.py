"""Masked words: 15% of the tokens, in whole words, of which 80% are hidden, 10% are others, and 10% stay."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IGNORED: Final = -100
"""The label of a token that is not asked for, as torch has it."""
_MASKED: Final = 0.15
_HIDDEN: Final = 0.8
_OTHER: Final = 0.9


class Masking:
    """What a tokenizer's tokens are: parts of words, special, or whole."""

    def __init__(self, tokenizer: Any) -> None:
        size = len(tokenizer)
        tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
        # A tokenizer that is no WordPiece has none: there, each token is a word.
        prefix = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        self._goes_on: NDArray[np.bool_] = np.array([bool(prefix) and token.startswith(prefix) for token in tokens])
        self._special: NDArray[np.bool_] = np.zeros(size, bool)
        self._special[tokenizer.all_special_ids] = True
        self._others: NDArray[np.intp] = np.flatnonzero(~self._special)
        self._mask = int(tokenizer.mask_token_id)

    def mask(self, ids: NDArray[np.int64], chance: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tokens with some words masked, and the labels: what they were. Special tokens stay.

        Args:
            ids: [tokens], with the special ones.
            chance: Decides.
        """
        ordinary = ~self._special[ids]
        labels = np.full_like(ids, IGNORED)
        if not ordinary.any():
            return ids, labels
        # What goes on where a sequence begins is of a word that was cut.
        begins = ordinary & (~self._goes_on[ids] | ~np.roll(ordinary, 1))
        words = np.cumsum(begins) - 1
        sizes = np.bincount(words[ordinary])
        order = chance.permutation(len(sizes))
        ends = np.cumsum(sizes[order])
        # To the nearest word: as many sequences have a token too many as one too few.
        chosen = order[ends - sizes[order] / 2 < _MASKED * ordinary.sum()]
        if not len(chosen):
            chosen = order[[np.argmin(sizes[order])]]
        masked = ordinary & np.isin(words, chosen)
        labels[masked] = ids[masked]
        fate = chance.random(len(ids))
        out = np.where(masked & (fate < _HIDDEN), self._mask, ids)
        others = chance.choice(self._others, len(ids))
        return np.where(masked & (fate >= _HIDDEN) & (fate < _OTHER), others, out), labels
