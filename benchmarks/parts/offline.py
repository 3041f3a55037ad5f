"""Sequences and tokens per second of the engine alone, by batch budget, beside the device's own matrix products."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice, product
from typing import Final, Protocol

import numpy as np

from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle
from app.bundle.manifest import Architecture
from app.bundle.sequences import SequenceResult, TokenSequence
from app.errors import OutOfDeviceMemory
from benchmarks.batches import filled, random_sequence, token_sequences
from benchmarks.bench import Bench
from benchmarks.parts.matrix_rate import matrix_rate
from benchmarks.report import Row, say
from benchmarks.texts import TextSet, read_texts

Batches = list[list[TokenSequence]]

VARIETY: Final = 4
"""Different batches of a budget."""
AIM: Final = ">= 15,000 sequences/s in the best budget"
"""On a card of the H100's class."""


class Runner(Protocol):
    """What of a runner is measured."""

    @property
    def launches_ahead(self) -> bool: ...

    def launch(self, batch: Sequence[TokenSequence]) -> Callable[[], list[SequenceResult]]: ...


def offline(
    bench: Bench,
    *,
    models: Sequence[str] = ("base", "large"),
    lengths: Sequence[int] = (32, 128, 384),
    texts: TextSet = "mix",
    most_texts: int = 400,
    budgets: Sequence[int] = (1024, 2048, 4096, 8192, 16384, 32768, 65536),
    threads: Sequence[int] = (),
    side: int = 8192,
    pass_s: float = 0.3,
) -> Iterator[Row]:
    """Measure the engine alone by budget of a batch (1: one text per run), and its share of the device's matrix rate.

    The graph computes only what is answered in its last layer, so its share can exceed 1.

    Args:
        bench: What is measured on.
        models: What is measured.
        lengths: Of sequences of random tokens.
        texts: Real ones, that are measured besides.
        most_texts: How many of them.
        budgets: Most tokens of a batch. One that does not fit into the memory is reported.
        threads: Of a run, besides one for each core.
        side: Rows and columns of the matrices that the device's own rate is measured with.
        pass_s: About how long one pass over the batches of a budget takes.
    """
    rates: dict[str, float] = {}
    for precision in bench.precisions:
        if precision == "int8":  # is held against fp32
            rates[precision] = rates["fp32"]
            continue
        rates[precision] = matrix_rate(bench.bundles, device=bench.device, precision=precision, side=side)
        yield {"kind": "matrix products alone", "precision": precision, "tflops": rates[precision] / 1e12}
    for model, count in product(models, sorted({*threads, usable_cpus()})):
        bundle = bench.bundle(model)
        real = token_sequences(bundle.folder, read_texts(texts)[:most_texts])
        for precision in bench.precisions:
            say(f"offline: {model} {precision}, {count} threads")
            runner = bench.runner(model, precision, threads=count)
            for name, budget in product([*map(str, lengths), texts], budgets):
                if name != texts and int(name) > min(budget, bundle.manifest.max_length):
                    continue
                batches = _batches(bundle, real if name == texts else int(name), budget)
                row = {"model": model, "precision": precision, "threads": str(count), "texts": name}
                row |= {"kind": "the engine alone", "budget": str(budget)}
                try:
                    duration_s = _duration_s(runner, batches, bench.rounds, pass_s)
                except OutOfDeviceMemory as error:
                    yield {**row, "reason": str(error)[:200]}
                    continue
                per_s = sum(map(len, batches)) / duration_s
                flops = flops_per_sequence(bundle.manifest.architecture, batches)
                yield {
                    **row,
                    "sequences_per_s": per_s,
                    "tokens_per_s": sum(len(one) for batch in batches for one in batch) / duration_s,
                    "batch_ms": duration_s / len(batches) * 1e3,
                    "share_of_matrix_rate": flops * per_s / rates[precision],
                    "aim": AIM if (model, precision, name) == ("base", "fp16", "128") else "",
                }


def _batches(bundle: Bundle, of: Sequence[TokenSequence] | int, budget: int) -> Batches:
    """Return batches of these texts, or of random ones of a length."""
    if isinstance(of, int):
        random = np.random.default_rng(0)
        return [[random_sequence(random, bundle, of) for _ in range(budget // of)] for _ in range(VARIETY)]
    if budget == 1:
        return [[one] for one in of]
    enough = [*of] * math.ceil(VARIETY * budget / sum(map(len, of)))
    *full, _ = filled([one for one in enough if len(one) <= budget], budget)
    return full


def _duration_s(runner: Runner, batches: Batches, rounds: int, pass_s: float) -> float:
    """Return how long a pass over the batches takes."""
    run_all(runner, islice(cycle(batches), 2))  # the first runs allocate
    started_at = time.perf_counter()
    run_all(runner, batches)
    passes = max(1, math.ceil(pass_s / (time.perf_counter() - started_at)))
    durations = []
    for _ in range(rounds):
        started_at = time.perf_counter()
        run_all(runner, islice(cycle(batches), passes * len(batches)))
        durations.append(time.perf_counter() - started_at)
    return statistics.median(durations) / passes


def run_all(runner: Runner, batches: Iterable[list[TokenSequence]]) -> None:
    """Run batches one after the other, as the engine does: on a device the next is launched while one runs."""
    unfinished: list[Callable[[], list[SequenceResult]]] = []
    try:
        for batch in batches:
            unfinished.append(runner.launch(batch))
            if len(unfinished) > runner.launches_ahead:
                unfinished.pop(0)()
    finally:  # a batch that was launched holds memory until it is finished
        for finish in unfinished:
            finish()


def flops_per_sequence(architecture: Architecture, batches: Batches) -> float:
    """Return the mean of the floating-point operations of a sequence's matrix products, two for each multiplication.

    A layer has 12 x hidden**2 weights in its dense products, and two products of attention over the sequence. The last
    layer's products after attention are of the first token only, as nothing else of it is read.
    """
    lengths = np.array([len(sequence) for batch in batches for sequence in batch], np.float64)
    hidden, layers = architecture.hidden_size, architecture.layers
    dense = 2 * hidden**2 * (lengths * (12 * (layers - 1) + 3) + 9)
    attention = 4 * hidden * layers * lengths**2
    return float((dense + attention).mean())
