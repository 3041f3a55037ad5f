"""The uncertainty of a difference of means, from the sentences that it was measured on."""

from typing import Final

import numpy as np
import numpy.typing as npt

SHARE: Final = 0.95
"""Of the resampled differences, how many lie in an interval."""
LEAST: Final = 5
"""Frames, or fillers of each group, that an interval needs at least."""

_RESAMPLES: Final = 2000
_SEED: Final = 20040915
_DIGITS: Final = 12
"""Of an interval's ends: what is smaller is rounding of sums, and must not lie beside 0."""

Scores = npt.NDArray[np.float64]


def interval(reference: Scores, group: Scores, *, is_matched: bool) -> tuple[Scores, Scores]:
    """Return the ends of the percentile interval of mean(group) - mean(reference), by label.

    Frames and fillers are both drawn with replacement: another frame, and another word, would have given another score. The
    drawn frames are the same for both groups. The drawn fillers are, too, if they are matched.

    Args:
        reference: float64[frames, fillers of the reference, labels]
        group: float64[frames, fillers of the group, labels]
        is_matched: Whether the fillers of one number belong together.

    Returns:
        float64[labels] twice; NaN where there are fewer than `LEAST` frames and fewer than `LEAST` fillers of a group.
    """
    frames, fillers, labels = group.shape
    others = reference.shape[1]
    if max(frames, min(fillers, others)) < LEAST:
        return np.full(labels, np.nan), np.full(labels, np.nan)
    generator = np.random.default_rng(_SEED)
    of_frames, of_fillers, of_others = (_weights(generator, count) for count in (frames, fillers, others))
    if is_matched:
        group, reference = group - reference, np.zeros((frames, 1, labels))
        of_others = np.ones((_RESAMPLES, 1))
    ends = np.empty((2, labels))
    for label in range(labels):
        means = _means(group[:, :, label], of_frames, of_fillers) - _means(reference[:, :, label], of_frames, of_others)
        ends[:, label] = np.quantile(means, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    low, high = np.round(ends, _DIGITS)
    return low, high


def _weights(generator: np.random.Generator, count: int) -> Scores:
    """Return how often each of `count` is drawn, as a share, float64[resamples, count]."""
    return np.asarray(generator.multinomial(count, np.full(count, 1 / count), _RESAMPLES) / count)


def _means(scores: Scores, of_frames: Scores, of_fillers: Scores) -> Scores:
    """Return the mean of the scores float64[frames, fillers] in each resample."""
    return np.asarray(((of_frames @ scores) * of_fillers).sum(axis=1))
