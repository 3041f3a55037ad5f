"""Find out how a freshly loaded model is fastest here: threads of a batch, tokens of a batch.

Runs in the engine's thread before the model serves anyone, on its golden inputs.
"""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Final, TypeVar

from app.bundle.files import Bundle
from app.bundle.sequences import TokenSequence
from app.engine.golden import Run, golden_sequences
from app.engine.messages import Speed
from app.engine.protocols import Runner
from app.errors import OutOfDeviceMemory

log = logging.getLogger(__name__)

GOOD_ENOUGH: Final = 0.95
FIRST_BUDGET_TOKENS: Final = 128
# A machine on which small batches take this long gains nothing from larger ones but longer waits.
SEARCH_FOR_S: Final = 0.3
SEARCH_DEVICE_FOR_S: Final = 5.0
"""Of a GPU, whose libraries load their kernels at the first batch of a size: that may take as long as all that is measured."""
MEASURE_FOR_S: Final = 0.6
"""What was found is timed again for so long."""
MOST_ROUNDS: Final = 10
# A text may take this many times as long on half of the threads, which then answer two at once. Threads that share a
# run wait for each other after every operator, and for all of them when the front end or a neighbour takes one's core.
WORTH_HALVING: Final = 1.25
# A run that takes longer is long enough to be shared by all threads, and its model too large to be loaded just to see.
LONG_RUN_S: Final = 0.005
TIMED_RUNS: Final = 20


R = TypeVar("R", bound=Runner)


def open_with_few_threads(
    bundle: Bundle,
    open_runner: Callable[[int], R],
    *,
    cpus: int,
    clock: Callable[[], float] = time.perf_counter,
) -> R:
    """Return a runner of so few threads that a text is answered about as fast as by all of them.

    The cores that it leaves run other batches meanwhile.

    Args:
        bundle: Its golden case of the middle length is the text.
        open_runner: Makes a runner of so many threads.
        cpus: The cores there are.
        clock: Seconds.
    """
    runner = open_runner(cpus)
    if runner.threads is None or runner.threads == 1:
        return runner
    sequences = sorted(golden_sequences(bundle), key=len)
    text = sequences[len(sequences) // 2]

    def shortest_s(*runners: R) -> list[float]:
        """In turns, so that what else the machine does is in all of them."""
        rounds = [[_timed(one.run, [text], clock) for one in runners] for _ in range(TIMED_RUNS)]
        return [min(durations_s) for durations_s in zip(*rounds, strict=True)]

    threads = cpus
    while threads > 1 and shortest_s(runner)[0] < LONG_RUN_S:
        threads //= 2
        fewer = open_runner(threads)
        duration_s, fewer_s = shortest_s(runner, fewer)
        if fewer_s > WORTH_HALVING * duration_s:
            break
        runner = fewer
    return runner


def measure_speed(
    bundle: Bundle,
    run: Run,
    *,
    limit_tokens: int,
    search_for_s: float = SEARCH_FOR_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Find the smallest batch budget that reaches 95% of the best rate.

    A larger batch is only worth its longer wait while it is faster by the token. Sizes double until that stops: on a CPU
    within a few hundred tokens, on a GPU much later.

    Args:
        bundle: Its golden cases, again and again, are the batches.
        run: Runs a batch.
        limit_tokens: The largest budget to try.
        search_for_s: After that no larger one is tried.
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
            measure(budget)  # the first run of a size pays for what libraries set up
        except OutOfDeviceMemory:
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
    # Again in turns, and the shortest of each counts: what else the machine does must not choose the budget.
    give_up_at = clock() + MEASURE_FOR_S
    for _ in range(MOST_ROUNDS):
        for size in seconds:
            measure(size)
        if clock() > give_up_at:
            break
    best = min(seconds.values())
    chosen = min(size for size, per_token in seconds.items() if GOOD_ENOUGH * per_token <= best)
    tokens = {size: sum(map(len, batch)) for size, batch in batches.items()}
    by_tokens = {tokens[size]: per_token * tokens[size] for size, per_token in seconds.items()}
    shortest = min(sequences, key=len)
    if len(shortest) < min(by_tokens):
        by_tokens[len(shortest)] = _timed(run, [shortest], clock)
    return Speed(chosen, seconds[chosen], sorted(by_tokens.items()))


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
