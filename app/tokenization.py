"""Text to token ids and back, with the tokenizer the checkpoint was trained with.

The only module that imports `tokenizers`. Called from the event loop for short texts and from worker threads for long
ones: a `Tokenizer` is never changed after it was made. Truncation is a state of the Rust tokenizer, so each direction
has one of its own.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
import tokenizers

from app.bundle import Bundle
from app.errors import BundleError, ValidationFailed
from app.messages import IntArray
from app.words import Words, can_read

# Over this many characters a batch of one is the better call: `encode` keeps the GIL for as long as it takes, which for
# 1 MB is a second in which nobody else is answered. For a short text the batch costs 70 us more.
LONG_TEXT: Final = 1000
# `Words` keeps the GIL, too, and is 5 times as fast: this many characters take it a millisecond.
PLAIN_TEXT: Final = 10_000

Direction = Literal["right", "left"]
TextInput = str | tuple[str, str]
"""One text, or a text and its pair."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized input, special tokens included."""

    input_ids: IntArray  # int64[tokens]
    token_type_ids: IntArray  # int64[tokens]
    was_truncated: bool


class Tokenizer:
    """The tokenizer of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        """Read the tokenizer.

        Raises:
            BundleError: its file is missing, damaged, or does not produce the golden token ids.
        """
        path = bundle.verify_file(bundle.manifest.tokenizer)
        self._json: Final = path.read_text(encoding="utf-8")
        self.max_length: Final = bundle.manifest.max_length
        self._special: Final = bundle.manifest.special_tokens
        self._zeros: Final = np.zeros(self.max_length, np.int64)
        self._zeros.flags.writeable = False
        self._clean_up: Final = bundle.manifest.clean_up_tokenization_spaces
        try:
            self._truncating: Final[dict[Direction, tokenizers.Tokenizer]] = {"right": self._make("right")}
        except Exception as error:
            raise BundleError(f"{path} is not a tokenizer that this server can read: {error}.") from error
        self._making = threading.Lock()
        self._words, self._before, self._after = self._plain()

    def _plain(self) -> tuple[Words | None, list[int], list[int]]:
        """Return what tokenizes plain texts, if anything does, and the special tokens around a text."""
        definition = json.loads(self._json)
        if not can_read(definition):
            return None, [], []
        tokenizer = self._truncating["right"]
        model = tokenizer.model
        bare, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
        count, added = len(bare.ids), len(whole.ids) - len(bare.ids)
        before = next((i for i in range(added + 1) if whole.ids[i : i + count] == bare.ids), None)
        if before is None or not count or any(whole.type_ids):
            return None, [], []
        words = Words(definition, lambda word: [token.id for token in model.tokenize(word)])
        return words, whole.ids[:before], whole.ids[before + count :]

    def _make(self, direction: Direction) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer.from_str(self._json)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length, direction=direction, strategy="longest_first")
        return tokenizer

    def _for(self, direction: Direction) -> tokenizers.Tokenizer:
        # Left truncation is rare and a large vocabulary takes a second to read: made when first asked for.
        if direction not in self._truncating:
            with self._making:
                if direction not in self._truncating:
                    self._truncating[direction] = self._make(direction)
        return self._truncating[direction]

    def encode(
        self, inputs: Sequence[TextInput], *, truncation: bool = True, direction: Direction = "right"
    ) -> list[Encoded]:
        """Tokenize inputs, each cut to the model's maximum length if `truncation` allows.

        Raises:
            ValidationFailed: an input is too long and may not be cut.
        """
        encoded = [self._encode_plain(text, direction) for text in inputs]
        rest = [text for text, done in zip(inputs, encoded, strict=True) if done is None]
        if rest:
            others = iter(self._encode(rest, direction))
            encoded = [next(others) if done is None else done for done in encoded]
        whole = cast("list[Encoded]", encoded)
        if not truncation:
            for i, text in enumerate(whole):
                if text.was_truncated:
                    raise ValidationFailed(
                        f"inputs[{i}] has more than {self.max_length} tokens, the most this model takes. Shorten it."
                    )
        return whole

    def _encode_plain(self, text: TextInput, direction: Direction) -> Encoded | None:
        if self._words is None or not isinstance(text, str) or len(text) > PLAIN_TEXT:
            return None
        ids = self._words.ids(text)
        if ids is None:
            return None
        room = self.max_length - len(self._before) - len(self._after)
        was_truncated = len(ids) > room
        if was_truncated:
            ids = ids[:room] if direction == "right" else ids[len(ids) - room :]
        input_ids = np.array(self._before + ids + self._after, np.int64)
        return Encoded(input_ids, self._zeros[: len(input_ids)], was_truncated)

    def _encode(self, inputs: Sequence[TextInput], direction: Direction) -> list[Encoded]:
        tokenizer = self._for(direction)
        if len(inputs) == 1 and _characters(inputs[0]) <= LONG_TEXT:
            only = inputs[0]
            encodings = [tokenizer.encode(only) if isinstance(only, str) else tokenizer.encode(*only)]
        else:
            encodings = tokenizer.encode_batch_fast(list(inputs))
        return [
            Encoded(np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64), bool(encoding.overflowing))
            for encoding in encodings
        ]

    def token_id(self, text: str) -> int | None:
        """Return the id of the one token that `text` is, or None if it is not one known token."""
        tokenizer = self._truncating["right"]
        exact = tokenizer.token_to_id(text)
        if exact is not None:
            return exact
        if len(text) > LONG_TEXT:
            return None
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids[0] if len(ids) == 1 and ids[0] != self._special.unknown.id else None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids, as transformers' `decode` does."""
        text = self._truncating["right"].decode(list(ids), skip_special_tokens=skip_special_tokens)
        return clean_up(text) if self._clean_up else text


def _characters(text: TextInput) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def clean_up(text: str) -> str:
    """Join English punctuation and contractions to the word before, as transformers' clean_up_tokenization does."""
    for apart, joined in (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
        (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ):  # fmt: skip
        text = text.replace(apart, joined)
    return text
