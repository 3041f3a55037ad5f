"""Measure with how many threads, and with how many tokens a batch, a model is fastest on this machine.

Runs in the engine's thread before the model serves anyone, on its golden inputs.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Final

from app.bundle.files import Bundle
from app.bundle.sequences import TokenSequence
from app.engine.golden import Run, golden_sequences
from app.engine.messages import Speed
from app.engine.protocols import Runner
from app.errors import OutOfDeviceMemory

log = logging.getLogger(__name__)

GOOD_ENOUGH: Final = 0.95
FIRST_BUDGET_TOKENS: Final = 128
# On a machine where small batches take this long, larger ones only mean longer waits.
SEARCH_FOR_S: Final = 0.3
SEARCH_DEVICE_FOR_S: Final = 5.0
"""The same for a GPU, whose libraries load their kernels at the first batch of a size, which may take as long as all the rest."""
EIGHTHS: Final = range(9, 16)
"""Of a power of two: the sizes between it and the next."""
MEASURE_FOR_S: Final = 0.6
"""How long the sizes that were tried are timed again, seconds."""
MOST_ROUNDS: Final = 10
WORTH_THREADS: Final = 1.05
"""A text must be answered by this factor sooner for a run to get more threads: each waits for the others after every operator."""
LONG_SHARE_S: Final = 0.0025
"""With so much work for each thread, more threads answer sooner. It is not measured then, as a busy machine would say otherwise, and
what is decided holds until the next start."""
TIMED_RUNS: Final = 20


def useful_threads(bundle: Bundle, runner: Runner, clock: Callable[[], float] = time.perf_counter) -> Sequence[int]:
    """Return which numbers of threads of a runner are worth having: none beyond that which answers a text soonest.

    Args:
        bundle: Its golden case of the middle length is the text.
        runner: Has run already.
        clock: Seconds.
    """
    sequences = sorted(golden_sequences(bundle), key=len)
    text = sequences[len(sequences) // 2]
    shortest_s = dict.fromkeys(runner.threads, math.inf)

    def time_again(count: int) -> float:
        shortest_s[count] = min(shortest_s[count], _timed(partial(runner.run, threads=count), [text], clock))
        return shortest_s[count]

    work_s = time_again(min(shortest_s))
    long_enough = [count for count in shortest_s if work_s / count >= LONG_SHARE_S]
    if len(long_enough) == len(shortest_s):
        return long_enough
    for _ in range(TIMED_RUNS):  # in turns, so that other load of the machine affects all of them
        for count in shortest_s:
            time_again(count)
    good_enough_s = WORTH_THREADS * min(shortest_s.values())
    most = min(count for count, duration_s in shortest_s.items() if duration_s <= good_enough_s)
    return [count for count in shortest_s if count <= max(most, *long_enough, 1)]


def measure_speed(
    bundle: Bundle,
    run: Run,
    *,
    limit_tokens: int,
    on_gpu: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Find the smallest batch budget that reaches 95% of the best rate.

    A larger batch is worth its longer wait only while it is faster per token. Sizes double until that stops: on a CPU within
    a few hundred tokens, on a GPU much later.

    A GPU multiplies matrices by tiles, a wave of as many as its multiprocessors take at once. A batch that begins another wave
    takes as long as one that fills it, so between two powers of two the rate rises and falls, and sizes there are tried, too.

    Args:
        bundle: Its golden cases, repeated, are the batches.
        run: Runs a batch.
        limit_tokens: The largest budget to try.
        on_gpu: Whether a GPU runs it.
        clock: Seconds.
    """
    search_for_s = SEARCH_DEVICE_FOR_S if on_gpu else SEARCH_FOR_S
    sizes = _Sizes(bundle, run, clock, limit_tokens=limit_tokens, give_up_at=clock() + search_for_s)
    budget = min(FIRST_BUDGET_TOKENS, limit_tokens)
    while sizes.try_size(budget) and not sizes.have_levelled:
        budget *= 2
    if on_gpu:
        power = sizes.smallest_good
        starts = [start for start in (power // 4, power // 2, power) if start >= FIRST_BUDGET_TOKENS]
        for size in (start * eighths // 8 for start in starts for eighths in EIGHTHS):
            if not sizes.try_size(size):
                break
    # Again in turns, and the shortest time of each counts: other load of the machine must not choose the budget.
    give_up_at = clock() + MEASURE_FOR_S
    shortest, shortest_s = min(golden_sequences(bundle), key=len), math.inf
    for _ in range(MOST_ROUNDS):
        for size in list(sizes.seconds):
            sizes.measure(size)
        shortest_s = min(shortest_s, _timed(run, [shortest], clock))
        if clock() > give_up_at:
            break
    chosen = sizes.smallest_good
    by_tokens = sizes.seconds_by_tokens()
    if len(shortest) < min(by_tokens):
        by_tokens[len(shortest)] = shortest_s
    return Speed(chosen, sizes.seconds[chosen], sorted(by_tokens.items()))


class _Sizes:
    """The sizes of a batch that were tried, and how long each took."""

    def __init__(
        self, bundle: Bundle, run: Run, clock: Callable[[], float], *, limit_tokens: int, give_up_at: float
    ) -> None:
        self._limit_tokens: Final = limit_tokens
        self._give_up_at: Final = give_up_at
        self._name: Final = bundle.name
        self._sequences: Final = golden_sequences(bundle)
        self._run: Final = run
        self._clock: Final = clock
        self._batches: Final[dict[int, list[TokenSequence]]] = {}
        self.seconds: Final[dict[int, float]] = {}
        """For a token, the shortest so far, by size."""

    def try_size(self, size: int) -> bool:
        """Try a size; return whether a larger one can be tried, as there is time and memory."""
        if size > self._limit_tokens or self._clock() >= self._give_up_at:
            return False
        # In the first run of a size, libraries also set up their kernels.
        return self.measure(size) and self.measure(size)

    def measure(self, size: int) -> bool:
        """Time a size; return whether it fits into the memory. One that did may not: its inputs have another place each time.

        Raises:
            OutOfDeviceMemory: it does not, and no other does.
        """
        batch = self._batches.setdefault(size, _batch_of(self._sequences, size))
        try:
            per_token = _timed(self._run, batch, self._clock) / sum(map(len, batch))
        except OutOfDeviceMemory:
            self.seconds.pop(size, None)
            if not self.seconds:
                raise
            log.warning("model %s: a batch of %d tokens does not fit into the device's memory", self._name, size)
            return False
        self.seconds[size] = min(self.seconds.get(size, per_token), per_token)
        return True

    @property
    def have_levelled(self) -> bool:
        """Whether the last two sizes are hardly faster than those before them."""
        sizes = list(self.seconds)
        return len(sizes) > 2 and min(self.seconds.values()) > GOOD_ENOUGH * min(
            self.seconds[size] for size in sizes[:-2]
        )

    @property
    def smallest_good(self) -> int:
        """The smallest size whose rate is good enough."""
        best = min(self.seconds.values())
        return min(size for size, per_token in self.seconds.items() if GOOD_ENOUGH * per_token <= best)

    def seconds_by_tokens(self) -> dict[int, float]:
        """Return how long a batch takes, by the tokens that are in it: as many as its size, or a few less."""
        tokens = {size: sum(map(len, self._batches[size])) for size in self.seconds}
        return {tokens[size]: per_token * tokens[size] for size, per_token in self.seconds.items()}


def timed_batch(bundle: Bundle, speed: Speed) -> tuple[list[TokenSequence], float]:
    """Return one of the batches that `measure_speed` ran, about as large as the budget, and how long it took, seconds."""
    sizes = [tokens for tokens, _ in speed.seconds_by_tokens if tokens <= speed.budget_tokens]
    batch = _batch_of(golden_sequences(bundle), max(sizes, default=speed.budget_tokens))
    tokens = sum(map(len, batch))
    return batch, dict(speed.seconds_by_tokens).get(tokens, tokens * speed.seconds_per_token)


def _batch_of(sequences: Sequence[TokenSequence], budget_tokens: int) -> list[TokenSequence]:
    batch: list[TokenSequence] = []
    room = budget_tokens
    for sequence in cycle(sequences):
        if len(sequence) > room and batch:
            break
        batch.append(sequence)
        room -= len(sequence)
    return batch


def _timed(run: Run, batch: Sequence[TokenSequence], clock: Callable[[], float]) -> float:
    started_at = clock()
    run(batch)
    return clock() - started_at
