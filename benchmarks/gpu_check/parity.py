"""Whether the answers are right: the source checkpoint's, and the same alone and in company."""

from collections.abc import Iterator, Sequence

import numpy as np

from app.bundle import Bundle, GoldenCase
from app.messages import MaskScores, SequenceResult, TokenSequence
from app.warmup import TOLERANCE_FACTOR, golden_sequences
from benchmarks.common import Row
from benchmarks.gpu_check.bench import Bench
from benchmarks.inside.batches import token_sequences
from benchmarks.texts import read_texts

_TOP_K = 5


def parity(bench: Bench) -> Iterator[Row]:
    """Compare every model in every precision; differences are of logits, embeddings, or masked tokens' scores by rank."""
    for model in bench.form.parity_models:
        bundle = bench.bundle(model)
        cases = [_answer(case) for case in bundle.golden().cases]
        golden = golden_sequences(bundle)
        texts = real_sequences(bundle, bench.form.parity_texts)
        for precision in bench.precisions:
            runner = bench.runner(model, precision)
            [variant] = [one for one in bundle.manifest.variants if one.name == runner.variant_name]
            tolerance = variant.parity.tolerance * TOLERANCE_FACTOR
            alone = [runner.run([sequence])[0] for sequence in texts]
            row: Row = {
                "model": model,
                "variant": variant.name,
                "golden_alone": difference(cases, [runner.run([sequence])[0] for sequence in golden]),
                "golden_packed": difference(cases, runner.run(golden)),
                "packed_against_alone": difference(alone, runner.run(texts)),
                "texts": len(texts),
                "tolerance": tolerance,
            }
            worst = max(row["golden_alone"], row["golden_packed"], row["packed_against_alone"])
            yield {**row, "passed": bool(worst <= tolerance)}


def real_sequences(bundle: Bundle, count: int) -> list[TokenSequence]:
    """Return texts of the mix, each with a word masked if that is the bundle's task."""
    mask = bundle.manifest.special_tokens.mask
    found = []
    for sequence in token_sequences(bundle.folder, read_texts("mix")[:count]):
        ids = sequence.input_ids[: bundle.manifest.max_length].copy()
        masks = sequence.masks
        if bundle.manifest.task == "fill-mask" and mask is not None:
            masks = np.array([len(ids) // 2])
            ids[masks] = mask.id
        found.append(TokenSequence(ids, sequence.token_type_ids[: len(ids)], masks, _TOP_K))
    return found


def difference(expected: Sequence[SequenceResult], measured: Sequence[SequenceResult]) -> float:
    """Return the largest difference of any two answers; infinite where one is not a number."""
    worst = np.max([np.abs(_values(one) - _values(other)).max() for one, other in zip(expected, measured, strict=True)])
    return float(worst) if np.isfinite(worst) else float("inf")


def _values(result: SequenceResult) -> np.ndarray:
    return result.scores if isinstance(result, MaskScores) else result


def _answer(case: GoldenCase) -> SequenceResult:
    if case.masks is None:
        return np.array(case.embedding if case.logits is None else case.logits, np.float32)
    return MaskScores(
        np.array([mask.tokens for mask in case.masks]), np.array([mask.scores for mask in case.masks], np.float32)
    )
