"""Texts that are too long are cut as the `tokenizers` library cuts them, though most of a long one is not even read."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.bundle.files import Bundle, describe_file, load_bundle
from app.errors import ValidationFailed
from app.text.pairs import Strategy, longest_first
from app.text.tokenizer import Direction, TextInput, Tokenizer
from tests.app import library
from tests.conftest import BundleOf
from tests.support import change_manifest

SPARES_SPACE = "roberta-entities with a space before the first word"
MODELS = ["bert-entities", "roberta-entities", SPARES_SPACE, "xlm-roberta-entities"]
PIECES = st.sampled_from(
    [
        *("the", "cat", "unaffable", "don't", "3.14", "naïve", "天気", "ไทย", "x" * 50, "e\u0301", "\u0301", "\u200b"),
        *("[MASK]", " <mask>", "</s>", "[", "<", "...", "/", "  ", "\n", "\u00a0"),
    ]
)
TEXTS = st.builds(
    lambda pieces, separator, times: separator.join(pieces * times)[:3000] or "a",
    st.lists(PIECES, min_size=1, max_size=10),
    st.sampled_from(["", " ", " ", "\n"]),
    st.sampled_from([1, 3, 10, 40, 200]),
)
DIRECTIONS = st.sampled_from(get_args(Direction))


class Both:
    """Our tokenizer and the library's, for the same bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.ours = Tokenizer(bundle)
        self.theirs = {direction: library.cutting(bundle, direction) for direction in get_args(Direction)}
        self.only_first = {
            direction: library.cutting(bundle, direction, strategy="only_first") for direction in get_args(Direction)
        }

    def cut(self, one: TextInput, direction: Direction) -> tokenizers.Encoding:
        """Return what the library makes of an input, once ours was held to it."""
        tokenizer = self.theirs[direction]
        expected = tokenizer.encode(one) if isinstance(one, str) else tokenizer.encode(*one)
        [got] = self.ours.encode([one], direction=direction)
        assert (got.input_ids.tolist(), got.token_type_ids.tolist()) == (expected.ids, expected.type_ids)
        assert got.was_truncated == bool(expected.overflowing)
        return expected


def with_space_before(bundle: Bundle, folder: Path) -> Bundle:
    """Return a bundle whose first word is as any other: the library then leaves its space within its offsets."""
    shutil.copytree(bundle.folder, folder)
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["pre_tokenizer"]["add_prefix_space"] = definition["post_processor"]["add_prefix_space"] = True
    path.write_text(json.dumps(definition))
    change_manifest(folder, tokenizer=describe_file(path).model_dump())
    return load_bundle(folder)


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest, bundle_of: BundleOf, tmp_path_factory: pytest.TempPathFactory) -> Both:
    bundle = load_bundle(bundle_of(request.param.partition(" ")[0]))
    if request.param == SPARES_SPACE:
        bundle = with_space_before(bundle, tmp_path_factory.mktemp("other") / "bundle")
    return Both(bundle)


@given(text=TEXTS, direction=DIRECTIONS)
@example(text="the  cat\n" * 200, direction="left")
@example(text="a <mask>" * 200, direction="left")
@example(text="x" * 3000, direction="right")
@settings(max_examples=150)
def test_a_text_is_cut_as_the_library_does(both: Both, text: str, direction: Direction) -> None:
    expected = both.cut(text, direction)
    [located] = both.ours.encode_located([text], direction)
    assert (located.input_ids.tolist(), located.token_type_ids.tolist()) == (expected.ids, expected.type_ids)
    assert [tuple(pair) for pair in located.offsets.tolist()] == expected.offsets
    assert located.was_truncated == bool(expected.overflowing)
    [tokens] = located.texts
    assert len(tokens) == expected.sequence_ids.count(0)
    assert expected.sequence_ids[tokens.start : tokens.stop] == [0] * len(tokens)
    # Words are numbered from where reading began: at the left end, or in a text that is cut there, anywhere.
    words, theirs = located.words[tokens.start : tokens.stop], np.array(expected.word_ids[tokens.start : tokens.stop])
    begun = theirs[0] - words[0] if direction == "left" and len(tokens) else 0
    assert (words + begun).tolist() == theirs.tolist()
    assert (located.words == -1).sum() == len(located.words) - len(tokens)


@given(texts=st.tuples(TEXTS, TEXTS), direction=DIRECTIONS)
@settings(max_examples=60)
def test_a_pair_is_cut_as_the_library_does(both: Both, texts: tuple[str, str], direction: Direction) -> None:
    first, second = texts
    both.cut((first[:900], second[:900]), direction)  # of longer ones the library makes thousands of pieces


@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize(
    "words", [(600, 601), (601, 600), (600, 600), (600, 599), (5, 600), (600, 5), (38, 700), (30, 8)]
)
def test_the_longer_text_of_a_pair_has_the_odd_token(both: Both, words: tuple[int, int], direction: Direction) -> None:
    """Which one it is, the parts that are read of two long texts do not tell."""
    for word, other in (("the ", "cat "), ("天気 ", "a "), ("a", "b ")):
        both.cut((word * words[0], other * words[1]), direction)


@pytest.mark.parametrize(
    ("lengths", "room", "shares"),
    [
        ([3], 7, [3]), ([9], 7, [7]), ([0, 9], 7, [0, 7]), ([9, 0], 7, [7, 0]), ([2, 5], 7, [2, 5]), ([5, 9], 7, [3, 4]),
        ([9, 5], 7, [4, 3]), ([9, 9], 7, [3, 4]), ([3, 9], 7, [3, 4]), ([9, 3], 7, [4, 3]), ([4, 9], 8, [4, 4]),
    ],
)  # fmt: skip
def test_the_longest_is_cut_first(lengths: list[int], room: int, shares: list[int]) -> None:
    assert longest_first(lengths, room) == shares


@given(texts=st.lists(TEXTS, min_size=3, max_size=3), direction=DIRECTIONS)
@settings(max_examples=60)
def test_pairs_with_a_text_in_common_are_cut_as_the_library_does(
    both: Both, texts: list[str], direction: Direction
) -> None:
    first, *others = (text[:900] for text in texts)
    pairs = [(first, other) for other in (*others, "", "a cat")]
    got = both.ours.encode_pairs(pairs, str, direction=direction)
    for one, pair in zip(got, pairs, strict=True):
        expected = both.theirs[direction].encode(*pair)
        assert (one.input_ids.tolist(), one.token_type_ids.tolist()) == (expected.ids, expected.type_ids)
        assert one.was_truncated == bool(expected.overflowing)


@given(first=TEXTS, second=st.sampled_from(["cat", "the naïve cat, and don't", "天気 <mask>"]), direction=DIRECTIONS)
@example(first=" ", second="cat", direction="right")
@settings(max_examples=60)
def test_the_first_text_alone_is_cut_as_the_library_does(
    both: Both, first: str, second: str, direction: Direction
) -> None:
    [got] = both.ours.encode_pairs([(first, second)], str, direction=direction, strategy="only_first")
    expected = both.only_first[direction].encode(first, second)
    assert (got.input_ids.tolist(), got.token_type_ids.tolist()) == (expected.ids, expected.type_ids)
    assert got.was_truncated == bool(expected.overflowing)


def test_a_second_text_that_leaves_nothing_of_the_first_is_refused_as_by_the_library(both: Both) -> None:
    refused = []
    for words in range(1, 45):
        pairs = [("cat", "cat"), ("the cat", "cat " * words)]
        try:
            expected = both.only_first["right"].encode(*pairs[1])
        except Exception as error:  # the library has no other
            assert "too short" in str(error)  # noqa: PT017
            refused.append(words)
            with pytest.raises(ValidationFailed, match=r"^pair 1 has more than 40 tokens.* Shorten the second"):
                both.ours.encode_pairs(pairs, "pair {}".format, strategy="only_first")
        else:
            got = both.ours.encode_pairs(pairs, str, strategy="only_first")[1]
            assert got.input_ids.tolist() == expected.ids
    assert refused == list(range(refused[0], 45))


def test_a_long_pair_without_truncation_is_refused(both: Both) -> None:
    for strategy in get_args(Strategy):
        with pytest.raises(ValidationFailed, match=r"^pair 1 has more than 40 tokens"):
            both.ours.encode_pairs(
                [("a", "b"), ("cat " * 50, "b")], "pair {}".format, truncation=False, strategy=strategy
            )


class Recording:
    """A tokenizer that keeps what it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.given: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode_batch(self, inputs: list[Any], **options: Any) -> Any:
        self.given += inputs
        return self.tokenizer.encode_batch(inputs, **options)

    def encode_batch_fast(self, inputs: list[Any], **options: Any) -> Any:
        self.given += inputs
        return self.tokenizer.encode_batch_fast(inputs, **options)


@pytest.mark.parametrize("direction", get_args(Direction))
def test_most_of_a_long_text_is_not_tokenized(
    both: Both, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    tokenizer, text = both.ours, "Was the cat on the mat? " * 20_000
    recording = Recording(tokenizer._tokenizer)
    monkeypatch.setattr(tokenizer, "_tokenizer", recording)
    [located] = tokenizer.encode_located([text], direction)
    [encoded] = tokenizer.encode([text], direction=direction)
    assert located.input_ids.tolist() == encoded.input_ids.tolist()
    assert located.was_truncated
    assert len(encoded.input_ids) == tokenizer.max_length
    assert sum(map(len, recording.given)) < 100 * tokenizer.max_length
    # Only the share of the longer of two long texts asks for all of them, without their pieces.
    recording.given.clear()
    tokenizer.encode([(text, "short")], direction=direction)
    assert sum(len(one) + len(other) for one, other in recording.given[1:]) < 100 * tokenizer.max_length


@pytest.mark.parametrize("direction", get_args(Direction))
def test_a_text_of_many_pairs_is_tokenized_once(
    both: Both, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    tokenizer, text = both.ours, "Wäs the cat on the mat? " * 2_000
    pairs = [(text, f"é {i}") for i in range(8)] + [(text, "naïve " + text)] * 8
    expected = [encoded.input_ids.tolist() for encoded in tokenizer.encode(pairs, direction=direction)]
    recording = Recording(tokenizer._tokenizer)
    monkeypatch.setattr(tokenizer, "_tokenizer", recording)
    got = tokenizer.encode_pairs(pairs, str, direction=direction)
    assert [encoded.input_ids.tolist() for encoded in got] == expected
    # Two texts, and a second time to know which of them is longer.
    assert sum(map(len, recording.given)) < 3 * 2 * len(text)


@pytest.mark.parametrize("direction", get_args(Direction))
def test_a_text_without_split_points_is_read_whole(
    both: Both, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    text = "thé cat, " * 300
    monkeypatch.setattr(both.ours, "_split_points", None)
    recording = Recording(both.ours._tokenizer)
    monkeypatch.setattr(both.ours, "_tokenizer", recording)
    both.cut(text, direction)
    both.cut((text, text), direction)
    assert recording.given == [text, (text, text)]
    [located] = both.ours.encode_located([text], direction)
    assert [tuple(pair) for pair in located.offsets.tolist()] == both.theirs[direction].encode(text).offsets


def test_texts_of_all_lengths_keep_their_order(both: Both) -> None:
    inputs: list[TextInput] = [
        "cat",
        "the cat " * 500,
        ("the", "cat " * 900),
        "é",
        "天気" * 400,
        ("a", "b"),
        "cat " * 30,
    ]
    together = [one.input_ids.tolist() for one in both.ours.encode(inputs)]
    assert together == [both.cut(one, "right").ids for one in inputs]
    for direction in get_args(Direction):
        located = both.ours.encode_located(inputs, direction)
        assert [one.was_truncated for one in located] == [len(one.input_ids) == 40 for one in located]
        for one, other in zip(located, inputs, strict=True):
            encoding = both.cut(other, direction)
            assert [tuple(pair) for pair in one.offsets.tolist()] == encoding.offsets


def test_a_pair_without_room_for_its_special_tokens_is_refused(bundle_of: BundleOf) -> None:
    """RoBERTa puts four around a pair, and a model may have been exported for three tokens."""
    bundle = load_bundle(bundle_of("roberta-single-label"))
    bundle.manifest = bundle.manifest.model_copy(update={"max_length": 3})
    tokenizer = Tokenizer(bundle)
    assert len(tokenizer.encode(["one of many"])[0].input_ids) == 3
    with pytest.raises(ValidationFailed, match="Send single texts"):
        tokenizer.encode([("a", "b")])
    with pytest.raises(ValidationFailed, match="Send single texts"):
        tokenizer.encode_pairs([("a", "b")], str)
