"""Which tokens a corpus uses."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final

import numpy as np
import tokenizers
from numpy.typing import NDArray

_BATCH: Final = 4096
"""Texts: enough for every core, and some megabytes."""


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts that are not empty, many at a time."""
    rest = (text for text in texts if text)
    while batch := list(islice(rest, _BATCH)):
        yield batch


class Usage:
    """How often texts use each token id, and the ids that texts with unknown words need in order to stay as they are."""

    def __init__(self, readings: list[tokenizers.Tokenizer]) -> None:
        self.ids = 1 + max(max(reading.get_vocab(with_added_tokens=True).values()) for reading in readings)
        self.counts: NDArray[np.int64] = np.zeros(self.ids, np.int64)
        self.before_unknown: set[int] = set()
        self._readings = readings
        self._words: set[str] = set()

    def add(self, batch: list[str]) -> None:
        """Count."""
        for reading in self._readings:
            unknown = _unknown_of_wordpiece(reading)
            encodings = reading.encode_batch_fast(batch)
            flat = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
            self.counts += np.bincount(flat, minlength=self.ids)
            if unknown is not None and (flat == unknown).any():
                for text, encoding in zip(batch, encodings, strict=True):
                    if unknown in encoding.ids:
                        self._add_unknown_words(reading, text, unknown)

    def _add_unknown_words(self, reading: tokenizers.Tokenizer, text: str, unknown: int) -> None:
        """Add the tokens that WordPiece found in an unknown word before it failed.

        It takes the longest token at each place. Without that one it would take a shorter one, and might not fail.
        """
        encoding = reading.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token != unknown:
                continue
            word = text[start:end]
            if reading.normalizer is not None:
                word = reading.normalizer.normalize_str(word).strip()
            if word not in self._words:
                self._words.add(word)
                self.before_unknown.update(_ids_before_unknown(reading.model, word, unknown))


def _unknown_of_wordpiece(reading: tokenizers.Tokenizer) -> int | None:
    model: Any = reading.model
    return reading.token_to_id(model.unk_token) if type(model).__name__ == "WordPiece" else None


def _ids_before_unknown(model: Any, word: str, unknown: int) -> list[int]:
    if len(word) > model.max_input_chars_per_word:
        return []
    for end in range(len(word) - 1, 0, -1):
        ids = [token.id for token in model.tokenize(word[:end])]
        if unknown not in ids:
            return ids
    return []
