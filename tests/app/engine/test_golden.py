"""Golden answers are replayed before a model serves."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest

from app.bundle.files import Bundle, load_bundle
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.golden import replay_golden
from app.errors import BundleError
from app.runtime.runner import OrtRunner
from tests.conftest import BundleOf


def test_an_intact_bundle_passes(bundle: Bundle, runner: OrtRunner) -> None:
    replay_golden(bundle, "cpu-fp32", runner.run)


@pytest.mark.parametrize(("off_by", "passes"), [(0.05, True), (0.07, False)])
def test_bf16_may_be_off_by_what_it_rounds(bundle_of: BundleOf, off_by: float, passes: bool) -> None:
    bundle = load_bundle(bundle_of("bert-regression"))
    [variant] = bundle.manifest.variants
    runner = OrtRunner(bundle, variant, threads=[1])

    def off(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        results = [one for one in runner.run(batch) if isinstance(one, np.ndarray)]
        largest = max(np.abs(case.logits).max() for case in bundle.golden.cases if case.logits)
        return [one + np.float32(off_by * max(1, largest)) for one in results]

    with nullcontext() if passes else pytest.raises(BundleError, match="golden answers"):
        replay_golden(bundle, "cpu-bf16", off)


@pytest.mark.parametrize("when", ["alone", "together"])
def test_one_wrong_answer_stops_the_start(bundle: Bundle, runner: OrtRunner, when: str) -> None:
    def wrong(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        results = runner.run(batch)
        if (len(batch) == 1) == (when == "alone"):
            answer = results[-1] if isinstance(results[-1], np.ndarray) else results[-1].scores
            answer += 0.01
        return results

    with pytest.raises(BundleError, match="golden answers"):
        replay_golden(bundle, "cpu-fp32", wrong)


def test_wrong_answers_with_other_threads_stop_the_start(bundle: Bundle, runner: OrtRunner) -> None:
    def wrong(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        return runner.run(batch)[::-1]

    with pytest.raises(BundleError, match="golden answers"):
        replay_golden(bundle, "cpu-fp32", runner.run, runner.run, wrong)


def test_a_nan_answer_stops_the_start(bundle: Bundle, runner: OrtRunner) -> None:
    def broken(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        results = runner.run(batch)
        answer = results[0] if isinstance(results[0], np.ndarray) else results[0].scores
        answer[:] = np.nan
        return results

    with pytest.raises(BundleError, match="golden answers"):
        replay_golden(bundle, "cpu-fp32", broken)
