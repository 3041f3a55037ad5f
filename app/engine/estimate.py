"""How long batches will take: what warm-up measured for their size, times how slow the last ones were.

A batch has a cost whatever its size, so seconds per token mislead: after an hour of single short texts, a token would seem to
take as long as a whole batch. Imports nothing of the project.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

# Weight of the newest batch in the moving average: about the last ten count.
SMOOTHING: Final = 0.2
# A slow batch counts as this many times the average at most: otherwise one stall of the machine would refuse requests for
# as long as the queue takes. A device that stays slower is known after a few batches.
MOST_OF_AVERAGE: Final = 4.0


class Estimate:
    """Predicts how long tokens take that run in batches of at most a budget, several batches at once if there are lanes."""

    def __init__(self, budget_tokens: int, lanes: int = 1) -> None:
        self._budget_tokens: Final = budget_tokens
        self._lanes: Final = lanes
        self._tokens: list[int] = []
        self._seconds: list[float] = []
        self._slowness = 1.0
        self._full_batch_s = 0.0

    def expect(self, seconds_by_tokens: Sequence[tuple[int, float]]) -> None:
        """Take in how long batches of some sizes took, from the smallest to the largest."""
        assert all(smaller < larger for (smaller, _), (larger, _) in pairwise(seconds_by_tokens))
        self._tokens = [tokens for tokens, _ in seconds_by_tokens]
        # No batch is faster than a smaller one, even if a busy machine measured it so.
        self._seconds = list(accumulate((seconds for _, seconds in seconds_by_tokens), max))
        self._full_batch_s = self.seconds(self._budget_tokens)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take in how long a batch took. If nothing was measured, the first batch is the measurement."""
        if seconds <= 0:  # shorter than the clock can tell
            return
        if not self._tokens:
            self.expect([(tokens, seconds)])
            return
        slowness = min(seconds / self._measured(tokens), MOST_OF_AVERAGE * self._slowness)
        self._slowness += SMOOTHING * (slowness - self._slowness)
        self._full_batch_s = self.seconds(self._budget_tokens)

    def seconds(self, tokens: int) -> float:
        """Return how long these tokens take if nothing else runs, seconds; 0 before anything is known."""
        return self.seconds_as_measured(tokens) * self._slowness

    def seconds_as_measured(self, tokens: int) -> float:
        """Return how long these tokens would take at the measured speed, whatever the last batches took, seconds."""
        if not self._tokens or not tokens:
            return 0.0
        full, rest = divmod(tokens, self._budget_tokens)
        seconds = full * self._measured(self._budget_tokens) + (self._measured(rest) if rest else 0.0)
        return seconds / self._lanes

    def at_most(self, tokens: int) -> float:
        """Return an upper bound of `seconds`, even for tokens in three parts; much cheaper to compute."""
        return (3 + tokens / self._budget_tokens) * self._full_batch_s

    def _measured(self, tokens: int) -> float:
        """Interpolate between the measured sizes; beyond them, scale the nearest one."""
        after = bisect_left(self._tokens, tokens)
        if after in (0, len(self._tokens)):
            end = min(after, len(self._tokens) - 1)
            return self._seconds[end] * tokens / self._tokens[end]
        (low, high), (least, most) = self._tokens[after - 1 : after + 1], self._seconds[after - 1 : after + 1]
        return least + (most - least) * (tokens - low) / (high - low)
