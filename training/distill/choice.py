"""Which of the measured models is taken."""

from collections.abc import Sequence

from training.distill.measure import Measured

TEACHER = "teacher"
"""Its name among the measured."""
_ROUNDING = 1e-9
"""By which shares of rows differ from what their difference is."""


def choose(measured: Sequence[Measured], max_loss: float | None) -> Measured:
    """Return the smallest student that is worse than the teacher in fp32 by at most so much; without a limit, the best student.

    Where none is good enough, it is the smallest of the teacher that is.
    """
    students = [one for one in measured if one.model != TEACHER]
    if max_loss is None:
        return max(students, key=lambda one: (one.quality, -one.size_bytes))
    teachers = [one for one in measured if one.model == TEACHER]
    best = next(one.quality for one in teachers if one.precision == "fp32")

    def holds(one: Measured) -> bool:
        return best - one.quality <= max_loss + _ROUNDING

    good = [one for one in students if holds(one)] or [one for one in teachers if holds(one)]
    return min(good, key=lambda one: one.size_bytes)
