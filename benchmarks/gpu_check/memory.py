"""Whether memory keeps growing over many batches of random shapes."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from app.bundle.files import Bundle
from app.bundle.manifest import Precision
from app.bundle.sequences import TokenSequence
from app.engine.warmup import run_every_shape
from benchmarks.common import Row
from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.card import used_bytes
from benchmarks.gpu_check.offline import random_sequence

MOST_GROWTH: Final = 0.05
SHORTEST: Final = 3


def memory(bench: Bench) -> Iterator[Row]:
    """Run the server's warm-up, then batches of random shapes, and read the memory in use after each."""
    for precision in bench.precisions:
        yield _watch(bench, precision)


def _watch(bench: Bench, precision: Precision) -> Row:
    form = bench.form
    used = used_bytes(bench.device)
    bundle = bench.bundle(form.model)
    runner = bench.runner(form.model, precision)
    run_every_shape(bundle, runner.run, runner.trim, form.memory_budget_tokens)
    after_warm_up = used()
    random = np.random.default_rng(0)
    readings = []
    for _ in range(form.memory_batches):
        runner.run(random_batch(random, bundle, form.memory_budget_tokens))
        readings.append(used())
    settled = max(readings[: form.memory_settled_after])
    growth = max(readings[form.memory_settled_after :]) / settled - 1
    return {
        "model": form.model,
        "precision": precision,
        "batches": form.memory_batches,
        "budget": form.memory_budget_tokens,
        "after_warm_up_bytes": after_warm_up,
        "settled_after": form.memory_settled_after,
        "settled_bytes": settled,
        "most_bytes": max(readings),
        "end_bytes": readings[-1],
        "growth": growth,
        "passed": growth <= MOST_GROWTH,
    }


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
