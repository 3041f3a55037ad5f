"""The batcher of a device that has its next batch packed while it runs one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.slots import Slots
from app.errors import EngineLost, OutOfDeviceMemory
from tests.app.engine.backlog import backlog_s
from tests.app.engine.observed import Observed

BUDGET = 16


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Runner:
    """Is given batches while it runs others, and answers them in order, one when it is told to."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.given: list[tuple[list[int], asyncio.Future[None]]] = []
        self.batches: list[list[int]] = []

    async def run(self, batch: list[int], _: int) -> list[int]:
        done = asyncio.get_running_loop().create_future()
        self.given.append((batch, done))
        self.batches.append(batch)
        assert len(self.given) <= 2, "more than one batch was taken ahead"
        await done
        return [-payload for payload in batch]

    def finish(self, *, took_s: float = 1.0, error: Exception | None = None) -> None:
        self.clock.now += took_s
        _, done = self.given.pop(0)
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


@dataclass
class Bench:
    clock: Clock
    runner: Runner
    observed: Observed
    batcher: Batcher[int, int]
    other: Batcher[int, int]
    """Of another model on the same device."""
    work: "asyncio.Task[None]"

    def submit(self, *tokens: int, first: int = 1) -> "asyncio.Task[list[int]]":
        return asyncio.ensure_future(self.batcher.infer(range(first, first + len(tokens)), tokens))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def run_out(self) -> None:
        await self.settle()
        while self.runner.given:
            self.runner.finish()
            await self.settle()


def with_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        clock, observed, slots = Clock(), Observed(), Slots()
        runner = Runner(clock)
        slots.launch_ahead()
        batcher, other = (
            Batcher[int, int](
                runner.run,
                budget_tokens=BUDGET,
                admission=Admission(100, 100),
                slots=slots,
                observer=observed,
                launches_ahead=True,
                clock=clock,
            )
            for _ in range(2)
        )
        work = [asyncio.ensure_future(one.work()) for one in (batcher, other)]
        try:
            async with asyncio.timeout(20):
                await test(Bench(clock, runner, observed, batcher, other, work[0]))
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    asyncio.run(run())


def test_a_full_batch_is_launched_while_one_runs() -> None:
    async def test(bench: Bench) -> None:
        request = bench.submit(*[8] * 6)
        await bench.settle()
        assert bench.runner.batches == [[1, 2], [3, 4]]
        bench.runner.finish()
        await bench.settle()
        assert bench.runner.batches == [[1, 2], [3, 4], [5, 6]]
        await bench.run_out()
        assert await request == [-1, -2, -3, -4, -5, -6]

    with_bench(test)


def test_less_than_a_full_batch_waits_until_the_device_is_free() -> None:
    async def test(bench: Bench) -> None:
        requests = [bench.submit(16), bench.submit(5, first=2)]
        await bench.settle()
        assert bench.runner.batches == [[1]]
        requests.append(bench.submit(5, first=3))
        await bench.settle()
        assert bench.runner.batches == [[1]]
        bench.runner.finish()
        await bench.settle()
        assert bench.runner.batches == [[1], [2, 3]]
        await bench.run_out()
        assert [await request for request in requests] == [[-1], [-2], [-3]]

    with_bench(test)


def test_the_request_that_fills_the_batch_launches_it() -> None:
    async def test(bench: Bench) -> None:
        requests = [bench.submit(16), bench.submit(8, first=2)]
        await bench.settle()
        requests.append(bench.submit(8, first=3))
        await bench.settle()
        assert bench.runner.batches == [[1], [2, 3]]
        await bench.run_out()
        assert [await request for request in requests] == [[-1], [-2], [-3]]

    with_bench(test)


def test_no_model_holds_a_slot_for_an_empty_queue() -> None:
    async def test(bench: Bench) -> None:
        await bench.settle()
        one = bench.submit(4)
        await bench.settle()
        many = asyncio.ensure_future(bench.other.infer([2, 3], [16, 16]))
        await bench.settle()
        assert bench.runner.batches == [[1], [2]]
        await bench.run_out()
        assert (await one, await many) == ([-1], [-2, -3])

    with_bench(test)


def test_time_is_counted_once() -> None:
    async def test(bench: Bench) -> None:
        request = bench.submit(*[8] * 6)
        await bench.settle()
        assert backlog_s(bench.batcher) == 0  # nothing is known of the speed yet
        bench.runner.finish(took_s=2)
        await bench.settle()
        # Two batches of 16 tokens are with the runner, at 2 s each.
        assert backlog_s(bench.batcher) == pytest.approx(4)
        bench.runner.finish(took_s=2)
        await bench.settle()
        bench.runner.finish(took_s=2)
        await request
        assert [(ran.started_at, ran.duration_s) for ran in bench.observed.batches] == [(0, 2), (2, 2), (4, 2)]
        assert backlog_s(bench.batcher) == 0

    with_bench(test)


def test_a_failed_batch_does_not_affect_the_one_behind_it() -> None:
    async def test(bench: Bench) -> None:
        request = bench.submit(*[8] * 4)
        await bench.settle()
        bench.runner.finish(error=ValueError("poison"))
        await bench.run_out()
        assert await request == [-1, -2, -3, -4]
        assert bench.runner.batches == [[1, 2], [3, 4], [1], [2]]

    with_bench(test)


def test_halves_run_behind_the_batch_launched_ahead() -> None:
    async def test(bench: Bench) -> None:
        request = bench.submit(*[8] * 4)
        await bench.settle()
        bench.runner.finish(took_s=1, error=OutOfDeviceMemory("Failed to allocate memory"))
        await bench.settle()
        assert bench.runner.batches == [[1, 2], [3, 4], [1]]
        for took_s in (2, 3, 4):  # the one behind, then the halves
            bench.runner.finish(took_s=took_s)
            await bench.settle()
        assert await request == [-1, -2, -3, -4]
        assert [(ran.started_at, ran.duration_s) for ran in bench.observed.batches] == [(1, 2), (3, 3), (6, 4)]

    with_bench(test)


def test_a_lost_engine_fails_both_batches_and_the_queue() -> None:
    async def test(bench: Bench) -> None:
        requests = [bench.submit(16), bench.submit(16, first=2), bench.submit(16, first=3)]
        await bench.settle()
        assert bench.runner.batches == [[1], [2]]
        bench.runner.finish(error=EngineLost("lost"))
        for request in requests:
            with pytest.raises(EngineLost):
                await request
        with pytest.raises(EngineLost):
            await bench.work

    with_bench(test)


def test_withdrawn_work_is_not_launched_ahead() -> None:
    async def test(bench: Bench) -> None:
        first, second, third = bench.submit(16), bench.submit(8, first=2), bench.submit(8, first=3)
        second.cancel()
        await bench.settle()
        bench.runner.finish()
        await bench.run_out()
        assert await first == [-1]
        assert await third == [-3]
        assert bench.batcher.statistics.tokens == 0

    with_bench(test)
