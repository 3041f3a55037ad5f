"""Plain texts get the ids that the `tokenizers` library gives them, whatever they are made of."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.bundle.files import load_bundle
from app.text.plain_text import PlainTokenizer, reads_plain_text
from app.text.tokenizer import PLAIN_TEXT, Direction, TextInput, Tokenizer
from tests.app import library
from tests.conftest import BundleOf
from tests.support import ROOT

DEMO = ROOT / "model_export" / "demo_checkpoint" / "tokenizer.json"
PIECES = st.sampled_from(
    ["the", "The", "unaffable", "don't", "U.S.A.", "x" * 100, "x" * 101, "_", "__init__", "3.14", "\t", "\n", "\r\n", "  "]
)  # fmt: skip
ASCII = st.lists(st.one_of(PIECES, st.text(st.characters(max_codepoint=127), max_size=12)), max_size=12)
ANY = st.lists(
    st.one_of(PIECES, st.text(max_size=8), st.sampled_from(["[MASK]", "[mask]", "[", "é", "你"])), max_size=8
)


def words_of(path: Path, **changes: Any) -> tuple[PlainTokenizer, tokenizers.Tokenizer]:
    definition = json.loads(path.read_text()) | changes
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
    assert reads_plain_text(definition)
    return PlainTokenizer(definition, lambda word: [token.id for token in tokenizer.model.tokenize(word)]), tokenizer


@pytest.mark.parametrize("is_lower", [True, False])
@given(pieces=ASCII, separator=st.sampled_from(["", " "]))
@example(pieces=["a\x0bb", "a\x7fb", "a\x00b", "\x1f"], separator=" ")
@example(pieces=[""], separator="")
@example(pieces=["[MASK]", "[SEP]"], separator="")
@settings(max_examples=300, deadline=None)
def test_ids_are_those_of_the_library(is_lower: bool, pieces: list[str], separator: str) -> None:
    words, tokenizer = DEMOS[is_lower]
    text = separator.join(pieces)
    ids = words.ids(text)
    if ids is not None:
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids
    else:
        assert "[" in text or any(ord(character) < 32 or ord(character) == 127 for character in text)


DEMOS = {
    is_lower: words_of(
        DEMO,
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": is_lower,
        },
    )
    for is_lower in (True, False)
}


@pytest.mark.parametrize(
    "name", ["bert-single-label", "bert-fill-mask-chinese-untied", "distilbert-two-labels", "electra-single-label"]
)
@given(pieces=ANY, direction=st.sampled_from(["right", "left"]), repeat=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_text_is_tokenized_and_cut_as_the_library_does(
    bundle_of: BundleOf, name: str, pieces: list[str], direction: Any, repeat: int
) -> None:
    if name not in TOKENIZERS:
        bundle = load_bundle(bundle_of(name))
        theirs = {end: library.cutting(bundle, end) for end in get_args(Direction)}
        TOKENIZERS[name] = Tokenizer(bundle), theirs
    tokenizer, theirs = TOKENIZERS[name]
    assert tokenizer._plain is not None
    text = " ".join(pieces * repeat)
    [ours], expected = tokenizer.encode([text], direction=direction), theirs[direction].encode(text)
    assert ours.input_ids.tolist() == expected.ids
    assert ours.token_type_ids.tolist() == expected.type_ids
    assert ours.was_truncated == bool(expected.overflowing)
    assert ours.input_ids.dtype == ours.token_type_ids.dtype == np.int32


TOKENIZERS: dict[str, tuple[Tokenizer, dict[Direction, tokenizers.Tokenizer]]] = {}


def test_plain_and_other_texts_keep_their_order(bundle_of: BundleOf) -> None:
    tokenizer = Tokenizer(load_bundle(bundle_of("bert-single-label")))
    texts: list[TextInput] = ["a plain one", "une idée", "word " * PLAIN_TEXT, "[MASK]", "and plain", "你好"]
    together = tokenizer.encode([*texts, ("a pair", "of two"), texts[0]])
    alone = [tokenizer.encode([text])[0] for text in [*texts, ("a pair", "of two"), texts[0]]]
    assert [one.input_ids.tolist() for one in together] == [one.input_ids.tolist() for one in alone]


def test_shared_types_cannot_be_written_to(bundle_of: BundleOf) -> None:
    [one] = Tokenizer(load_bundle(bundle_of("bert-single-label"))).encode(["plain"])
    with pytest.raises(ValueError, match="read-only"):
        one.token_type_ids[0] = 1


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "BPE"}},
        {"added_tokens": [{"content": "covid"}]},
    ],
)
def test_other_texts_are_left_to_the_rust_tokenizer(changes: dict[str, Any]) -> None:
    assert not reads_plain_text(json.loads(DEMO.read_text()) | changes)


def test_a_byte_level_tokenizer_has_no_plain_tokenizer(bundle_of: BundleOf) -> None:
    assert Tokenizer(load_bundle(bundle_of("roberta-fill-mask")))._plain is None
