"""Golden answers and the search for the batch budget, with runners and clocks of the tests' own."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from app.bundle import Bundle, load_bundle
from app.errors import BundleError, OutOfDeviceMemory
from app.messages import SequenceResult, TokenSequence
from app.ort_runner import OrtRunner
from app.warmup import (
    FIRST_BUDGET_TOKENS,
    MEASURE_FOR_S,
    golden_sequences,
    measure_speed,
    replay_golden,
    run_every_shape,
)
from model_export.package import ExportOptions, export
from tests.support import ROOT


@pytest.fixture(scope="module", params=["bert-single-label", "roberta-fill-mask", "bert-entities", "bert-embed"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / request.param
    export(
        ExportOptions(str(ROOT / "tests/fixtures/checkpoints" / request.param), folder, variants=["cpu-fp32"]), print
    )
    return load_bundle(folder)


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> OrtRunner:
    return OrtRunner(bundle, bundle.manifest.variants[0], threads=1)


def test_a_good_bundle_gives_its_golden_answers(bundle: Bundle, runner: OrtRunner) -> None:
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


def test_an_answer_that_is_no_number_stops_the_start(bundle: Bundle, runner: OrtRunner) -> None:
    def broken(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        results = runner.run(batch)
        answer = results[0] if isinstance(results[0], np.ndarray) else results[0].scores
        answer[:] = np.nan
        return results

    with pytest.raises(BundleError, match="golden answers"):
        replay_golden(bundle, "cpu-fp32", broken)


class Device:
    """Takes as long for a batch as a function of its tokens says."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.sizes: list[int] = []

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        self.sizes.append(sum(map(len, batch)))
        self.now += self.seconds(self.sizes[-1])
        return []

    def clock(self) -> float:
        return self.now


def test_a_device_that_gains_nothing_gets_the_smallest_budget(bundle: Bundle) -> None:
    device = Device(lambda tokens: tokens * 1e-5)
    speed = measure_speed(bundle, device.run, limit_tokens=65536, clock=device.clock)
    assert speed.budget_tokens == FIRST_BUDGET_TOKENS
    assert speed.seconds_per_token == pytest.approx(1e-5)
    assert max(device.sizes) <= 4 * FIRST_BUDGET_TOKENS, "it stops when larger batches stop being faster"


def test_the_smallest_budget_near_the_best_rate_is_taken(bundle: Bundle) -> None:
    # A fixed cost of a millisecond: 95% of the best rate needs batches that take 19 ms.
    device = Device(lambda tokens: 1e-3 + tokens * 1e-5)
    speed = measure_speed(bundle, device.run, limit_tokens=8192, clock=device.clock)
    assert speed.budget_tokens == 2048


def test_the_limit_is_kept(bundle: Bundle) -> None:
    device = Device(lambda _: 1e-3)
    assert measure_speed(bundle, device.run, limit_tokens=1000, clock=device.clock).budget_tokens == 512
    assert max(device.sizes) <= 1000


def test_a_slow_machine_is_not_kept_waiting(bundle: Bundle) -> None:
    device = Device(lambda tokens: tokens * 0.1)
    assert (
        measure_speed(bundle, device.run, limit_tokens=65536, clock=device.clock).budget_tokens == FIRST_BUDGET_TOKENS
    )
    assert len(device.sizes) == 2
    assert device.now > MEASURE_FOR_S


def test_batches_are_made_of_golden_cases(bundle: Bundle) -> None:
    device = Device(lambda tokens: tokens * 1e-5)
    measure_speed(bundle, device.run, limit_tokens=256, clock=device.clock)
    longest = max(map(len, golden_sequences(bundle)))
    assert all(size > budget - longest for size, budget in zip(device.sizes[::2], (128, 256), strict=True))


@pytest.mark.parametrize("limit", [1, 60])
def test_a_limit_below_the_first_size_is_measured_too(bundle: Bundle, limit: int) -> None:
    device = Device(lambda tokens: tokens * 1e-5)
    assert measure_speed(bundle, device.run, limit_tokens=limit, clock=device.clock).budget_tokens == limit


def test_a_batch_that_does_not_fit_ends_the_search(bundle: Bundle) -> None:
    def seconds(tokens: int) -> float:
        if tokens > 1024:
            raise OutOfDeviceMemory("Failed to allocate memory")
        return 1e-3

    device = Device(seconds)
    assert measure_speed(bundle, device.run, limit_tokens=65536, clock=device.clock).budget_tokens == 1024


def test_memory_that_is_too_small_for_anything_stops_the_start(bundle: Bundle) -> None:
    def seconds(tokens: int) -> float:
        raise OutOfDeviceMemory("Failed to allocate memory")

    with pytest.raises(OutOfDeviceMemory):
        measure_speed(bundle, Device(seconds).run, limit_tokens=65536)


@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_the_largest_batch_runs_first_then_every_shape(bundle: Bundle, runner: OrtRunner, budget: int) -> None:
    shapes: list[list[int]] = []
    trimmed: list[int] = []

    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        shapes.append([len(sequence) for sequence in batch])
        return runner.run(batch)

    def trim(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        trimmed.append(len(shapes))
        return runner.trim(batch)

    run_every_shape(bundle, run, trim, budget)
    longest = bundle.manifest.max_length
    assert trimmed == [0], "what the search took is given back before the largest batch takes its own"
    assert shapes[0] == shapes[1] == [longest] * max(1, budget // longest)
    assert max(map(sum, shapes)) == sum(shapes[0])
    assert {8, longest} <= {shape[0] for shape in shapes if len(shape) == 1} or budget < longest
