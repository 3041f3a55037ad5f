"""Golden answers are replayed before a model serves."""

from collections.abc import Sequence

import numpy as np
import pytest

from app.bundle.files import Bundle
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.golden import replay_golden
from app.errors import BundleError
from app.runtime.runner import OrtRunner


def test_an_intact_bundle_passes(bundle: Bundle, runner: OrtRunner) -> None:
    replay_golden(bundle, "cpu-fp32", runner.run)


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


def test_a_nan_answer_stops_the_start(bundle: Bundle, runner: OrtRunner) -> None:
    def broken(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        results = runner.run(batch)
        answer = results[0] if isinstance(results[0], np.ndarray) else results[0].scores
        answer[:] = np.nan
        return results

    with pytest.raises(BundleError, match="golden answers"):
        replay_golden(bundle, "cpu-fp32", broken)
