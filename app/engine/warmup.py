"""Make a device take its memory and load its kernels before the model serves. Runs in the engine's thread."""

import logging
from collections.abc import Sequence
from typing import Final

from app.bundle.files import Bundle
from app.bundle.sequences import TokenSequence
from app.engine.golden import Run, golden_sequences, of_length
from app.errors import OutOfDeviceMemory

log = logging.getLogger(__name__)

SHORTEST_TOKENS: Final = 2
"""Of a sequence: the special tokens around an empty text."""


def run_every_shape(bundle: Bundle, run: Run, trim: Run, budget_tokens: int) -> None:
    """Run the two batches that take the most memory, then one sequence of every length and small batches.

    The arena grows to what the largest batch needs, and stays; CUDA's libraries choose and load their kernels by shape.
    Each batch runs twice, as a session may have two places for its inputs.

    The memory of a graph's tensors grows with the batch's tokens, with its sequences, or with its sequences times the
    longest one (`token_offset`, and one number for each of those and each head within attention). So no batch takes more
    than the fullest one of longest sequences and the widest one: one longest sequence and as many of the shortest as fit.
    Masks are the exception: a batch with more masks than sequences takes more for the vocabulary's scores.

    Args:
        bundle: Its first golden case, shortened or repeated, fills the batches.
        run: Runs a batch.
        trim: Runs a batch and then gives back the device memory that larger ones took.
        budget_tokens: Most tokens that share a batch.

    Raises:
        OutOfDeviceMemory: the fullest batch does not fit.
    """
    longest = bundle.manifest.max_length
    [template, *_] = golden_sequences(bundle)
    trim([template])
    _run_twice(run, template, [longest] * max(1, budget_tokens // longest))
    long = min(longest, budget_tokens // 2 + 1)  # beside a longer one too few others would fit
    widest = [long] + [SHORTEST_TOKENS] * ((budget_tokens - long) // SHORTEST_TOKENS)
    try:
        _run_twice(run, template, widest)
    except OutOfDeviceMemory:
        log.warning(
            "model %s: a text of %d tokens and %d of the shortest in one batch do not fit into the device's memory. Should "
            "they come together, they run in halves; a smaller BERT_BATCH_TOKENS than %d avoids it",
            bundle.name,
            long,
            len(widest) - 1,
            budget_tokens,
        )
    lengths = [2**i for i in range(3, longest.bit_length()) if 2**i < longest]
    for length in [*lengths, longest]:
        for count in (1, 2, 4, 8):
            if length * count <= budget_tokens:
                _run_twice(run, template, [length] * count)


def _run_twice(run: Run, template: TokenSequence, shape: Sequence[int]) -> None:
    batch = [of_length(template, length) for length in shape]
    for _ in range(2):
        run(batch)
