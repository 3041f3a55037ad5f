"""Text to token ids and back, with the tokenizer the checkpoint was trained with.

The only module that imports `tokenizers`. Called from the event loop for short texts and from worker threads for long
ones: a `Tokenizer` is never changed after it was made. Truncation is a state of the Rust tokenizer, so each direction
has a tokenizer of its own, and so have texts that are not cut.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal, cast

import numpy as np
import tokenizers

from app.bundle import Bundle, Task
from app.errors import BundleError, ValidationFailed
from app.messages import IntArray
from app.words import Words, can_read

# Over this many characters a batch of one is the better call: `encode` keeps the GIL for as long as it takes, which for
# 1 MB is a second in which nobody else is answered. For a short text the batch costs 70 us more.
LONG_TEXT: Final = 1000
# `Words` keeps the GIL, too, and is 5 times as fast: this many characters take it a millisecond.
PLAIN_TEXT: Final = 10_000

Direction = Literal["right", "left"]
Cut = Direction | None
"""The end at which texts are cut that are too long, None if they are not."""
READ_IN_WINDOWS: Final = frozenset[Task]({"entities", "answer"})
"""Tasks whose texts need not be cut."""
MOST_TOKENS: Final = 512 * 512
"""Of one text that is not cut, as many as of the most texts a request may have by default. The GIL is kept while it is told
where they are: for these an eighth of a second, for those of 4 MB of text 0.7 s."""
TextInput = str | tuple[str, str]
"""One text, or a text and its pair."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized input, special tokens included."""

    input_ids: IntArray  # int64[tokens]
    token_type_ids: IntArray  # int64[tokens]
    was_truncated: bool


@dataclass(frozen=True, slots=True)
class Located:
    """One tokenized input, special tokens included, and where in the text its tokens come from."""

    input_ids: IntArray  # int64[tokens]
    token_type_ids: IntArray  # int64[tokens]
    offsets: IntArray  # int64[tokens, 2], first character and the one after the last
    words: IntArray  # int64[tokens], the number of the word, in the order of the text
    texts: tuple[range, ...]  # the tokens of the text, and of its pair; special tokens are around them
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
        cuts: list[Cut] = ["right", None] if bundle.manifest.task in READ_IN_WINDOWS else ["right"]
        try:
            self._by_cut: Final[dict[Cut, tokenizers.Tokenizer]] = {cut: self._make(cut) for cut in cuts}
        except Exception as error:
            raise BundleError(f"{path} is not a tokenizer that this server can read: {error}.") from error
        definition = json.loads(self._json)
        self.marks_subwords: Final = bool(definition["model"].get("continuing_subword_prefix"))
        """Whether a token says of itself that it goes on with a word, as WordPiece's ##."""
        self._making = threading.Lock()
        self._words, self._before, self._after = self._plain(definition)

    def _plain(self, definition: Mapping[str, Any]) -> tuple[Words | None, list[int], list[int]]:
        """Return what tokenizes plain texts, if anything does, and the special tokens around a text."""
        if not can_read(definition):
            return None, [], []
        tokenizer = self._by_cut["right"]
        model = tokenizer.model
        bare, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
        count, added = len(bare.ids), len(whole.ids) - len(bare.ids)
        before = next((i for i in range(added + 1) if whole.ids[i : i + count] == bare.ids), None)
        if before is None or not count or any(whole.type_ids):
            return None, [], []
        words = Words(definition, lambda word: [token.id for token in model.tokenize(word)])
        return words, whole.ids[:before], whole.ids[before + count :]

    def _make(self, cut: Cut) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer.from_str(self._json)
        tokenizer.no_padding()
        if cut is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(self.max_length, direction=cut, strategy="longest_first")
        return tokenizer

    def _for(self, cut: Cut) -> tokenizers.Tokenizer:
        # Others than right are rare and a large vocabulary takes a second to read: made when first asked for.
        if cut not in self._by_cut:
            with self._making:
                if cut not in self._by_cut:
                    self._by_cut[cut] = self._make(cut)
        return self._by_cut[cut]

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
        short = _encode_short(tokenizer, inputs)
        encodings = tokenizer.encode_batch_fast(list(inputs)) if short is None else short
        return [
            Encoded(np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64), bool(encoding.overflowing))
            for encoding in encodings
        ]

    def encode_located(self, inputs: Sequence[TextInput], cut: Cut) -> list[Located]:
        """Tokenize inputs, each cut to the model's maximum length at one end, or not cut at all.

        Raises:
            ValidationFailed: an input is not to be cut, and longer than is read even so.
        """
        tokenizer = self._for(cut)
        short = _encode_short(tokenizer, inputs)
        encodings = tokenizer.encode_batch(list(inputs)) if short is None else short
        for i, encoding in enumerate(encodings):
            if len(encoding) > MOST_TOKENS:
                raise ValidationFailed(
                    f"inputs[{i}] has {len(encoding)} tokens, the most that is read in windows is {MOST_TOKENS}. Split it."
                )
        return [
            _located(encoding, texts=1 if isinstance(one, str) else 2)
            for encoding, one in zip(encodings, inputs, strict=True)
        ]

    def token(self, id_: int) -> str:
        """Return a token as the vocabulary has it, markers such as ## and all."""
        return cast("str", self._by_cut["right"].id_to_token(id_))

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens, as transformers' `convert_tokens_to_string` does."""
        decoder = self._by_cut["right"].decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def token_id(self, text: str) -> int | None:
        """Return the id of the one token that `text` is, or None if it is not one known token."""
        tokenizer = self._by_cut["right"]
        exact = tokenizer.token_to_id(text)
        if exact is not None:
            return exact
        if len(text) > LONG_TEXT:
            return None
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids[0] if len(ids) == 1 and ids[0] != self._special.unknown.id else None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids, as transformers' `decode` does."""
        text = self._by_cut["right"].decode(list(ids), skip_special_tokens=skip_special_tokens)
        return clean_up(text) if self._clean_up else text


def _encode_short(tokenizer: tokenizers.Tokenizer, inputs: Sequence[TextInput]) -> list[tokenizers.Encoding] | None:
    """Tokenize a single short input; return None for others, which are a batch's to do."""
    if len(inputs) != 1 or _characters(inputs[0]) > LONG_TEXT:
        return None
    [only] = inputs
    return [tokenizer.encode(only) if isinstance(only, str) else tokenizer.encode(*only)]


def _located(encoding: tokenizers.Encoding, texts: int) -> Located:
    owners = encoding.sequence_ids
    length, backwards = len(owners), owners[::-1]
    offsets = chain.from_iterable(encoding.offsets)
    return Located(
        np.array(encoding.ids, np.int64),
        np.array(encoding.type_ids, np.int64),
        np.fromiter(offsets, np.int64, 2 * length).reshape(length, 2),
        np.array([-1 if word is None else word for word in encoding.word_ids], np.int64),
        tuple(
            # A text without a token stands at the end, as well as anywhere.
            range(owners.index(i), length - backwards.index(i)) if i in owners else range(length, length)
            for i in range(texts)
        ),
        bool(encoding.overflowing),
    )


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
