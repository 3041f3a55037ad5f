"""Compare a newly loaded model with the golden answers, which are those of its source checkpoint.

Runs in the engine's thread before the model serves requests. Works on token ids, so the engine needs no tokenizer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from app.bundle.files import Bundle
from app.bundle.manifest import GoldenCase
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence, to_sequence
from app.errors import BundleError, NotFinite

Run = Callable[[Sequence[TokenSequence]], list[SequenceResult]]
"""Runs a batch."""

# On another machine the same graph may use other kernels (AVX2 instead of AVX-512, another GPU), which round differently:
# half a tolerance more than at the export.
TOLERANCE_FACTOR: Final = 1.5


def replay_golden(bundle: Bundle, variant_name: str, run: Run) -> None:
    """Run every golden case alone, and all of them in one batch.

    Raises:
        BundleError: an answer differs from the source checkpoint's by more than the variant's tolerance.
    """
    cases = bundle.golden.cases
    sequences = golden_sequences(bundle)
    [tolerance] = [
        variant.parity.tolerance * TOLERANCE_FACTOR
        for variant in bundle.manifest.variants
        if variant.name == variant_name
    ]
    for batches in ([[sequence] for sequence in sequences], [sequences]):
        try:
            results = [result for batch in batches for result in run(batch)]
            worst = max(_difference(case, result) for case, result in zip(cases, results, strict=True))
        except NotFinite:
            worst = math.nan
        if not worst <= tolerance:
            raise BundleError(
                f"Variant {variant_name} of bundle {bundle.name} does not give the golden answers on this machine: they "
                f"differ by {worst:.2g}; {tolerance:.2g} is allowed. "
                "Export the model again, or serve another variant with BERT_PRECISION."
            )


def golden_sequences(bundle: Bundle) -> list[TokenSequence]:
    """Return the golden inputs."""
    mask = bundle.manifest.special_tokens.mask
    return [
        to_sequence(
            case.input_ids,
            case.token_type_ids,
            mask_id=mask.id if mask and case.masks is not None else None,
            top_k=len(case.masks[0].tokens) if case.masks else 0,
        )
        for case in bundle.golden.cases
    ]


def _difference(case: GoldenCase, result: SequenceResult) -> float:
    """Return the largest difference of logits or of an embedding, or of the best tokens' scores by rank."""
    if isinstance(result, MaskScores):
        expected = np.array([mask.scores for mask in case.masks or ()])
        return float(np.abs(result.scores - expected).max())
    [expected] = (np.array(one) for one in (case.logits, case.token_logits, case.embedding) if one is not None)
    return float(np.abs(result - expected).max())
