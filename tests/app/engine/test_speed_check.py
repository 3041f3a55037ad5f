"""What was remembered of a model's speed is compared while no request is there."""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence

import pytest

from app.bundle.files import Bundle, load_bundle
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, Speed
from app.engine.speed_check import ALIKE, RUNS, is_alike, slowness
from app.engine.tuning import measure_speed, timed_batch
from app.runtime.runner import OrtRunner
from tests.app.engine.observed import Observed
from tests.app.loaded import loaded as loaded_as
from tests.conftest import BundleOf

WITHIN_S = 20.0


@pytest.fixture(scope="module")
def bundle(bundle_of: BundleOf) -> Bundle:
    return load_bundle(bundle_of("bert-single-label"))


def test_the_shortest_of_some_runs_counts() -> None:
    """The others met what else the machine does."""
    durations = iter([0.9, 0.5, 0.2, *[0.8] * (RUNS - 3)])

    async def run() -> float:
        return next(durations)

    assert asyncio.run(slowness(run, 0.1, lambda: True)) == 2.0
    assert next(durations, None) is None


def test_nothing_runs_while_a_request_is_there() -> None:
    looks = iter([False, False, True] * RUNS)
    happened: list[str] = []

    async def run() -> float:
        happened.append("run")
        return 1.0

    def is_idle() -> bool:
        happened.append("idle" if next(looks) else "busy")
        return happened[-1] == "idle"

    assert asyncio.run(slowness(run, 1.0, is_idle, look_every_s=0)) == 1.0
    assert happened == ["busy", "busy", "idle", "run"] * RUNS


@pytest.mark.parametrize(
    ("times", "alike"),
    [(1.0, True), (0.99 * ALIKE, True), (1.01 / ALIKE, True), (1.01 * ALIKE, False), (0.99 / ALIKE, False), (math.inf, False)],
)  # fmt: skip
def test_what_is_within_a_factor_is_alike(times: float, alike: bool) -> None:
    assert is_alike(times) == alike


@pytest.mark.parametrize("limit_tokens", [1, 40, 4096])
def test_a_batch_is_compared_with_its_own_time(bundle: Bundle, limit_tokens: int) -> None:
    """Also if no batch of the budget was measured."""
    now = [0.0]

    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        now[0] += 1e-3 + 1e-5 * sum(map(len, batch))
        return []

    speed = measure_speed(bundle, run, limit_tokens=limit_tokens, clock=lambda: now[0])
    for budget in (speed.budget_tokens, 100_000):
        batch, expected_s = timed_batch(bundle, Speed(budget, speed.seconds_per_token, speed.seconds_by_tokens))
        assert expected_s == pytest.approx(1e-3 + 1e-5 * sum(map(len, batch)))


class Device:
    """Runs a model, and tells in which threads, until it breaks."""

    provider, variant_name, threads, launches_ahead = "CPUExecutionProvider", "cpu-fp32", [1], False

    def __init__(self, bundle: Bundle) -> None:
        self._runner = OrtRunner(bundle, bundle.manifest.variants[0], threads=[1])
        self.is_broken = False
        self.ran: list[tuple[str, list[int]]] = []

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]:
        if self.is_broken:
            raise ValueError("broken")
        thread, _, _ = threading.current_thread().name.partition("_")
        self.ran.append((thread, [len(one) for one in batch]))
        return self._runner.run(batch, threads)

    trim = run

    def keep_threads(self, threads: Sequence[int]) -> None:
        assert [*threads] == self.threads

    def launch(self, batch: Sequence[TokenSequence], threads: int = 0) -> Callable[[], list[SequenceResult]]:
        return lambda: self.run(batch, threads)


async def _load(engine: LocalEngine, bundle: Bundle, runner: Device) -> Loaded:
    return await engine.load(
        bundle,
        lambda _: runner,
        Observed(),
        budget_tokens=None,
        admission=Admission(60, 60),
        previous=loaded_as(64, threads=[1], seconds_per_token=1e-4),
    )


def test_an_engine_runs_one_batch_beside_its_requests(bundle: Bundle) -> None:
    async def main() -> None:
        engine, runner = LocalEngine(), Device(bundle)
        loaded = await _load(engine, bundle, runner)
        loop, found = asyncio.get_running_loop(), asyncio.Event()
        times: list[float] = []

        def take(slowness: float) -> None:
            times.append(slowness)
            loop.call_soon_threadsafe(found.set)

        before = len(runner.ran)
        engine.check_speed(bundle, loaded.speed, take, after_s=0)
        async with asyncio.timeout(WITHIN_S):
            await found.wait()
        await engine.close()
        batch, _ = timed_batch(bundle, loaded.speed)
        assert runner.ran[before:] == [("loader", [len(one) for one in batch])] * RUNS
        assert 0 < times[0] < math.inf

    asyncio.run(main())


def test_a_model_that_is_released_is_not_compared(bundle: Bundle) -> None:
    async def main() -> list[float]:
        engine, found = LocalEngine(), list[float]()
        loaded = await _load(engine, bundle, Device(bundle))
        engine.check_speed(bundle, loaded.speed, found.append, after_s=0)
        await engine.release(bundle.key)
        await _load(engine, bundle, Device(bundle))  # in the thread of the comparison, which would be over
        await engine.close()
        return found

    assert asyncio.run(main()) == []


def test_a_comparison_that_fails_is_logged(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """The model's requests show what is wrong with it."""
    caplog.set_level("INFO")

    async def main() -> list[float]:
        engine, runner, found = LocalEngine(), Device(bundle), list[float]()
        loaded = await _load(engine, bundle, runner)
        runner.is_broken = True
        engine.check_speed(bundle, loaded.speed, found.append, after_s=0)
        async with asyncio.timeout(WITHIN_S):
            while "is not checked: broken" not in caplog.text:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.001)
        await engine.close()
        return found

    assert asyncio.run(main()) == []
