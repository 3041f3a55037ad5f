"""Large work runs as memory and threads allow, and ends with its caller and its time."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from app.engine.callers import Caller
from app.errors import DeadlineExceeded, Overloaded, ValidationFailed
from app.http.large_work import MEMORY, SECONDS_A_WEIGHT, WRITERS, LargeWork
from app.work import go_on

LONG_S = 60.0
HUGE = MEMORY  # bytes of text, which need more than there is


def with_work(
    test: Callable[[LargeWork], Awaitable[None]], *, timeout_s: float = LONG_S, max_queue_s: float = LONG_S
) -> None:
    async def main() -> None:
        large = LargeWork(timeout_s, max_queue_s, threads=4)
        try:
            async with asyncio.timeout(30):
                await test(large)
        finally:
            large.close()

    asyncio.run(main())


class Endless:
    """Work that ends only if it is told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()

    def __call__(self) -> None:
        self.began.set()
        try:
            while True:
                go_on()
                time.sleep(0.001)
        finally:
            self.ended.set()


def test_work_of_a_caller_that_leaves_ends_and_others_get_its_memory() -> None:
    async def test(large: LargeWork) -> None:
        endless = Endless()
        left = asyncio.create_task(large.tokenize(endless, HUGE))
        waiting = asyncio.create_task(large.tokenize(lambda: "done", HUGE))
        await asyncio.to_thread(endless.began.wait)
        assert not waiting.done()
        left.cancel()
        assert await waiting == "done"
        assert endless.ended.is_set()

    with_work(test)


def test_small_work_runs_beside_other_work() -> None:
    async def test(large: LargeWork) -> None:
        endless = Endless()
        other = asyncio.create_task(large.tokenize(endless, 100_000))
        await asyncio.to_thread(endless.began.wait)
        assert await large.tokenize(lambda: "done", 100_000) == "done"
        other.cancel()

    with_work(test)


def test_who_waits_for_too_long_is_told_to_retry() -> None:
    async def test(large: LargeWork) -> None:
        endless = Endless()
        running = asyncio.create_task(large.tokenize(endless, HUGE))
        await asyncio.to_thread(endless.began.wait)
        with pytest.raises(Overloaded, match=r"waited for 0\.05 s") as refused:
            await large.tokenize(lambda: "done", HUGE)
        assert refused.value.retry_after_s >= 1
        running.cancel()
        await asyncio.to_thread(endless.ended.wait)
        assert await large.tokenize(lambda: "done", HUGE) == "done"

    with_work(test, max_queue_s=0.05)


def test_work_ends_at_its_deadline() -> None:
    async def test(large: LargeWork) -> None:
        for run in (large.read, large.write, large.tokenize):
            endless = Endless()
            with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
                await run(endless, 1)
            assert await asyncio.to_thread(endless.ended.wait, 30)

    with_work(test, timeout_s=0.05)


def test_work_ends_when_there_are_too_many_tokens() -> None:
    def count() -> None:
        for _ in range(100):
            go_on(10)

    async def test(large: LargeWork) -> None:
        await large.tokenize(count, 1, 1000)
        with pytest.raises(ValidationFailed, match=r"more than 999 tokens.* 60 s .*BERT_REQUEST_TIMEOUT_S"):
            await large.tokenize(count, 1, 999)

    with_work(test)


def test_what_waits_to_be_written_is_counted_when_requests_are_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.large_work.SECONDS_A_WEIGHT", 0.001)

    async def test(large: LargeWork) -> None:
        with large.reserved(2001):
            with pytest.raises(Overloaded, match=r"for about 1\.0 s") as refused, large.reserved(1):
                pass
            assert refused.value.retry_after_s >= 1
        with large.reserved(1):
            assert await large.write(lambda: "done", 1) == "done"

    with_work(test, max_queue_s=1)


def test_callers_take_turns_at_being_read() -> None:
    """A caller's many large bodies wait in a line of their own, whatever else there is to read."""

    async def test(large: LargeWork) -> None:
        order: list[str] = []
        first = threading.Event()
        running = asyncio.create_task(large.read(lambda: first.wait(30), 1, Caller("bodies")))
        await asyncio.sleep(0)
        work = [
            asyncio.create_task(large.read(partial(order.append, name), size, Caller(name, share)))
            for name, size, share, times in (
                ("bodies", 4_000_000, 1.0, 6),
                ("single", 100_000, 1.0, 2),
                ("none", 9, 1.0, 1),
            )
            for _ in range(times)
        ]
        await asyncio.sleep(0)
        first.set()
        await asyncio.gather(running, *work)
        assert order[:4] == ["bodies", "single", "none", "single"]
        assert order[4:] == ["bodies"] * 5

    with_work(test)


def test_answers_that_are_to_be_made_for_one_caller_refuse_that_caller_alone() -> None:
    async def test(large: LargeWork) -> None:
        bulk, single = Caller("bulk"), Caller("single")
        a_second = round(WRITERS / SECONDS_A_WEIGHT)
        with large.reserved(a_second, bulk), large.reserved(a_second, bulk):
            with pytest.raises(Overloaded), large.reserved(1, bulk):
                pass
            with large.reserved(a_second // 2, single), large.reserved(1, single):
                pass
            with pytest.raises(Overloaded), large.reserved(2 * a_second, single):
                pass  # as much of the other's would be made meanwhile

    with_work(test, max_queue_s=1.5)
