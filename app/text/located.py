"""Tokenized inputs, and where in their texts the tokens come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import tokenizers

from app.bundle.sequences import IntArray, TokenArray
from app.work import go_on

AT_ONCE: Final = 16384
"""Tokens that are read at once with the GIL held. For a list of places the library makes all objects at once, 0.3 s for those of a
million tokens; one by one, they take as long, but hold up nobody."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized input, special tokens included."""

    input_ids: TokenArray  # int32[tokens]
    token_type_ids: TokenArray  # int32[tokens]
    was_truncated: bool


@dataclass(frozen=True, slots=True)
class Located:
    """One tokenized input, special tokens included, and where in the text its tokens come from."""

    input_ids: TokenArray  # int32[tokens]
    token_type_ids: TokenArray  # int32[tokens]
    offsets: IntArray  # int64[tokens, 2], first character and the one after the last
    words: IntArray  # int64[tokens], the number of the word, in the order of the text
    texts: tuple[range, ...]  # the tokens of the text, and of its pair; special tokens are around them
    was_truncated: bool


def locate(encoding: tokenizers.Encoding, texts: int, kept: Sequence[int] | None = None) -> Located:
    """Return the tokens with their places: all, or those that are kept, for which the lists of all others are not made."""
    if kept is None:
        owners, words, offsets = encoding.sequence_ids, encoding.word_ids, offsets_of(encoding, range(len(encoding)))
    else:
        owners = [encoding.token_to_sequence(i) for i in kept]
        words = [encoding.token_to_word(i) for i in kept]
        offsets = offsets_of(encoding, kept)
    chosen = slice(None) if kept is None else kept
    return Located(
        ids_of(encoding.ids)[chosen],
        ids_of(encoding.type_ids)[chosen],
        offsets,
        words_of(words),
        places(owners, texts),
        kept is not None,
    )


def offsets_of(encoding: tokenizers.Encoding, tokens: Sequence[int]) -> IntArray:
    """Return the places of some tokens, int64[tokens, 2]."""
    pairs = encoding.offsets if len(tokens) == len(encoding) <= AT_ONCE else _one_by_one(encoding, tokens)
    return np.fromiter(chain.from_iterable(pairs), np.int64, 2 * len(tokens)).reshape(-1, 2)


def words_of(words: Sequence[int | None]) -> IntArray:
    """Return the numbers of words, -1 where there is none."""
    return np.fromiter((-1 if word is None else word for word in words), np.int64, len(words))


def ids_of(ids: Sequence[int]) -> TokenArray:
    """Return ids, or types, of tokens."""
    if len(ids) <= AT_ONCE:
        return np.array(ids, np.int32)
    return np.concatenate([np.array(ids[i : i + AT_ONCE], np.int32) for i in range(0, len(ids), AT_ONCE)])


def places(owners: Sequence[int | None], count: int) -> tuple[range, ...]:
    """Return which tokens are those of each text."""
    length, backwards = len(owners), owners[::-1]
    return tuple(
        # A text without a token stands at the end, as well as anywhere.
        range(owners.index(i), length - backwards.index(i)) if i in owners else range(length, length)
        for i in range(count)
    )


def _one_by_one(encoding: tokenizers.Encoding, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
    for begin in range(0, len(tokens), AT_ONCE):
        go_on()
        for i in tokens[begin : begin + AT_ONCE]:
            yield encoding.token_to_chars(i) or (0, 0)
