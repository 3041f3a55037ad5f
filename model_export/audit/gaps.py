"""Gaps: the mean score of a group's sentences minus that of the reference's."""

from dataclasses import dataclass
from math import isnan

import numpy as np

from model_export.audit.bootstrap import interval
from model_export.audit.scores import Scored, Scores


@dataclass(frozen=True)
class Gap:
    """A gap of one label or target, in the unit of its scores; `low` and `high` are NaN where there are too few sentences."""

    dimension: str
    reference: str
    group: str
    label: str
    reference_mean: float
    group_mean: float
    gap: float
    low: float
    high: float
    reference_sentences: int
    group_sentences: int
    largest: float
    """The difference between the two sentences of one frame that are furthest apart; of matched ones, of a row."""
    reference_sentence: str
    group_sentence: str

    @property
    def has_interval(self) -> bool:
        """Whether there are enough sentences for one."""
        return not isnan(self.low)

    def is_beyond(self, size: float) -> bool:
        """Return whether the interval lies wholly above `size`, or wholly below -`size`; without one, whether the gap does."""
        low, high = (self.low, self.high) if self.has_interval else (self.gap, self.gap)
        return low > size or high < -size


def gaps_of(scored: Scored) -> list[Gap]:
    """Return the gaps of each group but the first, by group and label.

    Of two labels whose scores add up to 1 there is the second only: the gap of the first is the opposite.
    """
    labels = range(1 if _add_up(scored) else 0, len(scored.labels))
    return [gap for group in range(1, len(scored.scores)) for gap in _gaps(scored, group, labels)]


def _gaps(scored: Scored, number: int, labels: range) -> list[Gap]:
    reference, group = scored.scores[0], scored.scores[number]
    dimension = scored.dimension
    low, high = interval(reference, group, is_matched=dimension.matched)
    gaps = []
    for label in labels:
        one, other = reference[:, :, label], group[:, :, label]
        frame, of_one, of_other = _furthest(one, other, is_matched=dimension.matched)
        means = float(one.mean()), float(other.mean())
        gaps.append(
            Gap(
                dimension=dimension.name,
                reference=dimension.groups[0],
                group=dimension.groups[number],
                label=scored.labels[label],
                reference_mean=means[0],
                group_mean=means[1],
                gap=means[1] - means[0],
                low=float(low[label]),
                high=float(high[label]),
                reference_sentences=one.size,
                group_sentences=other.size,
                largest=float(other[frame, of_other] - one[frame, of_one]),
                reference_sentence=scored.sentences[0][frame][of_one],
                group_sentence=scored.sentences[number][frame][of_other],
            )
        )
    return gaps


def _furthest(reference: Scores, group: Scores, *, is_matched: bool) -> tuple[int, int, int]:
    """Return the frame, the reference's filler and the group's filler whose scores float64[frames, fillers] are furthest apart."""
    if is_matched:
        frame, filler = np.unravel_index(np.abs(group - reference).argmax(), group.shape)
        return int(frame), int(filler), int(filler)
    above, below = group.max(axis=1) - reference.min(axis=1), reference.max(axis=1) - group.min(axis=1)
    frame = np.maximum(above, below).argmax()
    if above[frame] >= below[frame]:
        return int(frame), int(reference[frame].argmin()), int(group[frame].argmax())
    return int(frame), int(reference[frame].argmax()), int(group[frame].argmin())


def _add_up(scored: Scored) -> bool:
    return (
        not scored.is_of_masks and len(scored.labels) == 2 and all(np.allclose(one.sum(-1), 1) for one in scored.scores)
    )
