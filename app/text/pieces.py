"""Tokenizes long texts in pieces, with the tokens, places and words of the whole.

The library is not interrupted, and takes memory in proportion to what it is given: between two pieces, the work of a caller that
is gone ends, and so does that of too many tokens.
"""

import threading
from dataclasses import dataclass
from typing import Final

import numpy as np
import tokenizers

from app.bundle.sequences import IntArray, TokenArray
from app.errors import ValidationFailed
from app.text.located import ids_of, offsets_of, words_of
from app.text.split_points import Part, SplitPoints
from app.work import go_on

PIECE: Final = 65536
"""Characters that are tokenized at once, of one text or of several. The library takes up to 280 bytes for each."""
LONG_PIECE: Final = 2 * PIECE
"""Most characters that are tokenized whole, and beside others."""
LONGEST_PIECE: Final = 16 * PIECE
"""Bytes, in UTF-8, of the longest run of text that has no place between two words: byte-level BPE takes nearly 1 KB for each, so
only one such run is tokenized at a time. A byte may be a token."""
MOST_TOKENS: Final = 512 * 512
"""The most tokens of a text that is not cut: as many as the most texts of a request may have by default."""


@dataclass(frozen=True, slots=True)
class Read:
    """The tokens of a text, as in `Located`, without special tokens."""

    input_ids: TokenArray
    offsets: IntArray
    words: IntArray

    def cut(self, tokens: int, is_left: bool) -> "Read":
        """Return so many tokens of an end of it."""
        kept = slice(len(self.input_ids) - tokens, None) if is_left else slice(tokens)
        return Read(self.input_ids[kept], self.offsets[kept], self.words[kept])


def read(
    tokenizer: tokenizers.Tokenizer,
    split_points: SplitPoints | None,
    text: str,
    place: str,
    most_tokens: int | None = None,
) -> Read:
    """Tokenize a long text in pieces, without special tokens.

    Raises:
        ValidationFailed: it has more than `most_tokens`, or no place to end a piece.
    """
    nothing = np.empty(0, np.int32), np.empty((0, 2), np.int64), np.empty(0, np.int64)
    found = [Read(*nothing)]
    done = tokens = words = 0
    size = PIECE
    while done < len(text):
        go_on()
        piece = Part(text, 0, range(len(text))) if split_points is None else split_points.piece(text, done, size)
        encoding = _encode(tokenizer, piece.text, place)
        is_last = piece.begin + len(piece.text) == len(text)
        one = _exact(encoding, piece, words, is_last=is_last)
        if one is None:  # a token reaches over the end
            size += PIECE
            continue
        found.append(one)
        tokens += len(one.input_ids)
        if len(one.words):
            words = int(one.words[-1]) + 1
        if most_tokens is not None and tokens > most_tokens:
            raise too_many_tokens(place)
        done = piece.begin + piece.exact.stop
        size = PIECE
    return Read(
        np.concatenate([one.input_ids for one in found]),
        np.concatenate([one.offsets for one in found]),
        np.concatenate([one.words for one in found]),
    )


def too_many_tokens(place: str) -> ValidationFailed:
    """Return the error of a text that is not cut, and has more than `MOST_TOKENS`."""
    return ValidationFailed(f"{place} has over {MOST_TOKENS} tokens, the most that is read in windows. Split it.")


def _encode(tokenizer: tokenizers.Tokenizer, text: str, place: str) -> tokenizers.Encoding:
    if len(text) <= LONG_PIECE:
        [encoding] = tokenizer.encode_batch([text], add_special_tokens=False)
        return encoding
    if len(text) > LONGEST_PIECE or len(text.encode()) > LONGEST_PIECE:
        raise ValidationFailed(
            f"{place}: {LONGEST_PIECE} bytes of it hold no place between two words, as spaces are, and cannot be tokenized in "
            "parts. Split or shorten it."
        )
    while not _LONG_PIECE.acquire(timeout=0.1):
        go_on()
    try:
        [encoding] = tokenizer.encode_batch([text], add_special_tokens=False)
    finally:
        _LONG_PIECE.release()
    return encoding


def _exact(encoding: tokenizers.Encoding, piece: Part, first_word: int, *, is_last: bool) -> Read | None:
    """Return the exact tokens of a piece, or None if a token reaches over the end of them."""
    offsets = offsets_of(encoding, range(len(encoding)))
    begin, stop = (int((offsets[:, 0] < place).sum()) for place in (piece.exact.start, piece.exact.stop))
    if is_last:  # with spaces that the library leaves out of the offsets
        stop = len(offsets)
    elif stop > begin and offsets[stop - 1, 1] > piece.exact.stop:
        return None
    words = words_of(encoding.word_ids[begin:stop])
    return Read(
        ids_of(encoding.ids)[begin:stop],
        offsets[begin:stop] + piece.begin,
        words + (first_word - words[0] if len(words) else 0),
    )


_LONG_PIECE: Final = threading.Lock()
