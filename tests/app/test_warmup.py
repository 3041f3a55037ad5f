"""Golden answers and the search for the batch budget, with runners and clocks of the tests' own."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from app.bundle import Bundle, load_bundle
from app.errors import BundleError, OutOfDeviceMemory
from app.messages import SequenceResult, TokenSequence
from app.ort_runner import OrtRunner
from app.packing import pack
from app.warmup import (
    FIRST_BUDGET_TOKENS,
    SEARCH_DEVICE_FOR_S,
    SEARCH_FOR_S,
    golden_sequences,
    measure_speed,
    open_with_few_threads,
    replay_golden,
    run_every_shape,
)
from model_export.package import ExportOptions, export
from tests.support import ROOT


@pytest.fixture(scope="module", params=["bert-single-label", "roberta-fill-mask"])
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
    assert len(device.sizes) == 3
    assert device.now > SEARCH_FOR_S


def test_what_else_the_machine_does_for_a_while_does_not_choose_the_budget(bundle: Bundle) -> None:
    slowed = iter([1.0, 1.0, 1.3, 1.3])  # the search's runs of the second size; they are left alone later

    def seconds(tokens: int) -> float:
        return (1e-4 + tokens * 1e-6) * next(slowed, 1.0)

    device = Device(seconds)
    quiet = Device(lambda tokens: 1e-4 + tokens * 1e-6)
    chosen = measure_speed(bundle, device.run, limit_tokens=256, clock=device.clock).budget_tokens
    assert chosen == measure_speed(bundle, quiet.run, limit_tokens=256, clock=quiet.clock).budget_tokens == 256


def test_a_device_that_loads_its_kernels_first_is_given_time(bundle: Bundle) -> None:
    """Each size takes 0.2 s when it is new, and is twice as fast by the token as the one before."""
    seen: set[int] = set()

    def seconds(tokens: int) -> float:
        is_new = tokens not in seen
        seen.add(tokens)
        return 0.2 * is_new + 1e-3

    hasty, patient = Device(seconds), Device(seconds)
    chosen = measure_speed(bundle, hasty.run, limit_tokens=16384, clock=hasty.clock).budget_tokens
    seen.clear()
    better = measure_speed(
        bundle, patient.run, limit_tokens=16384, search_for_s=SEARCH_DEVICE_FOR_S, clock=patient.clock
    ).budget_tokens
    assert (chosen, better) == (256, 16384)


def test_batches_are_made_of_golden_cases(bundle: Bundle) -> None:
    device = Device(lambda tokens: tokens * 1e-5)
    measure_speed(bundle, device.run, limit_tokens=256, clock=device.clock)
    longest = max(map(len, golden_sequences(bundle)))
    assert all(size > budget - longest for size, budget in zip(device.sizes[:4:2], (128, 256), strict=True))


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
def test_the_largest_batches_run_first_then_every_shape(bundle: Bundle, runner: OrtRunner, budget: int) -> None:
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
    assert shapes[2] == shapes[3]
    assert max(map(sum, shapes)) <= max(budget, longest)
    assert {8, longest} <= {shape[0] for shape in shapes if len(shape) == 1} or budget < longest


@pytest.mark.parametrize("budget", [1, 2, 40, 65, 100, 130, 1000, 3000])
def test_no_batch_is_larger_than_both_of_the_first(bundle: Bundle, budget: int) -> None:
    """In tokens, in sequences or in the padded batch, whatever the batcher makes of a budget."""
    longest = bundle.manifest.max_length
    shapes: list[list[int]] = []

    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        shapes.append([len(sequence) for sequence in batch])
        return []

    run_every_shape(bundle, run, lambda _: [], budget)

    def sizes(lengths: list[int]) -> tuple[int, ...]:
        feeds = pack(*np.zeros((2, sum(lengths)), np.int64), np.array(lengths), target="cuda")
        return tuple(feeds[name].size for name in ("input_ids", "cu_seqlens", "token_offset"))

    first = [sizes(shape) for shape in (shapes[0], shapes[2])]
    largest = [max(one) for one in zip(*first, strict=True)]
    for long in range(2, longest + 1):
        for other in {2, 3, 7, long} & set(range(2, long + 1)):
            tokens, sequences, padded = sizes([long] + [other] * ((budget - long) // other))
            # A budget that its sequences do not fill leaves room for less than one, of the longest or the shortest.
            assert tokens <= largest[0] + longest
            assert sequences <= largest[1] + longest // 2
            assert padded <= largest[2] + 2 * longest


def test_a_widest_batch_that_does_not_fit_is_told(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []

    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        if len(batch) > 1000:
            raise OutOfDeviceMemory("Failed to allocate memory")
        ran.append(len(batch))
        return []

    run_every_shape(bundle, run, lambda _: [], 4096)
    longest = bundle.manifest.max_length
    [told] = caplog.records
    assert f"a text of {longest} tokens and {(4096 - longest) // 2} of the shortest" in told.getMessage()
    assert ran[-1] == 8, "the small shapes run all the same"


def test_a_fullest_batch_that_does_not_fit_stops_the_start(bundle: Bundle) -> None:
    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        if len(batch) > 1:
            raise OutOfDeviceMemory("Failed to allocate memory")
        return []

    with pytest.raises(OutOfDeviceMemory):
        run_every_shape(bundle, run, lambda _: [], 4096)


class Timed:
    """A runner whose runs take as long as its number of threads says."""

    def __init__(self, threads: int | None, took_s: float, clock: "Clock") -> None:
        self.threads = threads
        self.took_s = took_s
        self.clock = clock

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        self.clock.now += self.took_s * len(batch)
        return []


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("took_ms", "chosen", "tried"),
    [
        ({8: 0.3, 4: 0.3, 2: 0.35, 1: 0.4}, 1, [8, 4, 2, 1]),
        ({8: 0.3, 4: 0.3, 2: 0.5}, 4, [8, 4, 2]),
        ({8: 1.0, 4: 1.9}, 8, [8, 4]),
        ({8: 6.0}, 8, [8]),  # not even tried
        ({8: 0.001, 4: 0.001, 2: 6.0}, 4, [8, 4, 2]),
    ],
)
def test_as_few_threads_as_answer_about_as_fast(
    bundle: Bundle, took_ms: dict[int, float], chosen: int, tried: list[int]
) -> None:
    clock = Clock()
    opened: list[int] = []

    def open_runner(threads: int) -> Timed:
        opened.append(threads)
        return Timed(threads, took_ms[threads] / 1e3, clock)

    assert open_with_few_threads(bundle, open_runner, cpus=8, clock=clock).threads == chosen
    assert opened == tried


def test_threads_of_a_gpu_are_not_searched(bundle: Bundle) -> None:
    opened: list[int] = []

    def open_runner(threads: int) -> Timed:
        opened.append(threads)
        return Timed(None, 1e-4, Clock())

    assert open_with_few_threads(bundle, open_runner, cpus=8, clock=Clock()).threads is None
    assert opened == [8]
