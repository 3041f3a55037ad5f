"""The words of a text, and which tokens are theirs."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.text.tokenizer import Tokenizer
from app.text.words import words_of
from tests.conftest import BundleOf


def words(text: str, tokens: Sequence[tuple[int, int]]) -> list[tuple[str, list[int]]]:
    """The words if the tokens are of these characters."""
    found = words_of(text, range(5, 5 + len(tokens)), np.array(tokens, np.int64).reshape(-1, 2))
    return [(text[one.start : one.end], one.tokens) for one in found]


def split(text: str) -> list[str]:
    """The words if each character is a token, as none keeps two words together then."""
    return [word for word, _ in words(text, [(i, i + 1) for i in range(len(text))])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't like it.", ["I", "don't", "like", "it", "."]),
        ("it\u2019s well-known", ["it\u2019s", "well-known"]),
        ("'quoted' - and rock 'n' roll", ["'", "quoted", "'", "-", "and", "rock", "'", "n", "'", "roll"]),
        ("3.5 or 1,000 at 10:30.", ["3.5", "or", "1,000", "at", "10:30", "."]),
        ("good,bad", ["good", ",", "bad"]),
        ("wow!!! no...", ["wow", "!!!", "no", "..."]),
        ("snake_case", ["snake_case"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("👩‍🚀👍🏽 ❤️", ["👩‍🚀", "👍🏽", "❤️"]),
        ("猫です", ["猫", "で", "す"]),
        ("a猫b", ["a", "猫", "b"]),
        ("  spaces \t\n between ", ["spaces", "between"]),
        ("", []),
    ],
)
def test_words_are_what_people_read(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_pieces_of_a_word_are_its_tokens() -> None:
    assert words("the unaffable", [(0, 3), (4, 6), (6, 8), (8, 13)]) == [("the", [5]), ("unaffable", [6, 7, 8])]


def test_words_that_share_a_token_are_one() -> None:
    assert words("go on. Stop", [(0, 2), (3, 6), (7, 11)]) == [("go", [5]), ("on.", [6]), ("Stop", [7])]
    assert words("a [MASK] b", [(0, 1), (2, 8), (9, 10)]) == [("a", [5]), ("[MASK]", [6]), ("b", [7])]


def test_several_tokens_of_one_sign_are_one_word() -> None:
    assert words("🙂 ok", [(0, 1), (0, 1), (0, 1), (2, 4)]) == [("🙂", [5, 6, 7]), ("ok", [8])]


def test_a_token_of_no_character_goes_with_the_word_before() -> None:
    assert words("a b", [(0, 1), (1, 1), (1, 2), (2, 3)]) == [("a", [5, 6, 7]), ("b", [8])]


def test_a_space_in_a_token_is_no_part_of_its_word() -> None:
    assert words("so good", [(0, 2), (2, 7)]) == [("so", [5]), ("good", [6])]


def test_in_a_script_without_spaces_each_token_is_a_word() -> None:
    assert words("吾輩は猫である", [(0, 2), (2, 3), (3, 4), (4, 7)]) == [
        ("吾輩", [5]),
        ("は", [6]),
        ("猫", [7]),
        ("である", [8]),
    ]


@pytest.mark.parametrize("checkpoint", ["bert-single-label", "roberta-entities", "xlm-roberta-multi-label"])
def test_the_words_of_each_tokenizer_cover_the_text(bundle_of: BundleOf, checkpoint: str) -> None:
    tokenizer = Tokenizer(load_bundle(bundle_of(checkpoint)))
    text = "The cat's in Paris, 12.50 😀 猫"
    [located] = tokenizer.encode_located([text], cut="right")
    [tokens] = located.texts
    found = words_of(text, tokens, located.offsets[tokens.start : tokens.stop])
    assert [position for word in found for position in word.tokens] == list(tokens)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert "".join(text[one.start : one.end] for one in found) == text.replace(" ", "")
    assert [text[one.start : one.end] for one in found][:3] == ["The", "cat's", "in"]
