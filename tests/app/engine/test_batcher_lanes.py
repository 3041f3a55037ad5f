"""The batcher of a model that runs several batches at once, each on its share of the cores."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.messages import BatchRan
from app.engine.slots import Share, Slots
from app.errors import EngineLost

BUDGET = 16
LANES = 2


class Lanes:
    """Is given batches, and answers whichever it is told to; the clock goes on meanwhile."""

    def __init__(self) -> None:
        self.now = 0.0
        self.given: dict[int, asyncio.Future[None]] = {}
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self.ran_batches: list[BatchRan] = []

    async def run(self, batch: list[int], threads: int) -> list[int]:
        done = asyncio.get_running_loop().create_future()
        self.given[len(self.batches)] = done
        self.batches.append(batch)
        self.threads.append(threads)
        assert len(self.given) <= LANES
        await done
        return [-payload for payload in batch]

    async def finish(self, number: int, *, at: float, error: Exception | None = None) -> None:
        self.now = at
        done = self.given.pop(number)
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
        await settle()

    def started(self, queued_s: Sequence[float]) -> None: ...

    def ran(self, batch: BatchRan) -> None:
        self.ran_batches.append(batch)

    def cancelled(self) -> None: ...


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class CountedSlots(Slots):
    asked = 0

    @asynccontextmanager
    async def take(self, share: Share, is_full: Callable[[], bool]) -> AsyncIterator[int]:
        self.asked += 1
        async with super().take(share, is_full) as taken:
            yield taken


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


def batcher_of(lanes: Lanes, slots: Slots, threads: Sequence[int] = (1,)) -> Batcher[int, int]:
    return Batcher(
        lanes.run,
        budget_tokens=BUDGET,
        admission=Admission(100, 100),
        slots=slots,
        observer=lanes,
        threads=threads,
        clock=lambda: lanes.now,
    )


def submit(batcher: Batcher[int, int], *tokens: int, first: int = 1) -> "asyncio.Task[list[int]]":
    return asyncio.ensure_future(batcher.infer(range(first, first + len(tokens)), tokens))


def test_a_free_lane_runs_a_request_at_once(lanes: Lanes) -> None:
    async def test() -> None:
        batcher = batcher_of(lanes, Slots(LANES))
        work = asyncio.ensure_future(batcher.work())
        one = submit(batcher, 4)
        await settle()
        other = submit(batcher, 4, first=2)  # not full, and not waited for either
        await settle()
        assert lanes.batches == [[1], [2]]
        third = submit(batcher, 4, 4, first=3)
        await settle()
        assert lanes.batches == [[1], [2]]
        await lanes.finish(1, at=1)
        assert await other == [-2]
        assert lanes.batches == [[1], [2], [3, 4]]
        await lanes.finish(2, at=2)
        await lanes.finish(0, at=3)
        assert (await one, await third) == ([-1], [-3, -4])
        work.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_request_wakes_one_lane(lanes: Lanes) -> None:
    async def test() -> None:
        slots = CountedSlots(LANES)
        batcher = batcher_of(lanes, slots)
        work = asyncio.ensure_future(batcher.work())
        await settle()
        one = submit(batcher, 4)
        await settle()
        assert slots.asked == 1
        other = submit(batcher, 16, 16, first=2)
        await settle()
        assert lanes.batches == [[1], [2]]
        await lanes.finish(0, at=1)
        assert lanes.batches == [[1], [2], [3]]
        await lanes.finish(1, at=2)
        await lanes.finish(2, at=3)
        assert (await one, await other) == ([-1], [-2, -3])
        assert slots.asked == 3
        work.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_each_batch_has_its_duration_and_lanes_share_the_estimate(lanes: Lanes) -> None:
    async def test() -> None:
        batcher = batcher_of(lanes, Slots(LANES))
        batcher.estimate.expect([(1, 1.0)])
        work = asyncio.ensure_future(batcher.work())
        request = submit(batcher, *[16] * 4)
        await settle()
        assert batcher.statistics.running_s == pytest.approx(32 * 1.0 / LANES)
        assert batcher.statistics.queued_s == pytest.approx(32 * 1.0 / LANES)
        await lanes.finish(0, at=16)
        await lanes.finish(1, at=16)
        await lanes.finish(2, at=32)
        await lanes.finish(3, at=32)
        assert len(await request) == 4
        assert [(ran.started_at, ran.duration_s) for ran in lanes.ran_batches] == [(0, 16), (0, 16), (16, 16), (16, 16)]
        submit(batcher, 16)
        await settle()
        # 64 tokens took 32 s: half a second for each, though each batch of 16 took 16.
        assert batcher.statistics.running_s == pytest.approx(16 * 0.5)
        work.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_model_that_needs_all_cores_waits_for_both_lanes(lanes: Lanes) -> None:
    async def test() -> None:
        slots = Slots(LANES)
        batcher = batcher_of(lanes, slots)
        whole: list[list[int]] = []

        async def run(batch: list[int], _: int) -> list[int]:
            assert slots.batches == 1
            whole.append(batch)
            return batch

        other = Batcher(
            run,
            budget_tokens=BUDGET,
            admission=Admission(100, 100),
            slots=slots,
            observer=lanes,
            clock=lambda: lanes.now,
        )
        tasks = [asyncio.ensure_future(one.work()) for one in (batcher, other)]
        request = submit(batcher, *[16] * 4)
        await settle()
        large = submit(other, 16)
        await settle()
        await lanes.finish(0, at=1)
        assert not whole
        await lanes.finish(1, at=2)
        assert whole == [[1]]
        assert await large == [1]
        assert lanes.batches == [[1], [2], [3], [4]]
        await lanes.finish(2, at=3)
        await lanes.finish(3, at=4)
        assert len(await request) == 4
        for task in tasks:
            task.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_lost_engine_fails_the_batches_of_all_lanes(lanes: Lanes) -> None:
    async def test() -> None:
        batcher = batcher_of(lanes, Slots(LANES))
        work = asyncio.ensure_future(batcher.work())
        requests = [submit(batcher, 16, first=i) for i in range(1, 4)]
        await settle()
        await lanes.finish(0, at=1, error=EngineLost("lost"))
        for request in requests:
            with pytest.raises(EngineLost):
                await request
        with pytest.raises(EngineLost):
            await work

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_poisoned_batch_does_not_affect_the_other_lane(lanes: Lanes) -> None:
    async def test() -> None:
        batcher = batcher_of(lanes, Slots(LANES))
        work = asyncio.ensure_future(batcher.work())
        bad, good = submit(batcher, 16), submit(batcher, 16, first=2)
        await settle()
        await lanes.finish(0, at=1, error=ValueError("poison"))
        await lanes.finish(1, at=2)
        assert await good == [-2]
        await lanes.finish(2, at=3)
        assert await bad == [-1]
        assert lanes.batches == [[1], [2], [1]]
        work.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_an_idle_device_gives_a_text_all_cores_and_under_load_each_batch_has_one(lanes: Lanes) -> None:
    async def test() -> None:
        batcher = batcher_of(lanes, Slots(LANES), threads=(1, 2))
        work = asyncio.ensure_future(batcher.work())
        alone = submit(batcher, 4)
        await settle()
        crowd = submit(batcher, *[16] * 3, first=2)
        await settle()
        assert lanes.threads == [2]
        await lanes.finish(0, at=1)
        assert lanes.threads == [2, 1, 1]
        await lanes.finish(1, at=2)
        assert lanes.threads == [2, 1, 1, 1]  # not all cores: the other batch still runs
        await lanes.finish(2, at=3)
        await lanes.finish(3, at=4)
        last = submit(batcher, 4)
        await settle()
        assert lanes.threads == [2, 1, 1, 1, 2]
        await lanes.finish(4, at=5)
        await asyncio.gather(alone, crowd, last)
        assert [ran.share for ran in lanes.ran_batches] == [1.0, 0.5, 0.5, 0.5, 1.0]
        work.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_batch_gets_as_many_cores_as_are_free_for_each_that_waits(lanes: Lanes) -> None:
    async def test() -> None:
        batcher = batcher_of(lanes, Slots(8), threads=(1, 2, 4, 8))
        for waiting, free, expected in (
            (4, 8, 8),
            (32, 8, 4),
            (48, 8, 2),
            (80, 8, 1),
            (200, 8, 1),
            (4, 7, 4),
            (4, 1, 1),
        ):
            job = batcher.submit([1], [waiting])
            assert batcher.share(free, others=0) == expected
            batcher.withdraw(job)
        batcher.submit([1], [4])
        assert batcher.share(8, others=1) == 4  # another model's batch waits behind this one
        assert batcher.share(0, others=0) == 0

    asyncio.run(asyncio.wait_for(test(), 20))


def test_the_estimate_does_not_change_with_the_threads_of_a_batch(lanes: Lanes) -> None:
    """A batch that has all cores takes half as long: the same texts under load are not expected to."""

    async def test() -> None:
        batcher = batcher_of(lanes, Slots(LANES), threads=(1, 2))
        batcher.estimate.expect([(BUDGET, 2.0)])
        work = asyncio.ensure_future(batcher.work())
        for i in range(20):
            one = submit(batcher, BUDGET)
            await settle()
            await lanes.finish(i, at=lanes.now + 1.0)
            await one
        assert set(lanes.threads) == {2}
        assert batcher.estimate.seconds(4 * BUDGET) == pytest.approx(4.0)
        work.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_callers_that_come_again_at_once_have_a_core_each(lanes: Lanes) -> None:
    """One text waits at most, but it has met the other: with all cores for each in turn, two callers would wait for each other."""

    async def test() -> None:
        batcher = batcher_of(lanes, Slots(LANES), threads=(1, 2))
        work = asyncio.ensure_future(batcher.work())
        first = submit(batcher, 4)
        await settle()
        second = submit(batcher, 4)
        await settle()
        for number in range(4):
            await lanes.finish(number, at=number + 1)
            assert (await first)[0] < 0
            first, second = second, submit(batcher, 4)
            await settle()
        assert lanes.threads == [2, 1, 1, 1, 1, 1]
        for number in (4, 5):
            await lanes.finish(number, at=number + 1)
        await asyncio.gather(first, second)
        last = submit(batcher, 4)
        await settle()
        assert lanes.threads[-1] == 2
        await lanes.finish(6, at=7)
        await last
        work.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))
