"""Whose turn it is on a slots, and who may be packed ahead."""

import asyncio
from collections.abc import Awaitable, Callable

from app.engine.slots import Slots


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Turn:
    """A batch that waits for the slots, holds it, and lets it go when it is told to."""

    def __init__(self, slots: Slots, *, is_full: bool = False, share: int = 1) -> None:
        self.is_full = is_full
        self._share = share
        self.began = False
        self._done = asyncio.Event()
        self.end: Callable[[], None] = self._done.set
        self.task = asyncio.create_task(self._take(slots))

    def _fits(self, free: int, _: int) -> int:
        return self._share if self._share <= free else 0

    async def _take(self, slots: Slots) -> None:
        async with slots.take(self._fits, lambda: self.is_full):
            self.began = True
            await self._done.wait()


def run(test: Callable[[Slots], Awaitable[None]], *, ahead: bool) -> None:
    async def body() -> None:
        slots = Slots()
        if ahead:
            slots.launch_ahead()
            slots.launch_ahead()  # of another model: nothing changes
        await asyncio.wait_for(test(slots), 10)

    asyncio.run(body())


def test_one_batch_at_a_time_in_order() -> None:
    async def test(slots: Slots) -> None:
        turns = [Turn(slots, is_full=True) for _ in range(3)]
        for i in range(3):
            await settle()
            assert [turn.began for turn in turns] == [j <= i for j in range(3)]
            turns[i].end()
        await settle()
        assert slots.batches == 0

    run(test, ahead=False)


def test_one_full_batch_is_launched_ahead_and_no_third() -> None:
    async def test(slots: Slots) -> None:
        turns = [Turn(slots, is_full=True) for _ in range(3)]
        await settle()
        assert [turn.began for turn in turns] == [True, True, False]
        assert slots.batches == 2
        turns[0].end()
        await settle()
        assert turns[2].began
        turns[1].end()
        turns[2].end()
        await settle()
        assert slots.batches == 0

    run(test, ahead=True)


def test_a_batch_that_is_not_full_waits_for_more_requests() -> None:
    async def test(slots: Slots) -> None:
        first, second = Turn(slots), Turn(slots)
        await settle()
        assert (first.began, second.began) == (True, False)
        second.is_full = True
        slots.look_again()
        await settle()
        assert second.began
        for turn in (first, second):
            turn.end()

    run(test, ahead=True)


def test_an_idle_device_waits_for_no_further_requests() -> None:
    async def test(slots: Slots) -> None:
        first, second = Turn(slots), Turn(slots)
        await settle()
        first.end()
        await settle()
        assert second.began
        second.end()

    run(test, ahead=True)


def test_nobody_overtakes() -> None:
    async def test(slots: Slots) -> None:
        running, waiting = Turn(slots), Turn(slots)
        await settle()
        late = Turn(slots, is_full=True)
        slots.look_again()
        await settle()
        assert (waiting.began, late.began) == (False, False)
        running.end()
        await settle()
        assert (waiting.began, late.began) == (True, True)
        waiting.end()
        late.end()

    run(test, ahead=True)


def test_a_cancelled_wait_holds_up_no_other() -> None:
    async def test(slots: Slots) -> None:
        running, waiting = Turn(slots), Turn(slots)
        await settle()
        waiting.task.cancel()
        await settle()
        last = Turn(slots)
        running.end()
        await settle()
        assert last.began
        last.end()
        await settle()
        assert slots.batches == 0

    run(test, ahead=True)


def with_slots(size: int, test: Callable[[Slots], Awaitable[None]]) -> None:
    async def body() -> None:
        await asyncio.wait_for(test(Slots(size)), 10)

    asyncio.run(body())


def test_as_many_batches_run_as_there_are_slots() -> None:
    async def test(slots: Slots) -> None:
        turns = [Turn(slots, share=share) for share in (1, 2, 1, 1)]
        await settle()
        assert [turn.began for turn in turns] == [True, True, True, False]
        turns[0].end()
        await settle()
        assert turns[3].began
        for turn in turns[1:]:
            turn.end()
        await settle()
        assert slots.batches == 0

    with_slots(4, test)


def test_a_small_share_does_not_overtake_a_large_one() -> None:
    async def test(slots: Slots) -> None:
        turns = [Turn(slots, share=share) for share in (1, 2, 1)]
        await settle()
        assert [turn.began for turn in turns] == [True, False, False]
        turns[0].end()
        await settle()
        assert [turn.began for turn in turns] == [True, True, False]
        turns[1].end()
        await settle()
        assert turns[2].began
        turns[2].end()

    with_slots(2, test)


def test_a_small_share_runs_when_the_large_one_before_it_is_cancelled() -> None:
    async def test(slots: Slots) -> None:
        running, large, small = (Turn(slots, share=share) for share in (1, 2, 1))
        await settle()
        assert not small.began
        large.task.cancel()
        await settle()
        assert small.began
        running.end()
        small.end()
        await settle()
        assert slots.batches == 0
        whole = Turn(slots, share=2)
        await settle()
        assert whole.began  # nothing of the room was lost
        whole.end()

    with_slots(2, test)


def test_a_slot_that_is_cancelled_as_it_is_granted_goes_to_the_next() -> None:
    async def test(slots: Slots) -> None:
        running, granted, behind = Turn(slots), Turn(slots), Turn(slots)
        await settle()
        running.end()
        await asyncio.sleep(0)
        assert not granted.began
        granted.task.cancel()  # the slots is its own, and it does not know yet
        await settle()
        assert behind.began
        behind.end()

    with_slots(1, test)
