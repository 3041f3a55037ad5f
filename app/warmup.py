"""Hold a freshly loaded model to the answers of its source checkpoint before it serves anyone.

Runs in the engine's thread. Works on token ids, so an engine needs no tokenizer.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from app.bundle import Bundle, Golden, GoldenCase
from app.errors import BundleError
from app.messages import MaskScores, SequenceResult, TokenSequence

Run = Callable[[Sequence[TokenSequence]], list[SequenceResult]]

# The same graph on another machine may use other kernels (AVX2 for AVX-512, another GPU), whose sums are rounded
# elsewhere: half a tolerance more than the export allowed itself.
TOLERANCE_FACTOR: Final = 1.5


def replay_golden(bundle: Bundle, variant_name: str, run: Run) -> float:
    """Run every golden case alone and all of them together; return the seconds per token of the second.

    Raises:
        BundleError: an answer differs from the source checkpoint's by more than the variant's tolerance.
    """
    golden = bundle.golden()
    mask = bundle.manifest.special_tokens.mask
    sequences = [_sequence(case, None if mask is None else mask.id) for case in golden.cases]
    [tolerance] = [
        variant.parity.tolerance * TOLERANCE_FACTOR
        for variant in bundle.manifest.variants
        if variant.name == variant_name
    ]
    for sequence in sequences:
        run([sequence])
    started_at = time.perf_counter()
    results = run(sequences)
    duration_s = time.perf_counter() - started_at
    worst = max(_difference(case, result) for case, result in zip(golden.cases, results, strict=True))
    if not worst <= tolerance:
        raise BundleError(
            f"Variant {variant_name} of bundle {bundle.name} does not give the golden answers on this machine: they "
            f"differ by {worst:.2g}, at most {tolerance:.2g} is allowed. "
            "Export the model again, or serve another variant with BERT_PRECISION."
        )
    return duration_s / _tokens(golden)


def _sequence(case: GoldenCase, mask_token_id: int | None) -> TokenSequence:
    input_ids = np.array(case.input_ids, np.int64)
    masks = np.flatnonzero(input_ids == mask_token_id) if case.masks is not None else np.empty(0, np.int64)
    top_k = len(case.masks[0].tokens) if case.masks else 0
    return TokenSequence(input_ids, np.array(case.token_type_ids, np.int64), masks, top_k)


def _difference(case: GoldenCase, result: SequenceResult) -> float:
    """Return the largest difference of logits, or of the best tokens' scores by rank."""
    if isinstance(result, MaskScores):
        expected = np.array([mask.scores for mask in case.masks or ()])
        return float(np.abs(result.scores - expected).max())
    return float(np.abs(result - np.array(case.logits)).max())


def _tokens(golden: Golden) -> int:
    return sum(len(case.input_ids) for case in golden.cases)
