"""Whether a batch that does not fit into the device's memory is told, and leaves the runner as it was."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np

from app.errors import OutOfDeviceMemory
from app.messages import SequenceResult, TokenSequence
from benchmarks.common import Row
from benchmarks.gpu_check.bench import Bench, NotRun
from benchmarks.gpu_check.offline import random_sequence
from benchmarks.gpu_check.parity import difference, real_sequences

ROOM_BYTES: Final = 512 * 2**20
"""Of the limit, beside the weights: enough for the normal batch."""
FIRST_TOKENS: Final = 16384
MOST_TOKENS: Final = 1 << 22
NORMAL_TEXTS: Final = 16


class Runner(Protocol):
    """What of a runner is tried."""

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]: ...


def out_of_memory(bench: Bench) -> Iterator[Row]:
    """Run larger and larger batches under a small limit, and a normal one before and after.

    Raises:
        NotRun: this is not a GPU.
    """
    if bench.device != "cuda":
        raise NotRun("needs CUDA: a CPU session has no limit of memory")
    bundle = bench.bundle(bench.form.model)
    length = min(128, bundle.manifest.max_length)
    large = [random_sequence(np.random.default_rng(0), bundle, length)]
    normal = real_sequences(bundle, NORMAL_TEXTS)
    for precision in bench.precisions:
        [variant] = [one for one in bundle.manifest.variants if one.name == f"cuda-{precision}"]
        files = [file for file in (variant.graph, variant.external_data) if file is not None]
        limit = sum(file.size_bytes for file in files) + ROOM_BYTES
        runner = bench.runner(bench.form.model, precision, gpu_memory_bytes=limit)
        yield {
            "model": bench.form.model,
            "precision": precision,
            "limit_bytes": limit,
            **run_short_of_memory(runner, normal, large[0], tolerance=variant.parity.tolerance),
        }


def run_short_of_memory(
    runner: Runner, normal: Sequence[TokenSequence], large: TokenSequence, *, tolerance: float
) -> Row:
    """Return at how many tokens the memory was not enough, and how far the normal batch's answers are off after that.

    Args:
        runner: Has little memory.
        normal: A batch that fits.
        large: A sequence that batches are filled with, twice as many each time.
        tolerance: How far they may be off.
    """
    before = runner.run(normal)
    tokens = FIRST_TOKENS
    message = None
    while message is None and tokens <= MOST_TOKENS:
        try:
            runner.run([large] * (tokens // len(large)))
        except OutOfDeviceMemory as error:
            message = str(error)
        else:
            tokens *= 2
    if message is None:
        return {"largest_tokens": MOST_TOKENS, "message": "everything fitted", "passed": False}
    off = difference(before, runner.run(normal))
    return {"failed_at_tokens": tokens, "message": message[-200:], "answers_off": off, "passed": off <= tolerance}
