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
    search_for_s: float = SEARCH_FOR_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Find the smallest batch budget that reaches 95% of the best rate.

    A larger batch is worth its longer wait only while it is faster per token. Sizes double until that stops: on a CPU within
    a few hundred tokens, on a GPU much later.

    Args:
        bundle: Its golden cases, repeated, are the batches.
        run: Runs a batch.
        limit_tokens: The largest budget to try.
        search_for_s: Seconds after which no larger size is tried.
        clock: Seconds.
    """
    sequences = golden_sequences(bundle)
    batches: dict[int, list[TokenSequence]] = {}
    seconds: dict[int, float] = {}

    def measure(size: int) -> None:
        per_token = _timed(run, batches[size], clock) / sum(map(len, batches[size]))
        seconds[size] = min(seconds.get(size, per_token), per_token)

    budget = min(FIRST_BUDGET_TOKENS, limit_tokens)
    give_up_at = clock() + search_for_s
    while budget <= limit_tokens and clock() < give_up_at:
        batches[budget] = _batch_of(sequences, budget)
        try:
            measure(budget)
            measure(budget)  # in the first run of a size, libraries also set up their kernels
        except OutOfDeviceMemory:
            seconds.pop(budget, None)  # the second run has another place for its inputs
            if not seconds:
                raise
            log.warning("model %s: a batch of %d tokens does not fit into the device's memory", bundle.name, budget)
            break
        sizes = list(seconds)
        has_levelled = len(sizes) > 2 and min(seconds.values()) > GOOD_ENOUGH * min(
            seconds[size] for size in sizes[:-2]
        )
        if has_levelled:
            break
        budget *= 2
    # Again in turns, and the shortest time of each counts: other load of the machine must not choose the budget.
    give_up_at = clock() + MEASURE_FOR_S
    shortest, shortest_s = min(sequences, key=len), math.inf
    for _ in range(MOST_ROUNDS):
        for size in seconds:
            measure(size)
        shortest_s = min(shortest_s, _timed(run, [shortest], clock))
        if clock() > give_up_at:
            break
    best = min(seconds.values())
    chosen = min(size for size, per_token in seconds.items() if GOOD_ENOUGH * per_token <= best)
    tokens = {size: sum(map(len, batch)) for size, batch in batches.items()}
    by_tokens = {tokens[size]: per_token * tokens[size] for size, per_token in seconds.items()}
    if len(shortest) < min(by_tokens):
        by_tokens[len(shortest)] = shortest_s
    return Speed(chosen, seconds[chosen], sorted(by_tokens.items()))


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
