"""A caller over its rate is refused until the time that it is told, and no longer."""

import asyncio

import pytest

from app.engine.admission import Admission
from app.engine.batcher import Batcher
from app.engine.callers import Caller
from app.engine.rates import Bucket, Rates, refuse_debt
from app.engine.slots import Slots
from app.errors import Overloaded, RateLimited
from tests.app.engine.observed import Observed

CALLER = Caller("one", tokens_per_second=10.0, burst=50.0)


def refused_for(rates: Rates, now: float, caller: Caller = CALLER) -> int:
    with pytest.raises(RateLimited) as refused:
        rates.check(caller, now)
    assert dict(refused.value.headers)[b"retry-after"] == str(refused.value.retry_after_s).encode()
    return refused.value.retry_after_s


def test_a_refused_request_is_admitted_after_the_time_that_it_was_told() -> None:
    rates = Rates()
    rates.check(CALLER, 100.0)
    rates.charge(CALLER, 72, 100.0)
    assert refused_for(rates, 100.0) == 3  # 22 tokens at 10 a second
    assert refused_for(rates, 102.1) == 1
    rates.check(CALLER, 102.2)


def test_a_request_that_is_larger_than_the_bucket_is_admitted_and_paid_for() -> None:
    rates = Rates()
    rates.charge(CALLER, 1050, 0.0)
    assert refused_for(rates, 0.0) == 100
    rates.check(CALLER, 100.0)


def test_no_more_than_the_burst_is_saved_up() -> None:
    rates = Rates()
    rates.charge(CALLER, 10, 0.0)
    rates.charge(CALLER, 60, 1e6)
    assert refused_for(rates, 1e6) == 1
    rates.charge(CALLER, 1, 1e6 + 1)
    assert refused_for(rates, 1e6 + 1) == 1


def test_over_time_no_more_than_the_rate_is_admitted() -> None:
    rates = Rates()
    admitted = 0
    for tenth in range(10_000):
        try:
            rates.check(CALLER, tenth / 10)
        except RateLimited:
            continue
        rates.charge(CALLER, 7, tenth / 10)
        admitted += 7
    assert 10 * 1000 <= admitted <= 10 * 1000 + CALLER.burst + 7


def test_a_changed_rate_counts_for_debts_too() -> None:
    rates = Rates()
    rates.charge(CALLER, 1050, 0.0)
    assert refused_for(rates, 1.0, CALLER._replace(tokens_per_second=100.0)) == 9
    rates.check(CALLER._replace(tokens_per_second=None), 1.0)
    rates.check(Caller("another", tokens_per_second=1.0, burst=1.0), 1.0)


def test_what_another_process_is_told_refuses_as_the_engine_does() -> None:
    rates = Rates()
    rates.charge(CALLER, 40, 0.0)
    assert rates.debts(0.0) == {}
    rates.charge(CALLER, 40, 0.0)
    debts = rates.debts(2.9)
    assert debts == {"one": Bucket(-30.0, 0.0, 10.0)}
    with pytest.raises(RateLimited):
        refuse_debt(CALLER, debts["one"], 2.9)
    refuse_debt(CALLER, debts["one"], 3.0)
    assert rates.debts(3.0) == {}


def test_a_request_that_the_queue_refuses_is_not_charged() -> None:
    async def run(payloads: list[int], threads: int) -> list[int]:
        raise AssertionError("nothing runs here")

    async def main() -> None:
        rates = Rates()
        batcher = Batcher(
            run, budget_tokens=16, admission=Admission(5.0, 30.0), slots=Slots(), observer=Observed(), rates=rates
        )
        batcher.estimate.expect([(16, 1.0)])
        batcher.submit([0] * 10, [16] * 10)
        rich = CALLER._replace(burst=160.0)
        for _ in range(3):
            with pytest.raises(Overloaded):
                batcher.submit([0] * 10, [16] * 10, None, rich)
        assert rates.debts(0.0) == {}

    asyncio.run(main())
