"""Which of the measured models is taken."""

from collections.abc import Sequence

from training.distill.measure import Measured

TEACHER = "teacher"
"""Its name among the measured."""


def choose(measured: Sequence[Measured], max_loss: float | None) -> Measured:
    """Return the smallest model that is worse than the teacher in fp32 by at most so much; without a limit, the best student.

    The teacher itself is one of them: it is returned where no student is good enough.
    """
    if max_loss is None:
        students = [one for one in measured if one.model != TEACHER]
        return max(students, key=lambda one: (one.quality, -one.size_bytes))
    best = next(one.quality for one in measured if one.model == TEACHER and one.precision == "fp32")
    return min((one for one in measured if best - one.quality <= max_loss), key=lambda one: one.size_bytes)
