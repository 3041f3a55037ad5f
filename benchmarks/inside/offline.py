"""Tokens per second of the engine alone, by layout, precision, budget and threads, next to the machine's GEMM limit.

Runs in the project's environment, one process for all, every configuration once per round: what disturbs the machine for
a while disturbs all of them. Prints JSON.

    python -m benchmarks.inside.offline BUNDLE --padded GRAPH
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from app.bundle.cpus import usable_cpus
from app.bundle.files import load_bundle
from app.bundle.manifest import Variant
from app.bundle.sequences import TokenSequence
from app.runtime.runner import OrtRunner
from benchmarks.inside.batches import filled, token_sequences
from benchmarks.texts import read_texts

Runs = list[Callable[[], object]]

GEMM = "matrix products alone"
GEMM_ROWS = (256, 512, 1024)
BUDGETS_TOKENS = (64, 128, 256, 512, 1024)
PADDED_SIZES = (1, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way of running the texts.

    `size` is a budget in tokens where packed and a number of texts where padded. For the matrix products it is their rows: as
    many tokens would a network have that does nothing else.
    """

    layout: str
    size: int
    precision: str
    threads: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--padded", type=Path, required=True, help="the peers' graph of the same weights")
    parser.add_argument("--texts", default="reviews")
    parser.add_argument("--count", type=int, default=64, help="texts per configuration and round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sequences = token_sequences(options.bundle, read_texts(options.texts)[: options.count])
    tokens = sum(map(len, sequences))
    passes = dict(_passes(options.bundle, options.padded, sequences))
    tokens_of = {
        configuration: configuration.size if configuration.layout == GEMM else tokens for configuration in passes
    }
    seconds: dict[Configuration, list[float]] = {configuration: [] for configuration in passes}
    for runs in passes.values():
        runs[0]()  # the first run of a session allocates
    for _ in range(options.rounds):
        for configuration, runs in passes.items():
            started_at = time.perf_counter()
            for run in runs:
                run()
            seconds[configuration].append(time.perf_counter() - started_at)
    rows = [
        {**asdict(configuration), "tokens_per_s": tokens_of[configuration] / statistics.median(durations)}
        for configuration, durations in seconds.items()
    ]
    print(json.dumps({"texts": options.texts, "tokens": tokens, "rows": rows}))


def _passes(folder: Path, padded: Path, sequences: Sequence[TokenSequence]) -> Iterator[tuple[Configuration, Runs]]:
    """Yield each configuration with the runs that all sequences take."""
    bundle = load_bundle(folder)
    architecture = bundle.manifest.architecture
    for rows in GEMM_ROWS:
        yield (
            Configuration(GEMM, rows, "fp32", usable_cpus()),
            [_products(rows, architecture.layers, architecture.hidden_size)],
        )
    for threads in sorted({1, usable_cpus()}):
        for variant in bundle.manifest.variants:
            if variant.target == "cpu":
                yield from _packed(OrtRunner(bundle, variant, threads=threads), variant, threads, sequences)
        session = _session(padded, threads)
        for size in PADDED_SIZES:
            feeds = [_padded(sequences[i : i + size]) for i in range(0, len(sequences), size)]
            layout = "padded" if size > 1 else "peers' graph, one text per run"
            yield Configuration(layout, size, "fp32", threads), [partial(session.run, None, feed) for feed in feeds]


def _products(rows: int, layers: int, hidden: int) -> Callable[[], object]:
    """Return what multiplies as the dense layers of the network do, with NumPy's BLAS, and does nothing else."""
    random = np.random.default_rng(0)
    shapes = ((hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden))
    pairs = [(random.random((rows, k), np.float32), random.random((k, n), np.float32)) for k, n in shapes]

    def run() -> None:
        for _ in range(layers):
            for a, b in pairs:
                a @ b

    return run


def _packed(
    runner: OrtRunner, variant: Variant, threads: int, sequences: Sequence[TokenSequence]
) -> Iterator[tuple[Configuration, Runs]]:
    precision = variant.precision
    runs: Runs = [partial(runner.run, [sequence]) for sequence in sequences]
    yield Configuration("one text per run", 1, precision, threads), runs
    for budget in BUDGETS_TOKENS:
        runs = [partial(runner.run, batch) for batch in filled(sequences, budget)]
        yield Configuration("packed", budget, precision, threads), runs


def _session(graph: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _padded(batch: Sequence[TokenSequence]) -> dict[str, Any]:
    shape = len(batch), max(map(len, batch))
    feeds = {name: np.zeros(shape, np.int32) for name in ("input_ids", "token_type_ids", "attention_mask")}
    for row, sequence in enumerate(batch):
        feeds["input_ids"][row, : len(sequence)] = sequence.input_ids
        feeds["attention_mask"][row, : len(sequence)] = 1
    return feeds


if __name__ == "__main__":
    main()
