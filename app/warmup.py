"""Hold a freshly loaded model to the answers of its source checkpoint, and find out how fast it is.

Runs in the engine's thread before the model serves anyone. Works on token ids, so an engine needs no tokenizer.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import numpy as np

from app.bundle import Bundle, GoldenCase
from app.errors import BundleError, OutOfDeviceMemory
from app.messages import MaskScores, SequenceResult, TokenSequence

log = logging.getLogger(__name__)

Run = Callable[[Sequence[TokenSequence]], list[SequenceResult]]

# The same graph on another machine may use other kernels (AVX2 for AVX-512, another GPU), whose sums are rounded
# elsewhere: half a tolerance more than the export allowed itself.
TOLERANCE_FACTOR: Final = 1.5
GOOD_ENOUGH: Final = 0.95
FIRST_BUDGET_TOKENS: Final = 128
# A machine on which small batches take this long gains nothing from larger ones but longer waits.
MEASURE_FOR_S: Final = 0.6


@dataclass(frozen=True, slots=True)
class Speed:
    """What warm-up measured: the budget to batch up to and how long its tokens take."""

    budget_tokens: int
    seconds_per_token: float


def replay_golden(bundle: Bundle, variant_name: str, run: Run) -> None:
    """Run every golden case alone and all of them together.

    Raises:
        BundleError: an answer differs from the source checkpoint's by more than the variant's tolerance.
    """
    cases = bundle.golden().cases
    sequences = golden_sequences(bundle)
    [tolerance] = [
        variant.parity.tolerance * TOLERANCE_FACTOR
        for variant in bundle.manifest.variants
        if variant.name == variant_name
    ]
    for results in ([run([sequence])[0] for sequence in sequences], run(sequences)):
        worst = max(_difference(case, result) for case, result in zip(cases, results, strict=True))
        if not worst <= tolerance:
            raise BundleError(
                f"Variant {variant_name} of bundle {bundle.name} does not give the golden answers on this machine: they "
                f"differ by {worst:.2g}, at most {tolerance:.2g} is allowed. "
                "Export the model again, or serve another variant with BERT_PRECISION."
            )


def measure_speed(
    bundle: Bundle, run: Run, *, limit_tokens: int, clock: Callable[[], float] = time.perf_counter
) -> Speed:
    """Find the smallest batch budget that reaches 95% of the best rate.

    A larger batch is only worth its longer wait while it is faster by the token. Sizes double until that stops: on a CPU
    within a few hundred tokens, on a GPU much later.

    Args:
        bundle: Its golden cases, again and again, are the batches.
        run: Runs a batch.
        limit_tokens: The largest budget to try.
        clock: Seconds.
    """
    sequences = golden_sequences(bundle)
    seconds: dict[int, float] = {}
    budget = min(FIRST_BUDGET_TOKENS, limit_tokens)
    give_up_at = clock() + MEASURE_FOR_S
    while budget <= limit_tokens and clock() < give_up_at:
        batch = _batch_of(sequences, budget)
        tokens = sum(map(len, batch))
        try:
            duration_s = min(_timed(run, batch, clock) for _ in range(2))
        except OutOfDeviceMemory:
            if not seconds:
                raise
            log.warning("model %s: a batch of %d tokens does not fit into the device's memory", bundle.name, tokens)
            break
        seconds[budget] = duration_s / tokens
        sizes = list(seconds)
        has_levelled = len(sizes) > 2 and min(seconds.values()) > GOOD_ENOUGH * min(
            seconds[size] for size in sizes[:-2]
        )
        if has_levelled:
            break
        budget *= 2
    best = min(seconds.values())
    chosen = min(size for size, per_token in seconds.items() if GOOD_ENOUGH * per_token <= best)
    return Speed(chosen, seconds[chosen])


def run_every_shape(bundle: Bundle, run: Run, trim: Run, budget_tokens: int) -> None:
    """Run the largest batch that may come, then one sequence of every length and small batches.

    A device's memory grows to the largest batch at once, and stays; its libraries choose and load their kernels by
    shape. Each is run twice, as a session may have two places for its inputs.

    Args:
        bundle: Its first golden case, shortened or repeated, fills the batches.
        run: Runs a batch.
        trim: Runs a batch and then gives back the device memory that larger ones took.
        budget_tokens: Most tokens that share a batch.

    Raises:
        OutOfDeviceMemory: the largest batch does not fit.
    """
    longest = bundle.manifest.max_length
    [template, *_] = golden_sequences(bundle)
    trim([template])
    shapes = [[longest] * max(1, budget_tokens // longest)]
    lengths = [2**i for i in range(3, longest.bit_length()) if 2**i < longest]
    shapes += [
        [length] * count for length in [*lengths, longest] for count in (1, 2, 4, 8) if length * count <= budget_tokens
    ]
    for shape in shapes:
        batch = [_of_length(template, length) for length in shape]
        for _ in range(2):
            run(batch)


def _of_length(template: TokenSequence, length: int) -> TokenSequence:
    """Return a sequence of another one's tokens, again and again, with as many masks."""
    return TokenSequence(
        np.resize(template.input_ids, length),
        np.resize(template.token_type_ids, length),
        np.minimum(template.masks, length - 1),
        template.top_k,
    )


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


def golden_sequences(bundle: Bundle) -> list[TokenSequence]:
    """Return the golden inputs."""
    mask = bundle.manifest.special_tokens.mask
    return [_sequence(case, None if mask is None else mask.id) for case in bundle.golden().cases]


def _sequence(case: GoldenCase, mask_token_id: int | None) -> TokenSequence:
    input_ids = np.array(case.input_ids, np.int64)
    masks = np.flatnonzero(input_ids == mask_token_id) if case.masks is not None else np.empty(0, np.int64)
    top_k = len(case.masks[0].tokens) if case.masks else 0
    return TokenSequence(input_ids, np.array(case.token_type_ids, np.int64), masks, top_k)


def _difference(case: GoldenCase, result: SequenceResult) -> float:
    """Return the largest difference of logits or of an embedding, or of the best tokens' scores by rank."""
    if isinstance(result, MaskScores):
        expected = np.array([mask.scores for mask in case.masks or ()])
        return float(np.abs(result.scores - expected).max())
    [expected] = (np.array(one) for one in (case.logits, case.token_logits, case.embedding) if one is not None)
    return float(np.abs(result - expected).max())
