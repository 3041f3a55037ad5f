"""Which requests are admitted: those that are answered in time, as far as can be estimated."""

import math
from dataclasses import dataclass

from app.errors import Overloaded, ValidationFailed


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits: the longest estimated wait at which a request is admitted, and the longest time to its answer, seconds."""

    max_queue_s: float
    timeout_s: float

    @property
    def max_wait_s(self) -> float:
        """The longest wait at which a request is admitted, seconds."""
        return min(self.max_queue_s, self.timeout_s)

    def refuse_long_wait(self, wait_s: float) -> None:
        """Pass if a request may wait for `wait_s` seconds.

        Raises:
            Overloaded: it may not. A retry may help later.
        """
        if wait_s > self.max_wait_s:
            raise Overloaded(
                f"The queue is full: a request would wait about {wait_s:.1f} s. Retry after the time in Retry-After.",
                retry_after_s=max(1, math.ceil(wait_s - self.max_queue_s / 2)),
            )

    def refuse_long_run(self, run_s: float, *, inputs: int, tokens: int) -> None:
        """Pass if a request can be answered in time when nothing else runs.

        Raises:
            ValidationFailed: it cannot. Fewer inputs may be answered.
        """
        if run_s > self.timeout_s:
            fitting = max(1, int(inputs * self.timeout_s / run_s))
            raise ValidationFailed(
                f"{inputs} inputs of {tokens} tokens would take about {run_s:.0f} s, the most is {self.timeout_s:g} s "
                f"(BERT_REQUEST_TIMEOUT_S). Send at most about {fitting} such inputs at once."
            )

    def refuse_late_answer(self, answer_s: float) -> None:
        """Pass if a request may be answered after `answer_s` seconds.

        Raises:
            Overloaded: it may not. A retry may help later.
        """
        if answer_s > self.timeout_s:
            raise Overloaded(
                f"The request would be answered in about {answer_s:.1f} s, after the {self.timeout_s:g} s that "
                "requests may take. Retry after the time in Retry-After, or send fewer inputs at once.",
                retry_after_s=max(1, math.ceil(answer_s - self.timeout_s)),
            )

    def too_slow(self, done: int, inputs: int, after_s: float) -> Overloaded:
        """Return the error of a request that was admitted, of which too few inputs have run to be answered in time."""
        fitting = max(1, int(done * self.timeout_s / after_s))
        return Overloaded(
            f"{done} of {inputs} inputs ran within {after_s:.1f} s: all of them would take more than the {self.timeout_s:g} s that "
            f"requests may take. Retry when there is less load, with at most about {fitting} such inputs at once.",
            retry_after_s=math.ceil(self.max_wait_s),
        )
