"""What a signal does that comes once, again, or along with others."""

import asyncio
import os
import signal
from collections.abc import Sequence

import pytest
import uvloop

from app.processes import signals
from app.processes.signals import stop_on_signals

WITHIN_S = 60.0


def called_by(*numbers: signal.Signals) -> Sequence[str | int]:
    """Send signals to this process, each when the one before was handled; return with what `stop` and `stop_now` were called."""
    calls: list[str | int] = []

    async def main() -> None:
        stop_on_signals(calls.append, calls.append)
        handled = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, handled.set)
        for number in numbers:
            handled.clear()
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGUSR2)
            async with asyncio.timeout(WITHIN_S):
                await handled.wait()

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        uvloop.run(main())
    finally:
        signal.signal(signal.SIGHUP, before)
    return calls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_twice_at_once_is_one_stop(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """`timeout` sends it to the server and then to its group, and loses nothing by that."""
    monkeypatch.setattr(signals, "ONE_STOP_S", WITHIN_S)
    assert called_by(number, number, number) == [number.name]


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
)
def test_a_signal_that_comes_again_later_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, first: signal.Signals, second: signal.Signals
) -> None:
    monkeypatch.setattr(signals, "ONE_STOP_S", 0.0)
    assert called_by(first, second) == [first.name, second]


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGHUP), (signal.SIGINT, signal.SIGTERM)],
)
def test_a_signal_that_comes_along_with_another_hastens_nothing(
    monkeypatch: pytest.MonkeyPatch, first: signal.Signals, second: signal.Signals
) -> None:
    monkeypatch.setattr(signals, "ONE_STOP_S", 0.0)
    assert {type(call) for call in called_by(first, second)} == {str}
