"""Long texts are tokenized in pieces, with the tokens, places and words of the whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.bundle.files import Bundle, load_bundle
from app.errors import ValidationFailed
from app.text.located import AT_ONCE
from app.text.pieces import PIECE
from app.text.tokenizer import Direction, TextInput, Tokenizer
from app.work import Dropped, Work
from tests.app import library
from tests.conftest import BundleOf

MODELS = ["bert-entities", "roberta-entities", "xlm-roberta-entities", "camembert-regression"]
PARTS = st.sampled_from(
    [
        *("the", "cat", "unaffable", "don't", "3.14", "naïve", "天気", "ไทย", "x" * 50, "e\u0301", "\u0301", "\u200b"),
        *("[MASK]", " <mask>", "</s>", "[", "<", "...", "/", "  ", "\n", "\u00a0", "<\u0338", "ﬁ", "\x01"),
    ]
)
TEXTS = st.builds(
    lambda parts, separator, repeat: separator.join(parts * repeat),
    st.lists(st.one_of(PARTS, st.text(max_size=5)), min_size=1, max_size=20),
    st.sampled_from(["", " ", "\n"]),
    st.integers(10, 40),
)
SMALL = 30


class Both:
    """The library and ours."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.ours = Tokenizer(bundle)
        self.whole = library.whole(bundle)


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest, bundle_of: BundleOf) -> Both:
    return Both(load_bundle(bundle_of(request.param)))


@contextmanager
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.text.pieces.PIECE", SMALL)
        patch.setattr("app.text.pieces.LONG_PIECE", 2 * SMALL)
        patch.setattr("app.text.located.AT_ONCE", SMALL)
        yield


@given(text=TEXTS)
@example(text="[MASK]" * 100)
@example(text="a <mask> b" * 60)
@example(text="the   cat  " * 60)
@example(text="the cat" + " " * 300)
@example(text=" " * 300 + "the cat" + "x" * 300)
@settings(max_examples=150)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(both: Both, text: str) -> None:
    expected = both.whole.encode(text)
    with small_pieces():
        [located] = both.ours.encode_located([text], cut=None)
    assert (located.input_ids.tolist(), located.token_type_ids.tolist()) == (expected.ids, expected.type_ids)
    assert [tuple(pair) for pair in located.offsets.tolist()] == expected.offsets
    [tokens] = located.texts
    assert expected.sequence_ids[tokens.start : tokens.stop] == [0] * len(tokens)
    words, theirs = located.words[tokens.start : tokens.stop], np.array(expected.word_ids[tokens.start : tokens.stop])
    assert (np.diff(words) > 0).tolist() == (np.diff(theirs) > 0).tolist()
    assert (located.words == -1).sum() == len(located.words) - len(tokens)


@given(texts=st.tuples(TEXTS, TEXTS), direction=st.sampled_from(get_args(Direction)))
@example(texts=("the" * 60, " " * 70), direction="left")
@example(texts=("the cat " * 60, ""), direction="right")
@settings(max_examples=50)
def test_long_texts_and_pairs_are_cut_alike_in_pieces(both: Both, texts: tuple[str, str], direction: Direction) -> None:
    inputs: list[TextInput] = [texts[0], texts, (texts[1], "the cat")]
    whole = both.ours.encode(inputs, direction=direction), both.ours.encode_located(inputs, direction)
    bare = both.ours.encode_pairs([texts], str, direction=direction)
    with small_pieces():
        pieces = both.ours.encode(inputs, direction=direction), both.ours.encode_located(inputs, direction)
        bare_pieces = both.ours.encode_pairs([texts], str, direction=direction)
    ours: list[Any] = [*pieces[0], *pieces[1], *bare_pieces]
    theirs: list[Any] = [*whole[0], *whole[1], *bare]
    for one, other in zip(theirs, ours, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert one.token_type_ids.tolist() == other.token_type_ids.tolist()
        assert one.was_truncated == other.was_truncated
    for located, in_pieces in zip(whole[1], pieces[1], strict=True):
        assert located.texts == in_pieces.texts
        assert located.offsets.tolist() == in_pieces.offsets.tolist()


@pytest.mark.parametrize("name", ["bert-entities", "roberta-entities"])
@pytest.mark.parametrize("run", ["x" * 17 * PIECE, "😀" * 5 * PIECE])
def test_a_run_without_a_space_has_a_limit(bundle_of: BundleOf, name: str, run: str) -> None:
    tokenizer = Tokenizer(load_bundle(bundle_of(name)))
    with pytest.raises(ValidationFailed, match=r"inputs\[1\]: 1048576 bytes of it hold no place between two words"):
        tokenizer.encode(["good", run])
    [cut] = tokenizer.encode(["good " * 100 + run])
    assert cut.was_truncated


def test_what_is_too_much_or_dropped_is_not_tokenized_to_its_end(bundle_of: BundleOf) -> None:
    tokenizer = Tokenizer(load_bundle(bundle_of("bert-entities")))
    given: list[int] = []
    library = tokenizer._tokenizer

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(library, name)

        def encode_batch(self, inputs: list[str], **options: bool) -> object:
            given.append(sum(map(len, inputs)))
            if len(given) == 3:
                dropped.drop()
            return library.encode_batch(inputs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_tokenizer", Counting())
        texts = ["naïve cats " * 5000] * 40
        dropped = Work(60)
        with pytest.raises(Dropped):
            dropped.run(lambda: tokenizer.encode_located(texts, cut=None))
        assert len(given) == 3
        with pytest.raises(ValidationFailed, match=r"more than 20000 tokens.*BERT_REQUEST_TIMEOUT_S.*fewer or shorter"):
            Work(60, 20_000).run(lambda: tokenizer.encode_located(texts, cut=None))
        assert sum(given[3:]) <= 2 * PIECE


class Uninterrupted:
    """An encoding of which no list of the places of all tokens may be made, as that holds up every other thread."""

    def __init__(self, encoding: tokenizers.Encoding) -> None:
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def __getattr__(self, name: str) -> Any:
        assert name != "offsets" or len(self) <= AT_ONCE
        return getattr(self._encoding, name)


@pytest.mark.parametrize("size", [PIECE, 3 * PIECE])
def test_the_places_of_many_tokens_are_not_read_at_once(bundle_of: BundleOf, size: int) -> None:
    tokenizer = Tokenizer(load_bundle(bundle_of("roberta-entities")))
    library = tokenizer._tokenizer

    class Library:
        def __getattr__(self, name: str) -> Any:
            return getattr(library, name)

        def encode_batch(self, inputs: list[str], **options: bool) -> list[Uninterrupted]:
            return [Uninterrupted(one) for one in library.encode_batch(inputs, **options)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_tokenizer", Library())
        [located] = tokenizer.encode_located(["x" * size], cut=None)
        [cut] = tokenizer.encode_located(["x" * size], cut="right")
    assert located.offsets[1:-1].tolist() == [[i, i + 1] for i in range(size)]
    assert cut.was_truncated
