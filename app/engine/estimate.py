"""How long batches take: by their size as warm-up measured it, and by how the last ones compared with that.

A batch costs something whatever its size, so seconds per token say little: after a quiet hour of short texts alone, each
token would seem to take what a whole batch does. Imports nothing of the project.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

# Weight of the newest batch in the moving average: about the last ten count.
SMOOTHING: Final = 0.2
# A batch that was held up counts as this many times the average at most: one stall of the machine would else have
# requests refused for as long as the queue takes. A device that is slower for good is known after a few batches.
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
        """Say how long batches of some sizes took, from the smallest to the largest."""
        assert all(smaller < larger for (smaller, _), (larger, _) in pairwise(seconds_by_tokens))
        self._tokens = [tokens for tokens, _ in seconds_by_tokens]
        # No batch is faster than a smaller one, whatever a busy machine made of the two.
        self._seconds = list(accumulate((seconds for _, seconds in seconds_by_tokens), max))
        self._full_batch_s = self.seconds(self._budget_tokens)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take in how long a batch took. The first one is all that is known if nothing was measured."""
        if seconds <= 0:  # the clock did not see it
            return
        if not self._tokens:
            self.expect([(tokens, seconds)])
            return
        slowness = min(seconds / self._measured(tokens), MOST_OF_AVERAGE * self._slowness)
        self._slowness += SMOOTHING * (slowness - self._slowness)
        self._full_batch_s = self.seconds(self._budget_tokens)

    def seconds(self, tokens: int) -> float:
        """Return how long it takes until these tokens have run, if nothing else does; 0 before anything is known."""
        return self.seconds_as_measured(tokens) * self._slowness

    def seconds_as_measured(self, tokens: int) -> float:
        """Return how long these tokens took when batches were measured, whatever the last ones took."""
        if not self._tokens or not tokens:
            return 0.0
        full, rest = divmod(tokens, self._budget_tokens)
        seconds = full * self._measured(self._budget_tokens) + (self._measured(rest) if rest else 0.0)
        return seconds / self._lanes

    def at_most(self, tokens: int) -> float:
        """Return what these tokens take at most, even if they run as three lots; much cheaper than `seconds`."""
        return (3 + tokens / self._budget_tokens) * self._full_batch_s

    def _measured(self, tokens: int) -> float:
        """Interpolate; outside of what was measured, as many seconds a token as at the end."""
        after = bisect_left(self._tokens, tokens)
        if after in (0, len(self._tokens)):
            end = min(after, len(self._tokens) - 1)
            return self._seconds[end] * tokens / self._tokens[end]
        (low, high), (least, most) = self._tokens[after - 1 : after + 1], self._seconds[after - 1 : after + 1]
        return least + (most - least) * (tokens - low) / (high - low)
