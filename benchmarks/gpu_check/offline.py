"""Sequences and tokens per second of the engine alone, by batch budget, beside the device's own matrix products."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Protocol

import numpy as np

from app.bundle.files import Bundle
from app.bundle.manifest import Architecture
from app.bundle.sequences import SequenceResult, TokenSequence
from app.errors import OutOfDeviceMemory
from benchmarks.common import Row, say
from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.forms import Form
from benchmarks.gpu_check.matrix_rate import matrix_rate
from benchmarks.inside.batches import filled, token_sequences
from benchmarks.texts import read_texts

Batches = list[list[TokenSequence]]

_VARIETY = 4
"""Different batches of sequences of one length."""


class Runner(Protocol):
    """What of a runner is measured."""

    @property
    def launches_ahead(self) -> bool: ...

    def launch(self, batch: Sequence[TokenSequence]) -> Callable[[], list[SequenceResult]]: ...


def offline(bench: Bench) -> Iterator[Row]:
    """Measure the device's rate, then every model, precision, length and budget. A budget that does not fit is reported."""
    rates = {}
    for precision in bench.precisions:
        rates[precision] = matrix_rate(
            bench.bundles,
            device=bench.device,
            precision=precision,
            side=bench.form.product_side,
        )
        yield {"kind": "matrix rate", "precision": precision, "tflops": rates[precision] / 1e12}
    for model in bench.form.offline_models:
        bundle = bench.bundle(model)
        for precision in bench.precisions:
            say(f"offline: {model} {precision}")
            runner = bench.runner(model, precision)
            for texts, budget, batches in _workloads(bundle, bench.form):
                row: Row = {"kind": "model", "model": model, "precision": precision, "texts": texts, "budget": budget}
                try:
                    measured = _measure(runner, batches, bench.form)
                except OutOfDeviceMemory as error:
                    yield {**row, "reason": str(error)[:200]}
                    continue
                flops = flops_per_sequence(bundle.manifest.architecture, batches) * measured["sequences_per_s"]
                yield {**row, **measured, "share_of_matrix_rate": flops / rates[precision]}


def _workloads(bundle: Bundle, form: Form) -> Iterator[tuple[str, int, Batches]]:
    """Yield the texts, the budget in tokens and the batches of each measurement."""
    random = np.random.default_rng(0)
    for length in form.lengths:
        for budget in form.budgets_tokens:
            if length <= min(budget, bundle.manifest.max_length):
                count = budget // length
                yield (
                    f"{length} tokens",
                    budget,
                    [[random_sequence(random, bundle, length) for _ in range(count)] for _ in range(_VARIETY)],
                )
    mix = token_sequences(bundle.folder, read_texts("mix"))
    tokens = sum(map(len, mix))
    for budget in form.budgets_tokens:
        enough = mix * math.ceil(_VARIETY * budget / tokens)
        fits = [sequence for sequence in enough if len(sequence) <= budget]
        *full, _ = filled(fits, budget)
        yield "mix", budget, full


def random_sequence(random: np.random.Generator, bundle: Bundle, length: int) -> TokenSequence:
    """Return a sequence of random tokens."""
    ids = random.integers(0, bundle.manifest.architecture.vocab_size, length)
    return TokenSequence(ids, np.zeros_like(ids), np.empty(0, np.int64))


def _measure(runner: Runner, batches: Batches, form: Form) -> Row:
    run_all(runner, islice(cycle(batches), max(2, len(batches))))
    started_at = time.perf_counter()
    run_all(runner, batches)
    passes = max(1, math.ceil(form.pass_s / (time.perf_counter() - started_at)))
    durations = []
    for _ in range(form.rounds):
        started_at = time.perf_counter()
        run_all(runner, islice(cycle(batches), passes * len(batches)))
        durations.append(time.perf_counter() - started_at)
    duration_s = statistics.median(durations) / passes
    return {
        "sequences_per_s": sum(map(len, batches)) / duration_s,
        "tokens_per_s": sum(len(sequence) for batch in batches for sequence in batch) / duration_s,
        "batch_ms": duration_s / len(batches) * 1e3,
    }


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
