"""Intervals have known ends where they can be told by hand, and cover the true difference as often as they say."""

import numpy as np
import pytest

from model_export.audit.bootstrap import Scores, interval


def of(rows: object) -> Scores:
    """Return scores float64[frames, fillers, 1]."""
    return np.array(rows, np.float64)[:, :, np.newaxis]


def test_a_constant_difference_has_no_width() -> None:
    reference = of(np.arange(12.0).reshape(6, 2))
    low, high = interval(reference, reference + 0.25, is_matched=True)
    assert (low[0], high[0]) == (0.25, 0.25)


def test_scores_that_do_not_depend_on_the_group_have_an_interval_of_zero() -> None:
    """Sums in another order differ in their last digits, and 0 must not lie beside such a difference."""
    of_frames = np.random.default_rng(1).random((7, 1))
    low, high = interval(of(np.repeat(of_frames, 5, 1)), of(np.repeat(of_frames, 9, 1)), is_matched=False)
    assert (low[0], high[0]) == (0, 0)


def test_the_interval_of_five_zeros_and_five_ones_is_that_of_the_binomial() -> None:
    """The mean of ten draws with replacement is binomial(10, 1/2) / 10, whose quantiles at 2.5% and 97.5% are 0.2 and 0.8."""
    ones = of([[0.0]] * 5 + [[1.0]] * 5)
    low, high = interval(np.zeros_like(ones), ones, is_matched=True)
    assert (low[0], high[0]) == pytest.approx((0.2, 0.8), abs=1e-9)


def test_matched_fillers_are_drawn_together() -> None:
    """Their scores differ much by filler, and the two of a filler by a constant."""
    reference = of([np.linspace(-5, 5, 20)])
    low, high = interval(reference, reference + 1, is_matched=True)
    assert (low[0], high[0]) == pytest.approx((1, 1))
    low, high = interval(reference, reference + 1, is_matched=False)
    assert low[0] < 0 < 2 < high[0]


def test_labels_have_intervals_of_their_own() -> None:
    generator = np.random.default_rng(2)
    reference, group = generator.random((6, 7, 2)), generator.random((6, 8, 2))
    together = interval(reference, group, is_matched=False)
    alone = [interval(reference[:, :, [i]], group[:, :, [i]], is_matched=False) for i in range(2)]
    assert np.array_equal(together, np.concatenate(alone, axis=1))


@pytest.mark.parametrize(
    ("frames", "fillers", "others", "is_known"), [(4, 4, 4, False), (5, 1, 1, True), (1, 5, 4, False), (1, 5, 5, True)]
)
def test_a_few_sentences_have_no_interval(frames: int, fillers: int, others: int, is_known: bool) -> None:
    low, high = interval(np.zeros((frames, others, 3)), np.ones((frames, fillers, 3)), is_matched=False)
    assert np.isfinite([low, high]).all() == is_known
    assert np.isnan([low, high]).all() != is_known


def covered(
    frames: int, fillers: int, *, of_frames: float = 0.3, of_words: float = 0.3, is_matched: bool = False
) -> float:
    """Return how often the interval has the true difference, 0.3.

    Scores have effects of frames and of words, with these deviations in each group, and of both together. Frames have most of
    their effect in common, and so have matched words.
    """
    generator = np.random.default_rng(7)
    hits = []
    for _ in range(100):
        common = generator.normal(0, 1, (frames, 1)) + (generator.normal(0, 1, (1, fillers)) if is_matched else 0)
        reference, group = (
            common
            + generator.normal(mean, of_frames, (frames, 1))
            + generator.normal(0, of_words, (1, fillers))
            + generator.normal(0, 0.3, (frames, fillers))
            for mean in (0, 0.3)
        )
        low, high = interval(of(reference), of(group), is_matched=is_matched)
        hits.append(low[0] <= 0.3 <= high[0])
    return float(np.mean(hits))


def test_the_interval_covers_the_true_difference_for_other_frames_and_words() -> None:
    assert 0.9 <= covered(14, 18) <= 1


def test_the_interval_of_matched_words_covers_the_true_difference_for_others() -> None:
    assert 0.88 <= covered(1, 24, of_frames=0, is_matched=True) <= 1


def test_with_one_word_a_group_the_interval_is_for_other_frames_and_not_for_other_words() -> None:
    """The report says so: who compares `he` and `she` asks about these two."""
    assert 0.88 <= covered(14, 1, of_words=0) <= 0.98
    assert covered(14, 1, of_words=0.3) < 0.6
