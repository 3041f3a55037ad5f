"""The batcher on a fake clock with a runner that answers when the test says so: no model, no sleep."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.callers import Caller
from app.engine.messages import BatchRan, Timeline
from app.engine.slots import Slots
from app.errors import DeadlineExceeded, EngineLost, Internal, NotReady, OutOfDeviceMemory, Overloaded, ValidationFailed
from tests.app.engine.backlog import backlog_s
from tests.app.engine.observed import Observed
from tests.support import uncollected

BUDGET = 16
TIMEOUT_S = 30.0
CALLERS = (Caller("one"), Caller("two", share=2.0))
MAX_QUEUE_S = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Runner:
    """Takes a second a token on the fake clock; answers a payload with itself, when it is let go."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.running: tuple[list[int], asyncio.Future[None]] | None = None
        self.batches: list[list[int]] = []
        self.poisoned: set[int] = set()
        self.heavy: set[int] = set()
        self.room = BUDGET
        self.refused: list[list[int]] = []
        self.is_lost = False
        self.is_held = True

    async def run(self, batch: list[int], _: int) -> list[str]:
        assert self.running is None, "the runner was given a batch while one was running"
        self.batches.append(batch)
        if self.is_held:
            self.running = (batch, asyncio.get_running_loop().create_future())
            await self.running[1]
            self.running = None
        self.clock.now += 0.01
        if self.is_lost:
            raise EngineLost("lost")
        if len(batch) > self.room or self.heavy & set(batch):
            self.refused.append(batch)
            raise OutOfDeviceMemory("Failed to allocate memory")
        if self.poisoned & set(batch):
            raise ValueError("poisoned")
        return [f"answer {payload}" for payload in batch]

    def let_go(self) -> None:
        if self.running is not None and not self.running[1].done():
            self.running[1].set_result(None)


@dataclass
class Bench:
    clock: Clock
    runner: Runner
    observed: Observed
    batcher: Batcher[int, str]
    work: "asyncio.Task[None]"
    next_payload: int = 0

    def submit(
        self, *tokens: int, timeline: Timeline | None = None, caller: Caller | None = None
    ) -> "asyncio.Task[list[str]]":
        payloads = list(range(self.next_payload, self.next_payload + len(tokens)))
        self.next_payload += len(tokens)
        return asyncio.ensure_future(self.batcher.infer(payloads, tokens, timeline, caller))

    async def settle(self) -> None:
        """Let everything run that can: a handful of turns of the loop reach a standstill as nothing waits for time."""
        for _ in range(12):
            await asyncio.sleep(0)

    async def run_out(self) -> None:
        self.runner.is_held = False
        self.runner.let_go()
        await self.batcher.drain()
        await self.settle()


def with_bench(test: Callable[[Bench], Awaitable[None]], slots: Slots | None = None) -> None:
    async def run() -> None:
        clock, observed = Clock(), Observed()
        runner = Runner(clock)
        batcher: Batcher[int, str] = Batcher(
            runner.run,
            budget_tokens=BUDGET,
            admission=Admission(MAX_QUEUE_S, TIMEOUT_S),
            slots=slots or Slots(),
            observer=observed,
            clock=clock,
        )
        work = asyncio.ensure_future(batcher.work())
        try:
            async with asyncio.timeout(20):  # a batcher that forgets someone fails the test, it does not hang it
                await test(Bench(clock, runner, observed, batcher, work))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(run())


def answers(*payloads: int) -> list[str]:
    return [f"answer {payload}" for payload in payloads]


def test_a_lone_request_runs_at_once() -> None:
    async def test(bench: Bench) -> None:
        request = bench.submit(5)
        await bench.settle()
        assert bench.runner.batches == [[0]]
        bench.runner.let_go()
        assert await request == answers(0)
        [ran] = bench.observed.batches
        assert ran == BatchRan(sequences=1, tokens=5, longest=5, started_at=0.0, duration_s=ran.duration_s)
        assert ran.duration_s == pytest.approx(0.01)

    with_bench(test)


def test_requests_that_wait_for_the_runner_are_the_next_batch() -> None:
    async def test(bench: Bench) -> None:
        requests = [bench.submit(5) for _ in range(4)]
        await bench.settle()
        assert bench.runner.batches == [[0, 1, 2]]
        requests.append(bench.submit(11))
        bench.runner.let_go()
        await bench.settle()
        assert bench.runner.batches[1:] == [[3, 4]]
        await bench.run_out()
        assert [await request for request in requests] == [answers(i) for i in range(5)]

    with_bench(test)


def test_a_small_request_waits_for_one_batch_of_a_large_one() -> None:
    async def test(bench: Bench) -> None:
        large = bench.submit(*[4] * 100)
        await bench.settle()
        small = bench.submit(3)
        await bench.settle()
        bench.runner.let_go()
        await bench.settle()
        assert 100 in bench.runner.batches[1]
        bench.runner.let_go()
        assert await small == answers(100)
        await bench.run_out()
        assert await large == answers(*range(100))

    with_bench(test)


def test_large_requests_take_turns() -> None:
    async def test(bench: Bench) -> None:
        first = bench.submit(*[4] * 8)
        second = bench.submit(*[4] * 8)
        await bench.run_out()
        await asyncio.gather(first, second)
        shares = [(sum(i < 8 for i in batch), sum(i >= 8 for i in batch)) for batch in bench.runner.batches]
        assert shares == [(2, 2)] * 4

    with_bench(test)


def test_models_of_one_device_take_turns() -> None:
    async def run() -> None:
        slots, clock, order = Slots(), Clock(), []

        def batcher(name: str) -> Batcher[int, int]:
            async def run(batch: list[int], _: int) -> list[int]:
                assert slots.batches == 1
                order.append(name)
                await asyncio.sleep(0)
                return batch

            return Batcher(
                run, budget_tokens=4, admission=Admission(9, 9), slots=slots, observer=Observed(), clock=clock
            )

        one, other = batcher("one"), batcher("other")
        work = [asyncio.ensure_future(b.work()) for b in (one, other)]
        await asyncio.gather(one.infer([0, 1, 2], [4, 4, 4]), other.infer([0, 1, 2], [4, 4, 4]))
        assert order == ["one", "other"] * 3
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    asyncio.run(run())


def test_cancelled_work_never_runs() -> None:
    async def test(bench: Bench) -> None:
        first = bench.submit(16)
        await bench.settle()
        doomed, kept = bench.submit(4, 4), bench.submit(4)
        await bench.settle()
        assert (bench.batcher.queue.sequences, bench.batcher.queue.tokens) == (3, 12)
        doomed.cancel()
        await bench.settle()
        assert (bench.batcher.queue.sequences, bench.batcher.queue.tokens) == (1, 4)
        await bench.run_out()
        assert bench.runner.batches == [[0], [3]]
        assert await first == answers(0)
        assert await kept == answers(3)
        assert doomed.cancelled()
        assert bench.observed.cancellations == 1

    with_bench(test)


def test_expired_work_never_runs_and_fails() -> None:
    async def test(bench: Bench) -> None:
        stuck = bench.submit(16)
        await bench.settle()
        late = bench.submit(4)
        await bench.settle()
        bench.clock.now += TIMEOUT_S
        bench.batcher.expire()
        await bench.settle()
        for request in (stuck, late):
            with pytest.raises(DeadlineExceeded, match="30 s"):
                await request
        fresh = bench.submit(4)
        await bench.run_out()
        assert bench.runner.batches == [[0], [2]]
        assert await fresh == answers(2)

    with_bench(test)


def test_a_full_queue_refuses_at_once_with_a_time_to_retry() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 1.0)])
        first = bench.submit(4)
        await bench.settle()
        assert backlog_s(bench.batcher) == pytest.approx(4)
        second = bench.submit(16)
        await bench.settle()
        with pytest.raises(Overloaded, match=r"20\.0 s") as refusal:
            await bench.submit(1)
        assert refusal.value.retry_after_s == 18
        await bench.run_out()
        assert await first == answers(0)
        assert await second == answers(1)
        assert backlog_s(bench.batcher) == 0

    with_bench(test)


def test_a_small_request_is_not_refused_for_a_large_one() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 0.01)])
        large = bench.submit(*[8] * 100)
        await bench.settle()
        queue = bench.batcher.statistics
        assert (queue.running_s, queue.queued_s, queue.turn_s) == pytest.approx((0.16, 7.84, 0.08))
        with pytest.raises(Overloaded, match=r"8\.0 s"):
            await bench.submit(*[8] * 100)
        small = bench.submit(8)
        await bench.run_out()
        assert await small == answers(200)
        assert await large == answers(*range(100))
        assert bench.batcher.statistics.turn_s == 0

    with_bench(test)


def test_many_small_requests_are_refused_by_the_length_of_the_queue() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 1.0)])
        admitted = [bench.submit(2) for _ in range(3)]
        await bench.settle()
        with pytest.raises(Overloaded, match=r"6\.0 s"):
            await bench.submit(2)
        await bench.run_out()
        await asyncio.gather(*admitted)

    with_bench(test)


def test_the_estimate_follows_the_runner() -> None:
    async def test(bench: Bench) -> None:
        bench.runner.is_held = False
        for _ in range(30):
            await bench.submit(10)
        bench.runner.is_held = True
        bench.submit(10)
        await bench.settle()
        assert backlog_s(bench.batcher) == pytest.approx(0.01, rel=0.05)
        await bench.run_out()

    with_bench(test)


def test_short_requests_alone_do_not_refuse_the_next_burst() -> None:
    """A batch takes 10 ms whatever is in it; by the token, short ones would look sixteen times as slow as full ones."""

    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 0.01), (16, 0.01)])
        bench.runner.is_held = False
        for _ in range(100):
            await bench.submit(1)
        bench.runner.is_held = True
        burst = [bench.submit(8) for _ in range(800)]
        await bench.settle()
        assert backlog_s(bench.batcher) == pytest.approx(400 * 0.01)
        await bench.run_out()
        await asyncio.gather(*burst)

    with_bench(test)


def test_after_a_slow_spell_requests_are_admitted_again() -> None:
    """Where nothing runs, nothing shows that the device is fast again: the request does."""

    async def test(bench: Bench) -> None:
        bench.runner.is_held = False
        bench.batcher.estimate.expect(
            [(1, 0.00125), (16, 0.02)]
        )  # 0.00125 s a token, and the runner takes 0.01 s for each batch
        bulk = [16] * 800  # 16 s of the 30, as measured
        for _ in range(20):
            bench.batcher.estimate.learn(16, 0.2)
        assert bench.batcher.estimate.seconds(sum(bulk)) > TIMEOUT_S
        assert len(await bench.submit(*bulk)) == len(bulk)

    with_bench(test)


def test_a_request_that_would_be_late_is_refused_at_once() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 0.1)])
        with pytest.raises(
            ValidationFailed, match=r"100 inputs of 800 tokens would take about 80 s.*at most about 37 "
        ):
            await bench.submit(*[8] * 100)
        first = bench.submit(*[8] * 4)
        await bench.settle()
        with pytest.raises(Overloaded, match=r"in about 3\d\.\d s, after the 30 s") as refusal:
            await bench.submit(*[8] * 35)
        assert refusal.value.retry_after_s > 1
        await bench.run_out()
        assert await first == answers(*range(100, 104))

    with_bench(test)


def test_a_request_that_turns_out_too_slow_is_given_up_long_before_its_deadline() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 0.01), (BUDGET, 0.1)])
        slow = bench.submit(*[BUDGET] * 200)  # 20 s of the 30, as measured
        other = bench.submit(1)
        for _ in range(20):
            await bench.settle()
            bench.batcher.give_up()
            bench.clock.now += 0.3  # a batch takes three times as long
            bench.runner.let_go()
        with pytest.raises(
            Overloaded, match=r"\d+ of 200 inputs ran within \d\.\d s.* at most about 1?\d\d such inputs"
        ) as given_up:
            await slow
        assert given_up.value.retry_after_s == MAX_QUEUE_S
        assert await other == answers(200)
        assert bench.batcher.queue.tokens == 0

    with_bench(test)


def test_one_stall_does_not_change_the_speed() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 0.001)])
        request = bench.submit(10)
        await bench.settle()
        bench.clock.now += 20
        await bench.run_out()
        await request
        bench.runner.is_held = True
        bench.submit(10)
        await bench.settle()
        assert backlog_s(bench.batcher) == pytest.approx(0.016)
        await bench.run_out()

    with_bench(test)


def test_a_poisoned_sequence_fails_alone() -> None:
    async def test(bench: Bench) -> None:
        bench.runner.poisoned = {1}
        requests = [bench.submit(4), bench.submit(4, 4), bench.submit(4)]
        await bench.run_out()
        assert await requests[0] == answers(0)
        with pytest.raises(Internal, match=r"inputs\[0\]"):
            await requests[1]
        assert await requests[2] == answers(3)
        assert bench.runner.batches == [[0, 1, 3, 2], [0], [1], [3]]

    with_bench(test)


def test_a_request_that_fails_leaves_nothing_to_the_garbage_collector() -> None:
    class Payloads(list[int]):
        """Can be referred to weakly."""

    async def test(bench: Bench) -> None:
        stuck = bench.submit(16)
        await bench.settle()
        payloads = Payloads([1])
        left = weakref.ref(payloads)
        late = asyncio.ensure_future(bench.batcher.infer(payloads, [4]))
        del payloads
        await bench.settle()
        bench.clock.now += TIMEOUT_S
        bench.batcher.expire()
        await asyncio.wait((stuck, late))
        assert isinstance(late.exception(), DeadlineExceeded)
        assert isinstance(stuck.exception(), DeadlineExceeded)
        del late
        await bench.run_out()
        assert left() is None

    with uncollected():
        with_bench(test)


def test_a_batch_that_does_not_fit_runs_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        bench.runner.room = 2
        timelines = [Timeline() for _ in range(7)]
        requests = [bench.submit(2, timeline=timeline) for timeline in timelines]
        await bench.run_out()
        assert [await request for request in requests] == [answers(i) for i in range(7)]
        assert bench.runner.batches == [[*range(7)], [0, 1, 2, 3], [0, 1], [2, 3], [4, 5, 6], [4, 5], [6]]
        # Every run that answered is told, once, and none of those that did not.
        assert [ran.sequences for ran in bench.observed.batches] == [2, 2, 2, 1]
        assert [ran.tokens for ran in bench.observed.batches] == [4, 4, 4, 2]
        assert [timeline.runs for timeline in timelines] == [[bench.observed.batches[i // 2]] for i in range(7)]

    with_bench(test)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "7 sequences did not fit into memory together; the halves run instead: Failed" in caplog.messages[0]


def test_a_sequence_that_fits_nowhere_fails_alone() -> None:
    async def test(bench: Bench) -> None:
        bench.runner.heavy = {5}
        requests = [bench.submit(1) for _ in range(16)]
        await bench.run_out()
        with pytest.raises(Internal, match=r"inputs\[0\] does not fit into the device's memory, even alone"):
            await requests.pop(5)
        await asyncio.gather(*requests)
        # In halves the way to one of 16 takes four steps of two runs.
        assert [len(batch) for batch in bench.runner.batches] == [16, 8, 4, 4, 2, 1, 1, 2, 8]

    with_bench(test)


def test_a_sequence_that_fits_nowhere_fails_alone_by_itself_too() -> None:
    async def test(bench: Bench) -> None:
        bench.runner.heavy = {0}
        request = bench.submit(3)
        await bench.run_out()
        with pytest.raises(Internal):
            await request
        assert bench.runner.batches == [[0], [0]]

    with_bench(test)


def test_a_poisoned_half_runs_one_by_one() -> None:
    async def test(bench: Bench) -> None:
        bench.runner.room, bench.runner.poisoned = 3, {4}
        requests = [bench.submit(2) for _ in range(6)]
        await bench.run_out()
        assert bench.runner.batches == [[*range(6)], [0, 1, 2], [3, 4, 5], [3], [4], [5]]
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert [isinstance(result, Internal) for result in results] == [i == 4 for i in range(6)]

    with_bench(test)


def test_halves_leave_out_cancelled_sequences() -> None:
    async def test(bench: Bench) -> None:
        bench.runner.room = 2
        requests = [bench.submit(4) for _ in range(4)]
        await bench.settle()
        requests[1].cancel()
        await bench.settle()
        bench.runner.let_go()  # the whole
        await bench.settle()
        assert bench.runner.batches[1:] == [[0]]
        requests[2].cancel()
        requests[3].cancel()
        await bench.run_out()
        assert bench.runner.batches[1:] == [[0]]
        assert await requests[0] == answers(0)

    with_bench(test)


def test_repeated_runs_do_not_change_the_estimate() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.estimate.expect([(1, 0.1)])
        bench.runner.room = 1
        await asyncio.gather(bench.submit(4), bench.submit(4), bench.run_out())
        assert len(bench.runner.batches) == 3
        assert bench.batcher.estimate.seconds(1) == 0.1

    with_bench(test)


def test_a_lost_engine_fails_every_waiter_and_admits_no_more() -> None:
    async def test(bench: Bench) -> None:
        requests = [bench.submit(16) for _ in range(3)]
        await bench.settle()
        bench.runner.is_lost = True
        bench.runner.let_go()
        await bench.settle()
        for request in [*requests, bench.submit(1)]:
            with pytest.raises(EngineLost):
                await request
        with pytest.raises(EngineLost):
            await bench.work
        assert bench.batcher.queue.tokens == 0
        await bench.batcher.drain()

    with_bench(test)


@pytest.mark.parametrize("tokens", [(), (0,), (3, 0), (3, -1)])
def test_what_has_no_tokens_is_refused_and_others_are_answered(tokens: tuple[int, ...]) -> None:
    async def test(bench: Bench) -> None:
        other = bench.submit(3)
        with pytest.raises(Internal, match="without tokens"):
            await bench.submit(*tokens)
        await bench.run_out()
        assert await other == ["answer 0"]

    with_bench(test)


def test_a_closed_batcher_admits_nothing() -> None:
    async def test(bench: Bench) -> None:
        bench.batcher.close(NotReady("closing"))
        with pytest.raises(NotReady, match="closing"):
            await bench.submit(1)

    with_bench(test)


def test_a_sequence_over_the_budget_runs_alone() -> None:
    async def test(bench: Bench) -> None:
        requests = [bench.submit(1), bench.submit(BUDGET + 1), bench.submit(1)]
        await bench.run_out()
        assert bench.runner.batches == [[0], [1], [2]]
        await asyncio.gather(*requests)

    with_bench(test)


def test_a_timeline_has_each_batch_once() -> None:
    async def test(bench: Bench) -> None:
        blocking = bench.submit(1)
        await bench.settle()
        bench.clock.now = 1.0
        one, other = Timeline(), Timeline()
        requests = [bench.submit(6, 2, 9, timeline=one), bench.submit(4, timeline=other)]
        await bench.settle()
        assert (one.admitted_at, one.started_at, one.runs) == (1.0, None, [])
        bench.clock.now = 3.0
        await bench.run_out()
        await asyncio.gather(blocking, *requests)
        assert bench.runner.batches == [[0], [1, 4, 2], [3]]
        assert one.admitted_at == other.admitted_at == 1.0
        assert one.started_at == other.started_at == one.runs[0].started_at == pytest.approx(3.01)
        assert one.runs == bench.observed.batches[1:]
        assert other.runs == bench.observed.batches[1:2]

    with_bench(test)


def test_a_timeline_has_the_run_that_answered() -> None:
    async def test(bench: Bench) -> None:
        timeline = Timeline()
        bench.runner.poisoned = {1}
        good, poisoned = bench.submit(3, timeline=timeline), bench.submit(3)
        await bench.run_out()
        await asyncio.gather(good, poisoned, return_exceptions=True)
        [run] = timeline.runs
        assert (run.sequences, run.tokens, run.longest) == (1, 3, 3)
        assert [run.started_at, run.duration_s] == pytest.approx([0.01, 0.01])

    with_bench(test)


def test_a_request_that_never_ran_has_no_run() -> None:
    async def test(bench: Bench) -> None:
        timeline = Timeline()
        bench.submit(1)
        await bench.settle()
        late = bench.submit(1, timeline=timeline)
        await bench.settle()
        bench.clock.now = TIMEOUT_S + 1
        bench.batcher.expire()
        with pytest.raises(DeadlineExceeded):
            await late
        assert timeline == Timeline(admitted_at=0.0)

    with_bench(test)


def test_a_runner_with_too_few_results_fails_the_batch() -> None:
    """A runner that loses a sequence is a bug that must not leave a caller waiting."""

    async def run() -> None:
        async def lossy(batch: list[int], _: int) -> list[int]:
            return batch[1:]

        batcher: Batcher[int, int] = Batcher(
            lossy,
            budget_tokens=9,
            admission=Admission(9, 9),
            slots=Slots(),
            observer=Observed(),
            clock=Clock(),
        )
        work = asyncio.ensure_future(batcher.work())
        with pytest.raises(Internal):
            await batcher.infer([1], [1])
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    asyncio.run(run())


Action = tuple[str, int]
ACTIONS: st.SearchStrategy[Sequence[Action | tuple[str, list[int]]]] = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.lists(st.integers(1, BUDGET + 4), min_size=1, max_size=12)),
        st.tuples(st.just("cancel"), st.integers(0, 100)),
        st.tuples(st.just("poison"), st.integers(0, 60)),
        st.tuples(st.just("room"), st.integers(1, 8)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("run"), st.integers(1, 3)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(actions=ACTIONS)
def test_each_request_is_answered_once_within_the_budget(
    actions: Sequence[tuple[str, Any]],
) -> None:
    async def test(bench: Bench) -> None:
        requests: list[tuple[range, asyncio.Task[list[str]]]] = []
        lengths: dict[int, int] = {}
        for action, value in actions:
            if action == "submit":
                first = bench.next_payload
                lengths |= {first + i: tokens for i, tokens in enumerate(value)}
                caller = (None, *CALLERS)[len(requests) % 3]
                requests.append((range(first, first + len(value)), bench.submit(*value, caller=caller)))
            elif action == "cancel" and requests:
                requests[value % len(requests)][1].cancel()
            elif action == "poison":
                bench.runner.poisoned.add(value)
            elif action == "room":
                bench.runner.room = value
            elif action == "wait":
                bench.clock.now += value
                bench.batcher.expire()
            elif action == "run":
                for _ in range(value):
                    await bench.settle()
                    bench.runner.let_go()
            await bench.settle()
            queue = bench.batcher.queue
            waiting = [job for job in queue.unanswered if job.next_index < len(job.tokens)]
            assert queue.turn_tokens == sum(job.tokens[job.next_index] for job in waiting)
            assert queue.tokens == sum(sum(job.tokens[job.next_index :]) for job in waiting)
            for caller in CALLERS:
                own = [job for job in waiting if job.caller == caller]
                backlog = queue.backlogs().get(caller.name)
                assert (backlog is None) == (not own)
                if backlog is not None:
                    assert backlog.turn_tokens == sum(job.tokens[job.next_index] for job in own)
                    assert backlog.tokens == sum(sum(job.tokens[job.next_index :]) for job in own)
        await bench.run_out()

        for batch in bench.runner.batches:
            assert sum(lengths[payload] for payload in batch) <= BUDGET or len(batch) == 1
        for payloads, request in requests:
            assert request.done()
            if request.cancelled():
                continue
            error = request.exception()
            if error is None:
                assert request.result() == answers(*payloads)
            else:
                assert isinstance(error, DeadlineExceeded | Internal | Overloaded | ValidationFailed)
                if isinstance(error, Internal):
                    assert bench.runner.poisoned & set(payloads)
        # A sequence runs once where it fits, and once more alone if its batch failed for another reason.
        refused = bench.runner.refused
        together = [
            payload for batch in bench.runner.batches if len(batch) > 1 for payload in batch if batch not in refused
        ]
        assert len(together) == len(set(together))
        assert all(sum(payload in batch for batch in refused) <= BUDGET.bit_length() for payload in lengths)
        assert all(sum(batch == [payload] for batch in bench.runner.batches) <= 2 for payload in lengths)
        assert (bench.batcher.queue.sequences, bench.batcher.queue.tokens) == (0, 0)
        assert backlog_s(bench.batcher) == 0

    with_bench(test)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(tokens=st.lists(st.integers(1, BUDGET), min_size=1, max_size=60), others=st.integers(1, 6))
def test_requests_of_any_size_advance_at_the_same_pace(tokens: list[int], others: int) -> None:
    """Between two sequences of one request, every other waiting request has had a turn."""

    async def test(bench: Bench) -> None:
        requests = [bench.submit(*tokens) for _ in range(others + 1)]
        await bench.run_out()
        order = [payload // len(tokens) for batch in bench.runner.batches for payload in batch]
        assert order == list(range(others + 1)) * len(tokens)
        await asyncio.gather(*requests)

    with_bench(test)
