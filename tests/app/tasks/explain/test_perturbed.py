"""Sequences without some of their words."""

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.tasks.explain.perturbed import LocatedWord, Perturbed, located_words
from app.tasks.explain.subjects import FirstSubject
from app.text.located import Located
from app.text.tokenizer import Tokenizer
from tests.conftest import BundleOf

SUBJECT = FirstSubject("none", None)


@pytest.fixture(scope="module")
def tokenizer(bundle_of: BundleOf) -> Tokenizer:
    return Tokenizer(load_bundle(bundle_of("bert-fill-mask")))


def located(tokenizer: Tokenizer, *texts: str) -> tuple[Located, list[LocatedWord]]:
    [found] = tokenizer.encode_located([texts[0] if len(texts) == 1 else (texts[0], texts[1])], cut="right")
    return found, located_words(texts, found, fixed=None)


def rows(words: int, *present: list[int]) -> np.ndarray:
    return np.array([[word in some for word in range(words)] for some in present], np.bool_)


def test_words_of_a_pair_say_which_text_they_are_in(tokenizer: Tokenizer) -> None:
    _, words = located(tokenizer, "The cat", "sat down.")
    assert [(one.field, one.word, one.start, one.end) for one in words] == [
        ("text", "The", 0, 3),
        ("text", "cat", 4, 7),
        ("text_pair", "sat", 0, 3),
        ("text_pair", "down", 4, 8),
        ("text_pair", ".", 8, 9),
    ]


def test_every_token_of_a_masked_word_becomes_the_mask(tokenizer: Tokenizer) -> None:
    found, words = located(tokenizer, "The cat sat")
    cat = words[1].tokens
    [whole, without, nothing] = Perturbed(found, words, 999).sequences(rows(3, [0, 1, 2], [0, 2], []), SUBJECT)
    assert whole.input_ids.tolist() == found.input_ids.tolist()
    assert [i for i, token in enumerate(without.input_ids.tolist()) if token == 999] == cat
    ids = found.input_ids.tolist()
    assert nothing.input_ids.tolist() == [ids[0], *[999] * (len(ids) - 2), ids[-1]]
    assert without.token_type_ids.tolist() == found.token_type_ids.tolist()


def test_the_tokens_of_a_removed_word_are_gone(tokenizer: Tokenizer) -> None:
    found, words = located(tokenizer, "The cat", "sat")
    [without, nothing] = Perturbed(found, words, None).sequences(rows(3, [0, 2], []), SUBJECT)
    kept = [i for i in range(len(found.input_ids)) if i not in words[1].tokens]
    assert without.input_ids.tolist() == found.input_ids[kept].tolist()
    assert without.token_type_ids.tolist() == found.token_type_ids[kept].tolist()
    assert len(nothing) == len(found.input_ids) - sum(len(one.tokens) for one in words)


def test_the_mask_to_fill_moves_with_what_is_removed_before_it(tokenizer: Tokenizer) -> None:
    mask = 4
    [found] = tokenizer.encode_located(["The cat [MASK] down"], cut="right")
    position = found.input_ids.tolist().index(mask)
    words = located_words(("The cat [MASK] down",), found, fixed=mask)
    assert [one.word for one in words] == ["The", "cat", "down"]
    subject = FirstSubject("none", None)
    subject.masks = np.array([position], np.int32)
    for sequence in Perturbed(found, words, None).sequences(rows(3, [0, 1, 2], [1, 2], [0], []), subject):
        [place] = sequence.masks.tolist()
        assert sequence.input_ids[place] == mask
