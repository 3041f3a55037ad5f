"""15% of the tokens, in whole words, of which 80% are hidden, 10% are others and 10% stay."""

from typing import Any

import numpy as np
import pytest

from tests.training.pretrain.language import make_tokenizer

pytestmark = pytest.mark.torch

WORDS, PIECES = 40, 20


def masked(count: int) -> Any:
    """Mask sequences of words with 0 to 3 more pieces."""
    from training.pretrain.masking import Masking

    masking = Masking(make_tokenizer(WORDS, PIECES))
    chance = np.random.default_rng(1)
    for i in range(count):
        words = [
            [
                5 + chance.integers(WORDS),
                *(5 + WORDS + chance.integers(PIECES, size=chance.choice(4, p=[0.7, 0.1, 0.1, 0.1]))),
            ]
            for _ in range(40)
        ]
        ids = np.array([2, *(token for word in words for token in word), 3], np.int64)
        yield ids, *masking.mask(ids, np.random.default_rng(i))


def test_shares_are_those_of_the_paper() -> None:
    hidden = other = stayed = asked = tokens = 0
    for ids, out, labels in masked(2000):
        is_asked = labels != -100
        assert (labels[is_asked] == ids[is_asked]).all()
        assert (out[~is_asked] == ids[~is_asked]).all()
        asked += is_asked.sum()
        tokens += len(ids) - 2
        hidden += (out[is_asked] == 4).sum()
        stayed += (out[is_asked] == ids[is_asked]).sum()
        other += ((out[is_asked] != ids[is_asked]) & (out[is_asked] != 4)).sum()
    assert asked / tokens == pytest.approx(0.15, abs=0.003)
    assert hidden / asked == pytest.approx(0.8, abs=0.01)
    # One in 60 of the other tokens is the same by chance.
    assert other / asked == pytest.approx(0.1 * 59 / 60, abs=0.01)
    assert stayed / asked == pytest.approx(0.1 + 0.1 / 60, abs=0.01)


def test_words_are_masked_whole_and_special_tokens_never() -> None:
    for ids, _, labels in masked(200):
        asked = labels != -100
        goes_on = ids >= 5 + WORDS
        assert (asked[1:] == asked[:-1])[goes_on[1:]].all()
        assert not asked[[0, -1]].any()
        assert asked.any()


def test_a_word_is_masked_where_each_is_more_than_the_share() -> None:
    from training.pretrain.masking import Masking

    ids = np.array([2, 5, 45, 46, 6, 45, 3], np.int64)
    _, labels = Masking(make_tokenizer()).mask(ids, np.random.default_rng(0))
    assert labels.tolist() == [-100, -100, -100, -100, 6, 45, -100]


def test_what_goes_on_from_a_cut_word_is_a_word() -> None:
    from training.pretrain.masking import Masking

    ids = np.array([2, 45, 46, 3, 47, 3], np.int64)
    for seed in range(20):
        _, labels = Masking(make_tokenizer()).mask(ids, np.random.default_rng(seed))
        assert labels[[1, 2]].tolist() == [-100, -100]
        assert labels[4] == 47


def test_nothing_is_masked_where_all_is_special() -> None:
    from training.pretrain.masking import Masking

    ids = np.array([2, 1, 3, 1, 3], np.int64)
    out, labels = Masking(make_tokenizer()).mask(ids, np.random.default_rng(0))
    assert out.tolist() == ids.tolist()
    assert set(labels.tolist()) == {-100}
