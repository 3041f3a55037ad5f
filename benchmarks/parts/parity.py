"""Whether the answers are right: compared with the source checkpoint, alone with in a batch, and fp16 scores with fp32's."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from app.bundle.files import Bundle
from app.bundle.manifest import GoldenCase
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.engine.golden import TOLERANCE_FACTOR, golden_sequences
from benchmarks.batches import token_sequences
from benchmarks.bench import Bench
from benchmarks.parts.scores import compare, most_difference
from benchmarks.report import Row
from benchmarks.texts import read_texts

_TOP_K: Final = 5
_PRECISE: Final = ("fp32", "fp16")


def parity(bench: Bench, *, models: Sequence[str], texts: int = 64) -> Iterator[Row]:
    """Compare every model in every precision; differences are of logits, embeddings, or masked tokens' scores by rank.

    Scores are compared with the source checkpoint's for the golden cases, and with those in fp32 on the same device for the
    texts. No node whose work grows with the tokens may run on the CPU unless the session does.
    """
    for model in models:
        bundle = bench.bundle(model)
        cases, golden = [_answer(case) for case in bundle.golden.cases], golden_sequences(bundle)
        sequences = real_sequences(bundle, texts)
        exact: list[SequenceResult] = []
        for precision in sorted(bench.precisions, key=_PRECISE.index):  # fp32 is what fp16 is compared with
            runner = bench.runner(model, precision)
            tolerance = runner.variant.parity.tolerance * TOLERANCE_FACTOR
            golden_alone, golden_packed = [runner.run([one])[0] for one in golden], runner.run(golden)
            alone, packed = [runner.run([one])[0] for one in sequences], runner.run(sequences)
            exact = exact or alone
            differences = {
                "golden_alone": difference(cases, golden_alone),
                "golden_packed": difference(cases, golden_packed),
                "packed_against_alone": difference(alone, packed),
            }
            scores = compare(
                bundle.manifest, [*cases, *cases, *exact, *exact], [*golden_alone, *golden_packed, *alone, *packed]
            )
            most = most_difference(bundle.manifest, tolerance)
            is_right = max(differences.values()) <= tolerance and scores.is_good(most) and not runner.nodes_on_cpu
            yield {
                "model": model,
                "variant": runner.variant_name,
                **differences,
                "texts": texts,
                "tolerance": tolerance,
                "score_difference": scores.difference,
                "score_tolerance": most,
                "answers": scores.answers,
                "flips": scores.flips,
                "nodes_on_cpu": list(runner.nodes_on_cpu),
                "passed": is_right,
            }


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
        [answer] = (one for one in (case.logits, case.token_logits, case.embedding) if one is not None)
        return np.array(answer, np.float32)
    return MaskScores(
        np.array([mask.tokens for mask in case.masks]), np.array([mask.scores for mask in case.masks], np.float32)
    )
