"""Compare a newly loaded model with the golden answers, which are those of its source checkpoint.

Runs in the engine's thread before the model serves requests. Works on token ids, so the engine needs no tokenizer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from app.bundle.files import Bundle
from app.bundle.manifest import GoldenCase, Variant
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence, to_sequence
from app.errors import BundleError, EngineLost, NotFinite, OutOfDeviceMemory, StartupError

Run = Callable[[Sequence[TokenSequence]], list[SequenceResult]]
"""Runs a batch."""

# On another machine the same graph may use other kernels (AVX2 instead of AVX-512, another GPU), which round differently:
# half a tolerance more than at the export.
TOLERANCE_FACTOR: Final = 1.5
BF16_TOLERANCE: Final = 0.04
"""Most that an answer in bf16 may differ, of the largest answer, if that is over 1. It keeps three binary digits less than fp16, whose
tolerance at the export is an eighth of it. BERT-base was off by 0.007 (of 0.66), an earlier demo checkpoint by 0.011 of the largest."""


def replay_golden(bundle: Bundle, variant_name: str, run: Run, *others: Run, alone: bool = True) -> None:
    """Run every golden case alone, then a text of the maximum length, then all cases in one batch.

    Args:
        bundle: The cases.
        variant_name: What runs them.
        run: Runs a batch.
        others: Run it with other numbers of threads: all cases in one batch, as none computes another number.
        alone: Whether each case runs alone, too, and the longest text. An earlier start on this machine has seen that otherwise.

    Raises:
        BundleError: an answer differs from the source checkpoint's by more than the variant's tolerance, or the graph cannot run
            the golden inputs, or none of the manifest's maximum length.
        EngineLost, OutOfDeviceMemory, StartupError: the device is at fault.
    """
    cases = bundle.golden.cases
    sequences = golden_sequences(bundle)
    [variant] = [variant for variant in bundle.manifest.servable if variant.name == variant_name]
    tolerance = _tolerance(bundle, variant) * TOLERANCE_FACTOR
    longest = of_length(sequences[0], bundle.manifest.max_length)
    one_by_one = [*([sequence] for sequence in sequences), [longest]]
    together = [(one, [sequences]) for one in (run, *others)]
    for runs, batches in [(run, one_by_one), *together] if alone else together:
        try:
            results = [result for batch in batches for result in runs(batch)]
            # That of the longest text, the last one, is compared with nothing.
            differences = [_difference(case, result) for case, result in zip(cases, results, strict=False)]
            worst = float(np.max(differences))  # NaN if one is
        except NotFinite:
            worst = math.nan
        except (EngineLost, OutOfDeviceMemory, StartupError):
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise BundleError(
                f"{bundle.path(variant.graph)} cannot run the inputs of {bundle.path(bundle.manifest.golden)}, or a text of "
                f"{bundle.manifest.max_length} tokens: {reason}. Export the model again."
            ) from error
        if not worst <= tolerance:
            raise BundleError(
                f"Variant {variant_name} of bundle {bundle.name} does not give the golden answers on this machine: they "
                f"differ by {worst:.2g}; {tolerance:.2g} is allowed ("
                f"{bundle.path(variant.graph)} against {bundle.path(bundle.manifest.golden)}). "
                "Export the model again, or serve another variant with BERT_PRECISION."
            )


def _tolerance(bundle: Bundle, variant: Variant) -> float:
    """Return how far a variant's answers may be from the golden ones: as far as the export allows, in bf16 by their size."""
    if variant.precision != "bf16":
        return variant.parity.tolerance
    return max(variant.parity.tolerance, BF16_TOLERANCE * max(1.0, *map(_largest, bundle.golden.cases)))


def _largest(case: GoldenCase) -> float:
    """Return the magnitude of a golden answer; scores of masks are under 1."""
    values = (case.logits, case.token_logits, case.embedding)
    return max((float(np.abs(np.array(one)).max(initial=0.0)) for one in values if one is not None), default=0.0)


def golden_sequences(bundle: Bundle) -> list[TokenSequence]:
    """Return the golden inputs.

    Raises:
        BundleError: they are damaged.
    """
    mask = bundle.manifest.special_tokens.mask
    try:
        return [
            to_sequence(
                case.input_ids,
                case.token_type_ids,
                mask_id=mask.id if mask and case.masks is not None else None,
                top_k=len(case.masks[0].tokens) if case.masks else 0,
            )
            for case in bundle.golden.cases
        ]
    except OverflowError as error:
        path = bundle.path(bundle.manifest.golden)
        raise BundleError(f"{path} has a token id that no vocabulary has. Export the model again.") from error


def of_length(template: TokenSequence, length: int) -> TokenSequence:
    """Return a sequence of this length: another one's tokens, repeated, with as many masks."""
    return TokenSequence(
        np.resize(template.input_ids, length),
        np.resize(template.token_type_ids, length),
        np.minimum(template.masks, length - 1),
        template.top_k,
    )


def _difference(case: GoldenCase, result: SequenceResult) -> float:
    """Return the largest difference of logits or of an embedding, or of the best tokens' scores by rank.

    It is infinite if one has what the other lacks.
    """
    if isinstance(result, MaskScores):
        expected: object = None if case.masks is None else [mask.scores for mask in case.masks]
        result = result.scores
    else:
        told = [one for one in (case.logits, case.token_logits, case.embedding) if one is not None]
        expected = told[0] if len(told) == 1 else None
    if expected is None:
        return math.inf
    wanted = np.array(expected)  # of rows that are not of one length, an error
    return float(np.abs(result - wanted).max()) if result.size and result.shape == wanted.shape else math.inf
