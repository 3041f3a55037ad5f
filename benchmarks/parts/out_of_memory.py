"""Whether a batch that does not fit into the device's memory is reported, and the runner and the server still work after it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np

from app.bundle.manifest import Precision, Variant
from app.bundle.sequences import SequenceResult, TokenSequence
from app.errors import OutOfDeviceMemory
from benchmarks.batches import random_sequence
from benchmarks.bench import Bench
from benchmarks.machine import NotRun
from benchmarks.parts.parity import difference, real_sequences
from benchmarks.report import Row
from benchmarks.servers import Running, our_server, serving

ROOM_BYTES: Final = 512 * 2**20
"""Of the limit, beside the weights: enough for the normal batch."""
FIRST_TOKENS: Final = 16384
MOST_TOKENS: Final = 1 << 22
NORMAL_TEXTS: Final = 16
SERVED_BUDGET_TOKENS: Final = 16384
MASKS: Final = 62
"""Of a text of 64 tokens: a full batch of such has a score of the whole vocabulary for nearly every token."""
FAILED: Final = "the halves run instead"
"""What the server's log says of a batch that failed."""
ANSWERED_WITHIN_S: Final = 120.0


class Runner(Protocol):
    """What of a runner is tried."""

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]: ...


def out_of_memory(bench: Bench, *, model: str = "base", served_model: str = "demo-masked") -> Iterator[Row]:
    """Run larger and larger batches under a small limit, and a normal one before and after; then the same by HTTP.

    Args:
        bench: What is measured on.
        model: What runs.
        served_model: What is served: it has a vocabulary to score, so that many masks take much memory.

    Raises:
        NotRun: this is not a GPU.
    """
    if bench.device != "cuda":
        raise NotRun("needs CUDA: a CPU session has no limit of memory")
    bundle = bench.bundle(model)
    length = min(128, bundle.manifest.max_length)
    large = [random_sequence(np.random.default_rng(0), bundle, length)]
    normal = real_sequences(bundle, NORMAL_TEXTS)
    for precision in bench.precisions:
        [variant] = [one for one in bundle.manifest.variants if one.name == f"cuda-{precision}"]
        limit = _weights_bytes(variant) + ROOM_BYTES
        runner = bench.runner(model, precision, gpu_memory_bytes=limit)
        yield {
            "kind": "larger and larger batches",
            "model": model,
            "precision": precision,
            "limit_bytes": limit,
            **run_short_of_memory(runner, normal, large[0], tolerance=variant.parity.tolerance),
        }
        del runner  # and its memory, before the next one
    yield _served(bench, served_model, bench.precisions[0])


def _weights_bytes(variant: Variant) -> int:
    return sum(file.size_bytes for file in (variant.graph, variant.external_data) if file is not None)


def _served(bench: Bench, model: str, precision: Precision) -> Row:
    bundle = bench.bundle(model)
    [variant] = [one for one in bundle.manifest.variants if one.name == f"{bench.device}-{precision}"]
    special = bundle.manifest.special_tokens.mask
    assert special is not None
    mask = special.text
    texts = SERVED_BUDGET_TOKENS // (MASKS + 2)
    # Logits and their softmax are in memory at once, each of this size: there is room for one of both.
    scores_bytes = texts * MASKS * bundle.manifest.architecture.vocab_size * 4
    limit_mib = -(-(_weights_bytes(variant) + max(ROOM_BYTES, scores_bytes)) // 2**20)
    system = our_server(
        bundle.folder.parent,
        f"{bench.device}-{precision}",
        "short of memory",
        *("--device", bench.device, "--precision", precision, "--gpu-memory-mib", str(limit_mib)),
        *("--batch-tokens", str(SERVED_BUDGET_TOKENS), "--request-timeout-s", str(ANSWERED_WITHIN_S)),
    )
    with serving(replace(system, path="/v1/fill-mask", probe=f"A {mask}.")) as running:
        return {
            "kind": "a request that does not fit into one batch",
            "model": model,
            "precision": precision,
            "limit_bytes": limit_mib * 2**20,
            **ask_short_of_memory(
                running,
                normal=[f"The capital of France is {mask}.", f"She opened the {mask}."],
                large=[" ".join([mask] * MASKS)] * texts,
            ),
        }


def ask_short_of_memory(running: Running, *, normal: Sequence[str], large: Sequence[str]) -> Row:
    """Return what a server does with a request whose texts do not fit into one batch's memory, though each alone does.

    Args:
        running: The server.
        normal: The inputs of a request that fits.
        large: The inputs of one that does not.
    """
    before = _ask(running, normal)
    status, predictions = _ask(running, large)
    same_after = _ask(running, normal) == before
    # After one more answer, as the server's log is written beside them.
    failed = running.log.read_text(errors="replace").count(FAILED)
    row: Row = {
        "texts": len(large),
        "status": status,
        "answered": len(predictions),
        "failed_batches": failed,
        "same_after": same_after,
    }
    return {**row, "passed": before[0] == 200 and same_after and len(predictions) == len(large) and failed > 0}


def _ask(running: Running, texts: Sequence[str]) -> tuple[int, list[Any]]:
    """Return the status, and what was predicted for each text."""
    document = {"inputs": texts, "parameters": {"top_k": 1}}
    status, content = running.ask(running.system.path, document, ANSWERED_WITHIN_S)
    return status, json.loads(content).get("predictions", [])


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
