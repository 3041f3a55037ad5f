"""The search for threads and for the batch budget, with runners and clocks of the tests' own."""

import math
from collections.abc import Callable, Sequence

import pytest

from app.bundle.files import Bundle
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.golden import golden_sequences
from app.engine.tuning import (
    FIRST_BUDGET_TOKENS,
    SEARCH_FOR_S,
    measure_speed,
    useful_threads,
)
from app.errors import OutOfDeviceMemory


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


def test_times_begin_with_one_short_sequence(bundle: Bundle) -> None:
    device = Device(lambda tokens: 1e-3 + tokens * 1e-5)
    by_tokens = measure_speed(bundle, device.run, limit_tokens=1024, clock=device.clock).seconds_by_tokens
    assert by_tokens[0][0] == min(map(len, golden_sequences(bundle)))
    assert len(by_tokens) == 5
    assert all(seconds == pytest.approx(device.seconds(tokens)) for tokens, seconds in by_tokens)


def test_the_limit_is_kept(bundle: Bundle) -> None:
    device = Device(lambda _: 1e-3)
    assert measure_speed(bundle, device.run, limit_tokens=1000, clock=device.clock).budget_tokens == 512
    assert max(device.sizes) <= 1000


def test_a_slow_machine_ends_the_search_early(bundle: Bundle) -> None:
    device = Device(lambda tokens: tokens * 0.1)
    assert (
        measure_speed(bundle, device.run, limit_tokens=65536, clock=device.clock).budget_tokens == FIRST_BUDGET_TOKENS
    )
    assert len(device.sizes) == 4
    assert device.now > SEARCH_FOR_S


def test_a_passing_load_of_the_machine_does_not_choose_the_budget(bundle: Bundle) -> None:
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
    better = measure_speed(bundle, patient.run, limit_tokens=16384, on_gpu=True, clock=patient.clock).budget_tokens
    assert (chosen, better) == (256, 16384)


@pytest.mark.parametrize(("on_gpu", "budget"), [(True, 5632), (False, 16384)])
def test_a_gpu_gets_whole_waves_of_tiles(bundle: Bundle, on_gpu: bool, budget: int) -> None:
    """As on an H100: 132 multiprocessors each take a tile of 128 tokens and 256 of 768 columns, and wait for the last of them."""

    def seconds(tokens: int) -> float:
        tiles = math.ceil(tokens / 128) * 768 / 256
        return math.ceil(tiles / 132) * 1e-4

    device = Device(seconds)
    speed = measure_speed(bundle, device.run, limit_tokens=65536, on_gpu=on_gpu, clock=device.clock)
    assert speed.budget_tokens == budget
    assert max(device.sizes) <= 65536


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


def test_a_batch_that_fits_only_once_is_not_chosen(bundle: Bundle) -> None:
    """A second one finds no memory for its inputs, beside those of the first."""

    def seconds(tokens: int) -> float:
        if tokens > 512 and device.sizes.count(tokens) > 1:
            raise OutOfDeviceMemory("Failed to allocate memory")
        return 1e-3

    device = Device(seconds)
    assert measure_speed(bundle, device.run, limit_tokens=65536, clock=device.clock).budget_tokens == 512


def test_memory_that_is_too_small_for_anything_stops_the_start(bundle: Bundle) -> None:
    def seconds(tokens: int) -> float:
        raise OutOfDeviceMemory("Failed to allocate memory")

    with pytest.raises(OutOfDeviceMemory):
        measure_speed(bundle, Device(seconds).run, limit_tokens=65536)


class Timed:
    """A runner whose runs take as long as their number of threads says."""

    provider = variant_name = ""
    launches_ahead = False

    def __init__(self, took_s: dict[int, float]) -> None:
        self.threads = sorted(took_s)
        self._took_s = took_s
        self._now = 0.0
        self.runs = 0

    def clock(self) -> float:
        return self._now

    def keep_threads(self, threads: Sequence[int]) -> None: ...

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]:
        self.runs += 1
        self._now += self._took_s[threads] * len(batch)
        return []

    trim = run

    def launch(self, batch: Sequence[TokenSequence], threads: int = 0) -> Callable[[], list[SequenceResult]]:
        return lambda: self.run(batch, threads)


@pytest.mark.parametrize(
    ("took_ms", "useful"),
    [
        ({1: 0.4, 2: 0.3, 4: 0.25, 8: 0.25}, [1, 2, 4]),
        ({1: 0.26, 2: 0.25}, [1]),  # two would hold a core for nothing
        ({1: 0.5, 2: 0.5, 4: 0.3, 8: 1.0}, [1, 2, 4]),
        ({1: 12.0, 2: 14.0, 4: 20.0, 8: 30.0}, [1, 2, 4]),  # measured on a busy machine: 3 ms are worth a thread on any
    ],
)
def test_no_more_threads_than_answer_a_text_sooner(
    bundle: Bundle, took_ms: dict[int, float], useful: list[int]
) -> None:
    runner = Timed({count: one_ms / 1e3 for count, one_ms in took_ms.items()})
    assert useful_threads(bundle, runner, runner.clock) == useful


def test_threads_of_a_long_run_are_not_measured(bundle: Bundle) -> None:
    runner = Timed({1: 1.0, 2: 0.6})
    assert useful_threads(bundle, runner, runner.clock) == [1, 2]
    assert runner.runs == 1
