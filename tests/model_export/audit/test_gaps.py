"""Gaps are differences of means, with the two sentences that are furthest apart."""

import numpy as np
import pytest

from model_export.audit.gaps import Gap, gaps_of
from model_export.audit.scores import Scored, Scores
from model_export.audit.templates import Dimension


def scored(*groups: Scores, labels: tuple[str, ...], is_matched: bool = False) -> Scored:
    """Scores of made-up sentences: `0.1.2` is frame 1 with filler 2 of group 0."""
    frames = len(groups[0])
    dimension = Dimension(
        name="made up",
        about=None,
        query=None,
        frames=tuple(map(str, range(frames))),
        groups=tuple(f"group {i}" for i in range(len(groups))),
        fillers=tuple(tuple({"word": str(i)} for i in range(one.shape[1])) for one in groups),
        matched=is_matched,
        targets=(),
    )
    sentences = tuple(
        tuple(tuple(f"{group}.{frame}.{filler}" for filler in range(one.shape[1])) for frame in range(frames))
        for group, one in enumerate(groups)
    )
    return Scored(dimension, labels, groups, (), (0,) * len(groups), sentences, is_of_masks=False)


def only(gaps: list[Gap]) -> Gap:
    [gap] = gaps
    return gap


def test_a_gap_is_the_mean_of_the_group_minus_that_of_the_reference() -> None:
    reference = np.array([[0.1, 0.2], [0.3, 0.4]])[:, :, np.newaxis]
    group = np.array([[0.5, 0.6, 0.7], [0.7, 0.8, 0.9]])[:, :, np.newaxis]
    gap = only(gaps_of(scored(reference, group, labels=("toxic",))))
    assert (gap.reference, gap.group, gap.label) == ("group 0", "group 1", "toxic")
    assert gap.gap == pytest.approx(0.7 - 0.25)
    assert (gap.reference_mean, gap.group_mean) == pytest.approx((0.25, 0.7))
    assert (gap.reference_sentences, gap.group_sentences) == (4, 6)
    assert not gap.has_interval
    assert gap.is_beyond(0.4)  # a limit counts also where there are too few sentences to know more
    assert not gap.is_beyond(0.5)


def test_the_sentences_that_are_furthest_apart_have_one_frame() -> None:
    reference = np.array([[0.5, 0.4], [0.9, 0.1]])[:, :, np.newaxis]
    group = np.array([[0.5, 0.9], [0.2, 0.3]])[:, :, np.newaxis]
    gap = only(gaps_of(scored(reference, group, labels=("toxic",))))
    assert (gap.reference_sentence, gap.group_sentence) == ("0.1.0", "1.1.0")
    assert gap.largest == pytest.approx(0.2 - 0.9)


def test_of_matched_sentences_the_furthest_are_of_one_row() -> None:
    reference = np.array([[0.5, 0.4, 0.0]])[:, :, np.newaxis]
    group = np.array([[0.1, 0.9, 0.3]])[:, :, np.newaxis]
    gap = only(gaps_of(scored(reference, group, labels=("toxic",), is_matched=True)))
    assert (gap.reference_sentence, gap.group_sentence) == ("0.0.1", "1.0.1")
    assert gap.largest == pytest.approx(0.5)


def test_each_group_is_compared_with_the_first_for_each_label() -> None:
    groups = [np.random.default_rng(i).random((5, 1, 3)) for i in range(3)]
    gaps = gaps_of(scored(*groups, labels=("a", "b", "c")))
    assert [(gap.group, gap.label) for gap in gaps] == [(f"group {i}", label) for i in (1, 2) for label in "abc"]
    assert all(gap.low <= gap.gap <= gap.high for gap in gaps)


def test_of_two_labels_that_add_up_to_one_only_the_second_is_compared() -> None:
    positive = np.random.default_rng(1).random((2, 5, 1, 1))
    both = np.concatenate([1 - positive, positive], axis=-1)
    assert [gap.label for gap in gaps_of(scored(*both, labels=("bad", "good")))] == ["good"]
    assert len(gaps_of(scored(*(both * 0.9), labels=("bad", "good")))) == 2


@pytest.mark.parametrize(("size", "expected"), [(0, True), (0.24, True), (0.26, False)])
def test_a_gap_is_beyond_a_size_in_either_direction(size: float, expected: bool) -> None:
    reference = np.zeros((6, 1, 1))
    for group in (reference + 0.25, reference - 0.25):
        assert only(gaps_of(scored(reference, group, labels=("toxic",)))).is_beyond(size) == expected
