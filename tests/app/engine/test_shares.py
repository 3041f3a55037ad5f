"""Callers take turns by their shares, their requests within those, and what one waits with is not held against another."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

import pytest

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.callers import Caller
from app.engine.messages import BatchRan
from app.engine.queue import Job, Queue
from app.engine.slots import Slots
from app.errors import Overloaded
from tests.app.engine.observed import Observed

BUDGET = 100
BULK, BODIES, SINGLE = Caller("bulk"), Caller("bodies"), Caller("single")


class Bench:
    """A queue whose batches are answered at once."""

    def __init__(self) -> None:
        self.queue: Queue[str, None] = Queue()

    def add(self, caller: Caller | None, *tokens: int, name: str = "") -> Job[str, None]:
        future: asyncio.Future[list[None]] = asyncio.get_running_loop().create_future()
        job = Job([name or (caller.name if caller else "")] * len(tokens), tokens, 0.0, 1.0, future, caller=caller)
        self.queue.add(job, sum(tokens))
        return job

    def batch(self) -> list[str]:
        """Take a batch; return the payloads."""
        items, _ = self.queue.take(BUDGET, 0.0)
        return [job.payloads[i] for job, i in items]


def with_bench(test: Callable[[Bench], None]) -> None:
    async def run() -> None:
        test(Bench())

    asyncio.run(run())


def tokens_of(batches: Sequence[Sequence[str]], tokens: int) -> Counter[str]:
    counted = Counter(chain.from_iterable(batches))
    return Counter({name: count * tokens for name, count in counted.items()})


def test_many_requests_of_one_caller_get_no_more_than_one_request_of_another() -> None:
    def test(bench: Bench) -> None:
        for _ in range(8):
            bench.add(BULK, *[10] * 64)
        bench.add(SINGLE, *[10] * 64)
        got = tokens_of([bench.batch() for _ in range(6)], 10)
        assert got == {"bulk": 300, "single": 300}

    with_bench(test)


def test_a_single_text_is_in_the_next_batch_whatever_others_wait_with() -> None:
    def test(bench: Bench) -> None:
        for _ in range(32):
            bench.add(BULK, *[10] * 512)
        for _ in range(4):
            bench.add(BODIES, *[50] * 512)
        for _ in range(20):
            bench.batch()
            bench.add(SINGLE, 10)
            assert "single" in bench.batch()

    with_bench(test)


def test_without_callers_requests_take_turns() -> None:
    def test(bench: Bench) -> None:
        for name in ("a", "b", "c"):
            bench.add(None, *[20] * 5, name=name)
        assert [bench.batch() for _ in range(3)] == [list("abcab"), list("cabca"), list("bcabc")]
        assert not bench.queue

    with_bench(test)


def test_the_requests_of_a_caller_take_turns() -> None:
    def test(bench: Bench) -> None:
        bench.add(BULK, *[10] * 9, name="a")
        bench.add(BULK, *[10] * 9, name="b")
        bench.add(SINGLE, *[10] * 9, name="c")
        assert Counter(bench.batch() + bench.batch()) == {"a": 5, "b": 5, "c": 9} | {"c": 9, "a": 6, "b": 5}

    with_bench(test)


@pytest.mark.parametrize("share", [0.25, 2.0, 3.0])
def test_tokens_are_shared_out_by_share(share: float) -> None:
    """Not sequences: those of the favoured one are the longer ones here."""

    def test(bench: Bench) -> None:
        more = Caller("more", share=share)
        bench.add(more, *[25] * 400)
        bench.add(SINGLE, *[5] * 2000)
        counted = Counter(chain.from_iterable(bench.batch() for _ in range(40)))
        # A turn of either may be under way.
        assert counted["more"] * 25 / share == pytest.approx(counted["single"] * 5, abs=25 / min(share, 1))

    with_bench(test)


def test_a_changed_share_counts_from_the_next_request_on() -> None:
    def test(bench: Bench) -> None:
        bench.add(BULK, *[10] * 400)
        bench.add(SINGLE, *[10] * 400)
        assert tokens_of([bench.batch() for _ in range(10)], 10) == {"bulk": 500, "single": 500}
        bench.add(SINGLE._replace(share=4.0), *[10] * 400)
        assert tokens_of([bench.batch() for _ in range(10)], 10)["single"] == pytest.approx(800, abs=20)

    with_bench(test)


def test_a_share_that_is_raised_makes_up_for_the_one_before() -> None:
    def test(bench: Bench) -> None:
        bench.add(SINGLE._replace(share=0.001), *[10] * 400)
        bench.add(BULK, *[10] * 400)
        assert tokens_of([bench.batch() for _ in range(4)], 10) == {"bulk": 390, "single": 10}
        bench.add(SINGLE, 10)
        assert tokens_of([bench.batch() for _ in range(10)], 10)["single"] == pytest.approx(500, abs=20)

    with_bench(test)


def test_time_without_requests_is_not_saved_up() -> None:
    def test(bench: Bench) -> None:
        bench.add(BULK, *[10] * 400)
        bench.add(SINGLE, 10)
        for _ in range(20):
            bench.batch()
        bench.add(SINGLE, *[10] * 400)
        assert tokens_of([bench.batch() for _ in range(4)], 10) == {"bulk": 200, "single": 200}

    with_bench(test)


def test_time_alone_is_not_held_against_a_caller() -> None:
    def test(bench: Bench) -> None:
        bench.add(BULK, *[10] * 400)
        for _ in range(20):
            bench.batch()
        bench.add(SINGLE, *[10] * 400)
        bench.add(BODIES, *[10] * 400)
        assert tokens_of([bench.batch() for _ in range(6)], 10) == {"bulk": 200, "single": 200, "bodies": 200}

    with_bench(test)


def test_work_that_is_dropped_costs_its_caller_nothing() -> None:
    def test(bench: Bench) -> None:
        dropped = [bench.add(SINGLE, *[10] * 50) for _ in range(20)]
        bench.add(BULK, *[10] * 400)
        for job in dropped:
            bench.queue.withdraw(job)
        assert "single" not in bench.queue.backlogs()
        assert tokens_of([bench.batch()], 10) == {"bulk": 100}
        bench.add(SINGLE, *[10] * 400)
        assert tokens_of([bench.batch() for _ in range(4)], 10) == {"bulk": 200, "single": 200}

    with_bench(test)


def test_the_backlog_of_a_caller_refuses_that_caller_alone() -> None:
    """A second for a full batch: of the bulk caller more waits than may, and others are answered in turn with it."""

    async def run(payloads: list[int], threads: int) -> list[int]:
        raise AssertionError("nothing runs here")

    async def main() -> None:
        batcher = Batcher(
            run, budget_tokens=BUDGET, admission=Admission(5.0, 600.0), slots=Slots(), observer=Observed()
        )
        batcher.estimate.expect([(1, 0.01), (BUDGET, 1.0)])

        def submit(caller: Caller, *tokens: int) -> None:
            batcher.submit([0] * len(tokens), tokens, None, caller)

        submit(BULK, *[10] * 512)
        with pytest.raises(Overloaded):
            submit(BULK, *[10] * 512)
        with pytest.raises(Overloaded):
            batcher.check(512, BULK)
        batcher.check(1, BULK)  # its requests take turns: this one waits for one sequence of the other
        batcher.check(1, SINGLE)
        submit(SINGLE, *[10] * 20)
        with pytest.raises(Overloaded):
            submit(SINGLE, *[10] * 100)  # of which the last would wait for as much of the other's
        batcher.check(100, SINGLE._replace(share=10.0))

    asyncio.run(main())


def test_who_is_admitted_beside_a_favoured_caller_that_goes_on_is_answered_in_time() -> None:
    """The favoured one always has two batches to run, and takes nine tenths of the device: the other has one text a batch."""
    now_s, batch_s, most_s = 0.0, 1.0, 5.0
    favoured, nightly = Caller("favoured", share=9.0), Caller("nightly")

    async def run(payloads: list[int], threads: int) -> list[int]:
        raise AssertionError("batches are taken by hand here")

    async def main() -> None:
        nonlocal now_s
        batcher = Batcher(
            run,
            budget_tokens=BUDGET,
            admission=Admission(most_s, 600.0),
            slots=Slots(),
            observer=Observed(),
            clock=lambda: now_s,
        )
        batcher.estimate.expect([(1, 0.01), (BUDGET, batch_s)])
        queue, took_s = batcher.queue, []
        refused = 0
        while now_s < 120.0:
            while queue.backlogs().get("favoured", (0, 0))[1] < 2 * BUDGET:
                batcher.submit([0] * 2, [10] * 2, None, favoured)
            for _ in range(5):
                try:
                    batcher.submit([0], [10], None, nightly)
                except Overloaded:
                    refused += 1
            batch, _ = queue.take(BUDGET, now_s)
            now_s += batch_s
            for job, index in batch:
                queue.answer(job, index, 0, BatchRan(len(batch), BUDGET, 10, now_s - batch_s, batch_s))
                if job.caller is nightly:
                    took_s.append(now_s - job.admitted_at)
        assert len(took_s) > 100  # nothing of its share is left unused
        assert refused
        assert max(took_s[30:]) < 1.5 * most_s  # at first nothing shows that the favoured one goes on

    asyncio.run(main())
