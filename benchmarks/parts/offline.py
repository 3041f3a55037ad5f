"""Sequences and tokens per second of the engine alone, by batch budget, beside the device's own matrix products."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from operator import itemgetter
from typing import Final, Protocol

import numpy as np

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

HELD: Final = "the engine alone, held"
VARIETY: Final = 4
"""Different batches of a budget."""
AIM: Final = ">= 15,000 sequences/s"
"""Of BERT-base in fp16, texts of 128 tokens, held, on a card of the H100's class."""


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
    budgets: Sequence[int] = (1024, 2048, 4096, 5632, 8192, 11264, 16384, 32768, 65536),
    threads: Sequence[int] = (),
    side: int = 8192,
    pass_s: float = 0.3,
    hold_s: float = 10,
) -> Iterator[Row]:
    """Measure the engine alone by budget of a batch (1: one text per run), and its share of the device's matrix rate.

    The graph computes only what is answered in its last layer, so its share can exceed 1. A card is slower when it is warm: the
    best budget runs again for longer, as the matrix products do.

    Args:
        bench: What is measured on.
        models: What is measured.
        lengths: Of sequences of random tokens.
        texts: Real ones, that are measured besides.
        most_texts: How many of them.
        budgets: Most tokens of a batch. One that does not fit into the memory is reported. Of BERT-base, 5632 and 11264 make whole
            waves of tiles on a card of 132 multiprocessors.
        threads: Of a run, besides one for each core.
        side: Rows and columns of the matrices that the device's own rate is measured with.
        pass_s: About how long one pass over the batches of a budget takes.
        hold_s: About how long the matrix products take, and the best budget once more, if not 0.
    """
    rates: dict[str, float] = {}
    for precision in bench.precisions:
        if precision == "int8":  # is held against fp32
            rates[precision] = rates["fp32"]
            continue
        rates[precision] = matrix_rate(
            bench.bundles, device=bench.device, precision=precision, side=side, hold_s=hold_s
        )
        yield {"kind": "matrix products alone", "precision": precision, "tflops": rates[precision] / 1e12}
    for model, count in product(models, sorted({*threads, bench.cores})):
        bundle = bench.bundle(model)
        real = token_sequences(bundle.folder, read_texts(texts)[:most_texts])
        for precision in bench.precisions:
            say(f"offline: {model} {precision}, {count} threads")
            runner = bench.runner(model, precision, threads=count)
            for name in (*map(str, lengths), texts):
                row = {"model": model, "precision": precision, "threads": str(count), "texts": name}
                aim = AIM if (model, precision, name) == ("base", "fp16", "128") else ""
                of = real if name == texts else int(name)
                alone = Alone(bundle, runner, of, bench.rounds, rates[precision])
                for measured in alone.by_budget(budgets, pass_s, hold_s):
                    yield row | measured | ({"aim": aim} if measured["kind"] == HELD else {})


@dataclass(frozen=True, slots=True)
class Alone:
    """The engine alone on one kind of text: real ones, or random ones of a length."""

    bundle: Bundle
    runner: Runner
    of: Sequence[TokenSequence] | int
    rounds: int
    matrix_rate: float

    def by_budget(self, budgets: Sequence[int], pass_s: float, hold_s: float) -> Iterator[Row]:
        """Yield the figures of each budget that is not too small or too large, then of the best one held for `hold_s`."""
        best = Row(tokens_per_s=0.0)
        for budget in budgets:
            if isinstance(self.of, int) and self.of > min(budget, self.bundle.manifest.max_length):
                continue
            row = {"kind": "the engine alone", "budget": str(budget)}
            row |= self._figures(budget, self.rounds, pass_s)
            yield row
            if "reason" not in row:
                best = max(best, row, key=itemgetter("tokens_per_s"))
        if hold_s and "budget" in best:
            row = {"kind": HELD, "budget": best["budget"]}
            yield row | self._figures(int(best["budget"]), 1, hold_s) | {"held_s": hold_s}

    def _figures(self, budget: int, rounds: int, pass_s: float) -> Row:
        """Return the rates of batches up to a budget, or why they do not fit."""
        batches = _batches(self.bundle, self.of, budget)
        try:
            duration_s = _duration_s(self.runner, batches, rounds, pass_s)
        except OutOfDeviceMemory as error:
            return {"reason": str(error)[:200]}
        per_s = sum(map(len, batches)) / duration_s
        flops = flops_per_sequence(self.bundle.manifest.architecture, batches)
        return {
            "sequences_per_s": per_s,
            "tokens_per_s": sum(len(one) for batch in batches for one in batch) / duration_s,
            "batch_ms": duration_s / len(batches) * 1e3,
            "share_of_matrix_rate": flops * per_s / self.matrix_rate,
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
