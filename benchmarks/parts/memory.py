"""Whether memory keeps growing over many batches of random shapes."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from app.bundle.files import Bundle
from app.bundle.sequences import TokenSequence
from app.engine.warmup import run_every_shape
from benchmarks.batches import random_sequence
from benchmarks.bench import Bench
from benchmarks.machine import used_bytes
from benchmarks.report import Row

MOST_GROWN: Final = 1.05
SHORTEST: Final = 3


def memory(
    bench: Bench,
    *,
    model: str = "base",
    budget_tokens: int = 16384,
    batches: int = 1000,
    settled_after: int = 100,
) -> Iterator[Row]:
    """Run the server's warm-up, then batches of random shapes, and read the memory in use after each.

    It must not grow by more than 5% after the first `settled_after` batches.
    """
    used, bundle = used_bytes(bench.device), bench.bundle(model)
    for precision in bench.precisions:
        runner = bench.runner(model, precision)
        run_every_shape(bundle, runner.run, runner.trim, budget_tokens)
        row: Row = {"model": model, "precision": precision, "batches": batches, "after_warm_up_bytes": used()}
        random, readings = np.random.default_rng(0), []
        for _ in range(batches):
            runner.run(random_batch(random, bundle, budget_tokens))
            readings.append(used())
        settled, most = max(readings[:settled_after]), max(readings[settled_after:])
        row |= {"settled_after": settled_after, "settled_bytes": settled, "most_bytes": max(most, settled)}
        yield row | {"end_bytes": readings[-1], "growth": most / settled - 1, "passed": most <= settled * MOST_GROWN}
        del runner  # and its memory, before the next one


def random_batch(random: np.random.Generator, bundle: Bundle, budget_tokens: int) -> list[TokenSequence]:
    """Return a batch of any size up to the budget: a longest sequence, then others; as many small as large by the logarithm.

    Kernels of attention are chosen by the longest sequence. Some take memory for all others as if they were as long, so
    that a long one among many short is the worst.
    """
    room = _random_size(random, budget_tokens)
    length = _random_size(random, min(bundle.manifest.max_length, room))
    longest_other = _random_size(random, length)
    batch = [random_sequence(random, bundle, length)]
    room -= length
    while room >= SHORTEST:
        length = min(_random_size(random, longest_other), room)
        batch.append(random_sequence(random, bundle, length))
        room -= length
    return batch


def _random_size(random: np.random.Generator, most: int) -> int:
    return int(np.exp(random.uniform(np.log(SHORTEST), np.log(most))))
