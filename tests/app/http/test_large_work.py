"""Large work runs as memory and threads allow, and ends with its caller and its time."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from app.errors import DeadlineExceeded, Overloaded, ValidationFailed
from app.http.large_work import MEMORY, LargeWork
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
        for run in (large.read, lambda work: large.write(work, 1), lambda work: large.tokenize(work, 1)):
            endless = Endless()
            with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
                await run(endless)
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
