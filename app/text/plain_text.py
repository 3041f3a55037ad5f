"""WordPiece on plain text, without the Rust tokenizer: one table lookup a word.

Most requests are a short text of ASCII letters and punctuation, and the Rust tokenizer took a third of the time of one. For
such a text, BERT's normalizer and pre-tokenizer amount to lowercasing and one regular expression, and most words are in the
vocabulary as they are. All other texts go to the Rust tokenizer. The table holds the vocabulary alone, never a caller's words.

Source: BertNormalizer, BertPreTokenizer, WordPiece and AddedVocabulary of the `tokenizers` library. The ids are equal
(`tests/app/text/test_plain_text.py`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, cast

# Runs of letters and digits, and single ASCII punctuation marks as in Rust's char::is_ascii_punctuation.
_WORD: Final = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")
_TO_SPACES: Final = str.maketrans("\t\n\r", "   ")


class PlainTokenizer:
    """Turns plain texts into token ids, without special tokens."""

    def __init__(self, definition: Mapping[str, Any], split: Callable[[str], Sequence[int]]) -> None:
        """Make the table. `reads_plain_text(definition)` must be true.

        Args:
            definition: The content of tokenizer.json, with its added tokens as they are sought.
            split: Returns the ids of a word that is not in the vocabulary.
        """
        model = definition["model"]
        self._is_lower: Final[bool] = definition["normalizer"]["lowercase"]
        longest = model["max_input_chars_per_word"]
        self._ids: Final = _Table(
            {
                word: (number,)
                for word, number in model["vocab"].items()
                if _WORD.fullmatch(word) and len(word) <= longest
            },
            split,
        )
        first = {token["content"][0] for token in definition["added_tokens"]}
        self._may_be_added: Final = re.compile("[" + re.escape("".join(sorted(first))) + "]") if first else None

    def ids(self, text: str) -> list[int] | None:
        """Return the ids of a text, or None if it is not plain."""
        if not text.isascii() or (self._may_be_added is not None and self._may_be_added.search(text)):
            return None
        if not text.isprintable():
            text = text.translate(_TO_SPACES)
            if not text.isprintable():
                return None  # the normalizer drops control characters, even within words
        if self._is_lower:
            text = text.lower()
        return list(chain.from_iterable(map(self._ids.__getitem__, _WORD.findall(text))))


def reads_plain_text(definition: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json is of BERT's kind, and no added token begins with a letter, a digit or a space.

    Its added tokens are those that are sought. A line break is normalized to a space, and so is an added token of one.
    """
    kinds = [(definition.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
        return False
    first = [token["content"][0] for token in cast("list[Any]", definition["added_tokens"])]
    return not any(character.isalnum() or character.isspace() for character in first)


class _Table(dict[str, Sequence[int]]):
    """The ids of words in the vocabulary; other words are split."""

    def __init__(self, words: Mapping[str, Sequence[int]], split: Callable[[str], Sequence[int]]) -> None:
        super().__init__(words)
        self._split = split

    def __missing__(self, word: str) -> Sequence[int]:
        return self._split(word)
