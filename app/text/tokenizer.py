"""Text to token ids and back, with the tokenizer the checkpoint was trained with.

Called from the event loop for short texts and from worker threads for long
ones: a `Tokenizer` is never changed after it was made.

Texts are cut here and not in Rust. There truncation is a state of the tokenizer, of which each direction would need its
own, and everything that is cut off comes back in pieces: of two long texts every piece of one with every piece of the other.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import tokenizers

from app.bundle.added_tokens import as_sought
from app.bundle.files import Bundle
from app.bundle.manifest import TruncationSide
from app.errors import BundleError, ValidationFailed
from app.text import pieces
from app.text.located import Encoded, Located, ids_of, locate, offsets_of, places
from app.text.pairs import Strategy, Template, longest_first
from app.text.plain_text import PlainTokenizer, reads_plain_text
from app.text.split_points import Part, SplitPoints, split_points_of
from app.work import go_on

# Longer texts are tokenized as a batch of one, which releases the GIL: `encode` would hold it, for a second with 1 MB. For a
# short text the batch costs 70 us more.
LONG_TEXT: Final = 1000
# `PlainTokenizer` holds the GIL, too, but is 5 times as fast: it takes a millisecond for this many characters.
PLAIN_TEXT: Final = 10_000

Direction = TruncationSide
Cut = Direction | None
"""The end at which texts that are too long are cut, None if they are not cut."""
CHARACTERS_A_TOKEN: Final = 6
"""Length of the part of a long text that is tokenized first, for each token that the model takes. English has 4 to 5."""
BYTE_LEVEL_SPACE: Final = "Ġ"
TextInput = str | tuple[str, str]
"""One text, or a text and its pair."""


class Tokenizer:
    """The tokenizer of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        """Read the tokenizer.

        Raises:
            BundleError: its file is missing, damaged, or does not produce the golden token ids.
        """
        path = bundle.path(bundle.manifest.tokenizer)
        content = bundle.read_file(bundle.manifest.tokenizer)
        self.max_length: Final = bundle.manifest.max_length
        self._special: Final = bundle.manifest.special_tokens
        self._zeros: Final = np.zeros(self.max_length, np.int32)
        self._zeros.flags.writeable = False
        self.direction: Final[Direction] = bundle.manifest.truncation_side or "right"
        """The end that is cut unless a request says otherwise."""
        self._clean_up: Final = bundle.manifest.clean_up_tokenization_spaces
        try:
            self._tokenizer: Final = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:
            raise BundleError(f"{path} is not a tokenizer that this server can read: {error}.") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = bool(bundle.manifest.splits_special_tokens)
        definition = self._as_sought(json.loads(content), path)
        self.marks_subwords: Final = bool(definition["model"].get("continuing_subword_prefix"))
        """Whether a token shows that it continues a word, as WordPiece's ## does."""
        self._split_points: Final = split_points_of(definition)
        self._spares_first_space: Final = _spares_first_space(definition.get("post_processor"))
        self._plain, self._before, self._after = self._plain_tokenizer(definition)
        word = self._text_with_a_token(bundle)
        self._templates: Final = [
            Template(one.sequence_ids, one.ids, one.type_ids)
            for one in (self._tokenizer.encode(word), self._tokenizer.encode(word, word))
        ]
        """Those of one text, and of two."""

    def _text_with_a_token(self, bundle: Bundle) -> str:
        """Return a text that shows where tokens stand between the special ones.

        Raises:
            BundleError: no golden text has a token.
        """
        for text in chain(["a"], (case.text for case in bundle.golden.cases)):
            if self._tokenizer.encode(text, add_special_tokens=False).ids:
                return text
        raise BundleError(
            f"{bundle.path(bundle.manifest.tokenizer)} makes no tokens of any text in {bundle.path(bundle.manifest.golden)}: it is "
            "not the tokenizer of a model. Export the model again with its own."
        )

    def _as_sought(self, definition: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
        """Return a tokenizer.json with its added tokens as they are sought: some in the text, some in the normalized text.

        Raises:
            BundleError: the library cannot tell one from others.
        """
        added, normalizer = definition["added_tokens"], self._tokenizer.normalizer
        try:
            sought = as_sought(
                [(token["id"], token["content"], token["normalized"]) for token in added],
                str if normalizer is None else normalizer.normalize_str,
            )
        except ValueError as error:
            raise BundleError(
                f"{path}: its normalizer leaves {error}, which the library cannot tell apart from others. "
                "Export the model again with normalized=False for such tokens, or without them."
            ) from error
        return {
            **definition,
            "added_tokens": [token | {"content": text} for token, text in zip(added, sought, strict=True)],
        }

    def _plain_tokenizer(self, definition: Mapping[str, Any]) -> tuple[PlainTokenizer | None, list[int], list[int]]:
        """Return the tokenizer of plain texts, if there can be one, and the special tokens before and after a text."""
        if not reads_plain_text(definition):
            return None, [], []
        tokenizer = self._tokenizer
        model = tokenizer.model
        bare, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
        count, added = len(bare.ids), len(whole.ids) - len(bare.ids)
        before = next((i for i in range(added + 1) if whole.ids[i : i + count] == bare.ids), None)
        if before is None or not count or any(whole.type_ids) or added > self.max_length:
            return None, [], []
        plain = PlainTokenizer(definition, lambda word: [token.id for token in model.tokenize(word)])
        return plain, whole.ids[:before], whole.ids[before + count :]

    def encode(
        self,
        inputs: Sequence[TextInput],
        *,
        truncation: bool = True,
        direction: Direction | None = None,
        place: Callable[[int], str] = "inputs[{}]".format,
    ) -> list[Encoded]:
        """Tokenize inputs, each cut to the model's maximum length if `truncation` allows.

        `direction` is the end that is cut, None for the model's own. `place` returns where an input stands in the request, for the error.

        Raises:
            ValidationFailed: an input is too long and may not be cut.
        """
        direction = direction or self.direction
        encoded = [self._encode_plain(text, direction) for text in inputs]
        rest = [i for i, done in enumerate(encoded) if done is None]
        if rest:
            others = self._encode([inputs[i] for i in rest], direction, lambda number: place(rest[number]))
            for i, other in zip(rest, others, strict=True):
                encoded[i] = other
        whole = cast("list[Encoded]", encoded)
        if not truncation:
            for i, text in enumerate(whole):
                if text.was_truncated:
                    raise ValidationFailed(
                        f"{place(i)} has more than {self.max_length} tokens, the most this model takes. Shorten it."
                    )
        return whole

    def _encode_plain(self, text: TextInput, direction: Direction) -> Encoded | None:
        if self._plain is None or not isinstance(text, str) or len(text) > PLAIN_TEXT:
            return None
        ids = self._plain.ids(text)
        if ids is None:
            return None
        room = self.max_length - len(self._before) - len(self._after)
        was_truncated = len(ids) > room
        if was_truncated:
            ids = ids[:room] if direction == "right" else ids[len(ids) - room :]
        input_ids = np.array(self._before + ids + self._after, np.int32)
        go_on(len(input_ids))
        return Encoded(input_ids, self._zeros[: len(input_ids)], was_truncated)

    def _encode(self, inputs: Sequence[TextInput], direction: Direction, place: Callable[[int], str]) -> list[Encoded]:
        parts = self._parts(inputs, direction)
        encoded = []
        for i, encoding in enumerate(self._encodings(_given(inputs, parts), is_located=False)):
            if encoding is None:
                located = self._locate_long(inputs[i], direction, place(i))
                encoded.append(Encoded(located.input_ids, located.token_type_ids, located.was_truncated))
                continue
            ids, types = ids_of(encoding.ids), ids_of(encoding.type_ids)
            was_truncated = len(ids) > self.max_length
            if was_truncated:
                kept = self._kept(encoding, inputs[i], direction, is_whole=i not in parts)
                ids, types = ids[kept], types[kept]
            go_on(len(ids))
            encoded.append(Encoded(ids, types, was_truncated))
        return encoded

    def _encodings(
        self, inputs: Sequence[TextInput], *, is_located: bool, special: bool = True
    ) -> Iterator[tokenizers.Encoding | None]:
        """Tokenize inputs as they are, some at a time; None for those that are too long to be tokenized at once."""
        encode = self._tokenizer.encode_batch if is_located else self._tokenizer.encode_batch_fast
        if special and len(inputs) == 1 and _characters(inputs[0]) <= LONG_TEXT:  # not as a batch
            [only] = inputs
            yield self._tokenizer.encode(only) if isinstance(only, str) else self._tokenizer.encode(*only)
            return
        first, characters = 0, 0
        for i, one in enumerate(inputs):
            size = _characters(one)
            if i > first and characters + size > pieces.PIECE:
                yield from encode(list(inputs[first:i]), add_special_tokens=special)
                go_on()
                first, characters = i, 0
            if size > pieces.LONG_PIECE:
                yield None
                first = i + 1
            else:
                characters += size
        if first < len(inputs):
            yield from encode(list(inputs[first:]), add_special_tokens=special)

    def encode_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        place: Callable[[int], str],
        *,
        truncation: bool = True,
        direction: Direction | None = None,
        strategy: Strategy = "longest_first",
    ) -> list[Encoded]:
        """Tokenize pairs of which many have a text in common, each cut to the model's maximum length.

        A text that is in several pairs is tokenized once. The ids are those that `encode` gives with `longest_first`.

        Args:
            pairs: The first and the second text of each.
            place: Returns what a caller calls the pair of a number.
            truncation: Whether a pair may be cut.
            direction: The end that is cut, None for the model's own.
            strategy: Which of the two texts is cut.

        Raises:
            ValidationFailed: a pair is too long and may not be cut, or nothing of the first text would be left.
        """
        direction = direction or self.direction
        texts, partial = self._bare({text: None for pair in pairs for text in pair}, direction)
        count = cache(self._count)
        template = self._templates[1]
        room = self.max_length - template.special
        encoded = []
        for i, pair in enumerate(pairs):
            tokens = [texts[text] for text in pair]
            lengths = [len(one) for one in tokens]
            was_truncated = sum(lengths) > room
            if was_truncated and not truncation:
                raise ValidationFailed(
                    f"{place(i)} has more than {self.max_length} tokens, the most this model takes. Shorten it."
                )
            if was_truncated and strategy == "only_first":
                if lengths[1] >= room:
                    raise ValidationFailed(
                        f"{place(i)} has more than {self.max_length} tokens, the most this model takes, and nothing would "
                        "be left of its first text, which alone is cut. Shorten the second."
                    )
                lengths[0] = room - lengths[1]
            elif was_truncated:
                if min(lengths) > room:  # parts do not tell which of the two is longer
                    lengths = [
                        count(text) if text in partial else size for text, size in zip(pair, lengths, strict=True)
                    ]
                lengths = longest_first(lengths, room)
            if was_truncated:
                tokens = [
                    one[:size] if direction == "right" else one[len(one) - size :]
                    for one, size in zip(tokens, lengths, strict=True)
                ]
            encoded.append(Encoded(*template.join(tokens), was_truncated))
            go_on(len(encoded[-1].input_ids))
        return encoded

    def _bare(self, texts: Iterable[str], direction: Direction) -> tuple[dict[str, list[int]], set[str]]:
        """Return the ids of each text without special tokens, and the texts of which these are a part.

        A part is longer than the model's maximum length, and right for so many tokens at the end that is kept.
        """
        bare: dict[str, list[int]] = {}
        rest = []
        for text in texts:
            ids = self._plain.ids(text) if self._plain and len(text) <= PLAIN_TEXT else None
            if ids is None:
                rest.append(text)
            else:
                bare[text] = ids
            go_on()
        parts = self._parts(rest, direction)
        encodings = self._encodings(_given(rest, parts), is_located=False, special=False)
        for text, encoding in zip(rest, encodings, strict=True):
            bare[text] = self._read(text, "A text").input_ids.tolist() if encoding is None else encoding.ids
        partial = {rest[i] for i, [part] in parts.items() if part.text != rest[i]}
        return bare, partial

    def encode_located(self, inputs: Sequence[TextInput], cut: Cut) -> list[Located]:
        """Tokenize inputs, each cut to the model's maximum length at one end, or not cut at all.

        Raises:
            ValidationFailed: an input is not to be cut, and longer than is read even so.
        """
        parts = {} if cut is None else self._parts(inputs, cut)
        located = []
        for i, encoding in enumerate(self._encodings(_given(inputs, parts), is_located=True)):
            one = inputs[i]
            if encoding is None:
                located.append(self._locate_long(one, cut, f"inputs[{i}]"))
            elif cut is None or len(encoding) <= self.max_length:
                located.append(locate(encoding, len(_texts(one))))
            else:
                located.append(self._locate_kept(encoding, one, cut, parts.get(i)))
            if cut is None and len(located[-1].input_ids) > pieces.MOST_TOKENS:
                raise pieces.too_many_tokens(f"inputs[{i}]")
            go_on(len(located[-1].input_ids))
        return located

    def _parts(self, inputs: Sequence[TextInput], direction: Direction) -> dict[int, tuple[Part, ...]]:
        """Return, for each long input, parts of its texts that hold every token that is kept."""
        if self._split_points is None:
            return {}
        size = CHARACTERS_A_TOKEN * self.max_length
        return {
            i: tuple(self._part(text, direction, size, self._split_points) for text in _texts(one))
            for i, one in enumerate(inputs)
            if _characters(one) >= 2 * size
        }

    def _part(self, text: str, direction: Direction, size: int, points: SplitPoints) -> Part:
        least = self.max_length + 1  # one more, to know that the text was cut
        for part in points.parts(text, direction, size):
            if len(part.text) > pieces.PIECE:
                break
            go_on()
            [encoding] = self._tokenizer.encode_batch([part.text], add_special_tokens=False)
            if len(encoding) < least:
                continue
            kept = range(least) if direction == "right" else range(len(encoding) - least, len(encoding))
            offsets = offsets_of(encoding, kept)
            if offsets[:, 0].min() >= part.exact.start and offsets[:, 1].max() <= part.exact.stop:
                return part
        return Part(text, 0, range(len(text)))

    def _kept(
        self, encoding: tokenizers.Encoding, one: TextInput, direction: Direction, *, is_whole: bool
    ) -> list[int]:
        """Return which tokens of an input that is too long are kept. `is_whole` is false if only its parts were tokenized."""
        texts = places(encoding.sequence_ids, len(_texts(one)))
        lengths = [len(text) for text in texts]
        room = self.max_length - len(encoding) + sum(lengths)
        if len(lengths) > 1 and min(lengths) > room and not is_whole:
            lengths = [self._count(text) for text in one]  # parts do not tell which of the two is longer
        kept: list[int] = []
        done = 0
        shares = longest_first(lengths, room)
        for text, share in sorted(zip(texts, shares, strict=True), key=lambda pair: pair[0].start):
            kept += range(done, text.start)
            kept += text[:share] if direction == "right" else text[len(text) - share :]
            done = text.stop
        return [*kept, *range(done, len(encoding))]

    def _count(self, text: str) -> int:
        if len(text) > pieces.LONG_PIECE:
            return len(self._read(text, "A text").input_ids)
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return len(encoding)

    def _locate_kept(
        self, encoding: tokenizers.Encoding, one: TextInput, direction: Direction, parts: Sequence[Part] | None
    ) -> Located:
        kept = self._kept(encoding, one, direction, is_whole=parts is None)
        located = locate(encoding, len(_texts(one)), kept)
        for i, text in enumerate(located.texts):
            self._spare_first_space(located, text, direction)
            located.offsets[text.start : text.stop] += 0 if parts is None else parts[i].begin
        return located

    @property
    def largest_id(self) -> int:
        """The largest id that a text may get."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def _spare_first_space(self, located: Located, text: range, direction: Direction) -> None:
        """Do as the library, which cuts before it computes offsets, and so takes what is left for the beginning of a text."""
        offsets = located.offsets[text.start : text.stop]
        if self._spares_first_space and direction == "left" and text and offsets[0, 0] > 0:
            token = self.token(int(located.input_ids[text.start]))
            word = token.replace(BYTE_LEVEL_SPACE, " ").lstrip()
            if len(token) - len(word) == 1:
                offsets[0, : 1 if word else 2] -= 1

    def _locate_long(self, one: TextInput, cut: Cut, place: str) -> Located:
        """Tokenize a long input in pieces."""
        most_tokens = pieces.MOST_TOKENS if cut is None else None
        texts = [self._read(text, place, most_tokens) for text in _texts(one)]
        template = self._templates[len(texts) - 1]
        lengths = [len(text.input_ids) for text in texts]
        room = self.max_length - template.special
        was_truncated = cut is not None and sum(lengths) > room
        if was_truncated:
            shares = longest_first(lengths, room)
            texts = [text.cut(share, cut == "left") for text, share in zip(texts, shares, strict=True)]
            lengths = shares
        ids, types = template.join([text.input_ids.tolist() for text in texts])
        located = Located(
            ids,
            types,
            np.zeros((len(ids), 2), np.int64),
            np.full(len(ids), -1, np.int64),
            template.places(lengths),
            was_truncated,
        )
        for tokens, text in zip(located.texts, texts, strict=True):
            located.offsets[tokens.start : tokens.stop] = text.offsets
            located.words[tokens.start : tokens.stop] = text.words
            if was_truncated:
                self._spare_first_space(located, tokens, cut or "right")
        return located

    def _read(self, text: str, place: str, most_tokens: int | None = None) -> pieces.Read:
        return pieces.read(self._tokenizer, self._split_points, text, place, most_tokens)

    def token(self, id_: int) -> str:
        """Return a token as the vocabulary has it, markers such as ## and all."""
        return cast("str", self._tokenizer.id_to_token(id_))

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens, as transformers' `convert_tokens_to_string` does."""
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def token_id(self, text: str) -> int | None:
        """Return the id of the one token that `text` is, or None if it is not one known token."""
        tokenizer = self._tokenizer
        exact = tokenizer.token_to_id(text)
        if exact is not None:
            return exact
        if len(text) > LONG_TEXT:
            return None
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids[0] if len(ids) == 1 and ids[0] != self._special.unknown.id else None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids, as transformers' `decode` does."""
        [text] = self.decode_all([list(ids)], skip_special_tokens=skip_special_tokens)
        return text

    def decode_all(self, sequences: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
        """Return the text of each list of token ids."""
        if sum(map(len, sequences)) > LONG_TEXT:  # without the GIL
            texts = self._tokenizer.decode_batch(sequences, skip_special_tokens=skip_special_tokens)
        else:
            texts = [self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) for ids in sequences]
        return [clean_up(text) for text in texts] if self._clean_up else texts


def _texts(one: TextInput) -> tuple[str, ...]:
    return (one,) if isinstance(one, str) else one


def _given(inputs: Sequence[TextInput], parts: Mapping[int, Sequence[Part]]) -> list[TextInput]:
    given = list(inputs)
    for i, some in parts.items():
        given[i] = some[0].text if len(some) == 1 else (some[0].text, some[1].text)
    return given


def _spares_first_space(processor: Mapping[str, Any] | None) -> bool:
    """Return whether offsets leave out the space before a word, but not before the first word of what is kept."""
    if processor is None:
        return False
    if processor["type"] == "Sequence":
        return any(map(_spares_first_space, processor["processors"]))
    return bool(processor.get("trim_offsets") and processor.get("add_prefix_space"))


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
