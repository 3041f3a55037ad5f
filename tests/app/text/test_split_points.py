"""What may follow a part of a text changes none of the tokens that are said to be sure."""

import json
from typing import Any, get_args

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.bundle.files import load_bundle
from app.text.split_points import SplitPoints, split_points_of
from app.text.tokenizer import Direction
from tests.app import library
from tests.conftest import BundleOf

MODELS = ["bert-single-label", "bert-entities", "roberta-entities", "xlm-roberta-entities", "camembert-regression"]
PIECES = st.sampled_from(
    [
        *("the", "cat", "unaffable", "x" * 120, "don't", "''s", "U.S.A.", "3.14"),
        *("naïve", "天気", "。", "\uff0c", "ไทย", "한국어"),
        *(" ", "  ", "\n", "\t", " \n  ", "\r\n", "\u00a0", "\u3000", "\u2028", "\u200b", "\x01", "\x1c", "▁", "Ġ"),
        *("[MASK]", "<mask>", "[SEP]", "</s>", "[", "]", "<", ">", "...", "!?", "/", "+"),
        # Marks that join what is before them, even a space, and letters that join what is after them.
        *("\u0301", "e\u0301", "<\u0338", "\u0d4e", "\u0600", "\U0001f468\u200d\U0001f469", "ᄀ", "ﬁ", "½"),
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=5)), min_size=1, max_size=30)
SIZE = 30
Token = tuple[int, int, int]


class Kind:
    """A tokenizer, and the points of its texts, which are closer to each other than in service: more can go wrong."""

    def __init__(self, bundle_of: BundleOf, name: str) -> None:
        bundle = load_bundle(bundle_of(name))
        self.tokenizer = library.whole(bundle)
        points = split_points_of(json.loads((bundle.folder / bundle.manifest.tokenizer.file).read_text()))
        assert points is not None
        self.points = SplitPoints(points._pattern.pattern, points._longest, between=1)

    def tokens(self, text: str) -> list[Token]:
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return [(id_, *offsets) for id_, offsets in zip(encoding.ids, encoding.offsets, strict=True)]


@pytest.fixture(scope="module", params=MODELS)
def kind(request: pytest.FixtureRequest, bundle_of: BundleOf) -> Kind:
    return Kind(bundle_of, request.param)


@given(pieces=TEXTS, separator=st.sampled_from(["", " ", "\n"]), repeat=st.integers(1, 12))
@example(pieces=["x"], separator=" ", repeat=12)
@example(pieces=["[MASK]"], separator="", repeat=12)
@example(pieces=["a", " ", "<mask>"], separator="  ", repeat=12)
@example(pieces=["x" * 9, "/"], separator="", repeat=12)
@example(pieces=["\u0600", " \u0301", "a\u0d4e"], separator=" ", repeat=12)
@settings(max_examples=150)
def test_exact_tokens_are_those_of_the_whole_text(kind: Kind, pieces: list[str], separator: str, repeat: int) -> None:
    text = separator.join(pieces * repeat)
    whole = kind.tokens(text)
    for part in kind.points.parts(text, "right", SIZE):
        assert text.startswith(part.text)
        mine = kind.tokens(part.text)
        sure = next((i for i, (_, _, end) in enumerate(mine) if end > part.exact.stop), len(mine))
        assert mine[:sure] == whole[:sure]
    for part in kind.points.parts(text, "left", SIZE):
        assert text[part.begin :] == part.text
        mine = kind.tokens(part.text)[::-1]
        sure = next((i for i, (_, begin, _) in enumerate(mine) if begin < part.exact.start), len(mine))
        moved = [(id_, part.begin + begin, part.begin + end) for id_, begin, end in mine[:sure]]
        assert moved == whole[::-1][:sure]


@pytest.mark.parametrize("direction", get_args(Direction))
def test_parts_grow_up_to_half_of_the_text(direction: Direction) -> None:
    text = "word " * 1000
    parts = list(SplitPoints(" ", between=10).parts(text, direction, 100))
    assert [round(len(part.text), -2) for part in parts] == [100, 400, 1600]
    assert [len(part.exact) > 0.8 * len(part.text) for part in parts] == [True] * 3
    assert not list(SplitPoints(" ", between=10).parts("word " * 39, direction, 100))


@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize("text", ["x" * 5000, "x" * 2500 + " " * 2500, " " * 5000])
def test_one_word_or_none_has_no_part(direction: Direction, text: str) -> None:
    """A run of spaces neither: an added token may take all of those before it."""
    assert not [part for part in SplitPoints(" ", between=10).parts(text, direction, 100) if len(part.text) < 1000]


def definition(**changes: Any) -> dict[str, Any]:
    plain = {
        "added_tokens": [{"content": "<s>", "normalized": False}],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "Unigram"},
    }
    return plain | changes


RUNS = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": True}


def in_turn(members: str, *components: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", members: [*components]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_tokenizer": METASPACE, "normalizer": in_turn("normalizers", {"type": "Nmt"}, RUNS)},
        {"pre_tokenizer": in_turn("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE), "normalizer": RUNS},
        {"normalizer": RUNS | {"content": " "}},
        {"added_tokens": [{"content": "covid", "normalized": True}, {"content": "a b", "normalized": False}]},
    ],
)
def test_tokenizers_that_split_at_spaces_have_split_points(changes: dict[str, Any]) -> None:
    assert split_points_of(definition(**changes)) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Split", "pattern": {"String": "x"}}},
        {"pre_tokenizer": in_turn("pretokenizers", {"type": "WhitespaceSplit"}, {"type": "Split"})},
        {"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}},
        {"pre_tokenizer": METASPACE | {"split": False}},
        {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "_"}},
        {"normalizer": RUNS},
        {"normalizer": RUNS | {"content": ""}, "pre_tokenizer": METASPACE},
        {"normalizer": in_turn("normalizers", {"type": "Nmt"}, {"type": "New"})},
        {"model": {"type": "New"}},
        {"model": {"type": "BPE", "dropout": 0.1}},
        {"added_tokens": [{"content": "a b", "normalized": True}]},
        {"added_tokens": [{"content": "<a>", "normalized": False}, {"content": ">>", "normalized": False}]},
        {"added_tokens": [{"content": "--", "normalized": False}]},
    ],
)
def test_other_tokenizers_have_no_split_points(changes: dict[str, Any]) -> None:
    assert split_points_of(definition(**changes)) is None


def test_the_longest_added_token_is_known() -> None:
    """One that holds spaces is not taken apart: what is kept ends further from the split than it is long."""
    token = "<" + "a long name " * 10 + ">"
    added = [{"content": token, "normalized": False}]
    points = split_points_of(definition(added_tokens=added))
    assert points is not None
    assert points._longest == len(token)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0, "[UNK]": 1}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([token])
    for before in range(0, 200, 7):
        text = "x " * before + token + " x" * 500
        whole = tokenizer.encode(text)
        for part in points.parts(text, "right", 100):
            mine = tokenizer.encode(part.text)
            sure = sum(end <= part.exact.stop for _, end in mine.offsets)
            assert mine.ids[:sure] == whole.ids[:sure]
