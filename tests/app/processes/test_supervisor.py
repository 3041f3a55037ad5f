"""What a supervisor does of processes that end."""

import asyncio
import errno
import signal
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.processes.slot import Child
from app.processes.supervisor import EXIT_CONFIGURATION, EXIT_ENGINE_LOST, EXIT_OTHER_BUNDLES, RESTARTS, Supervisor
from app.settings import Settings
from app.telemetry.metrics import MULTIPROCESS_FOLDER
from tests.app.loaded import loaded


def sleep(*_: object) -> None:
    """Be a process until told to end."""
    signal.pause()


class Ended(Child):
    """A place whose process was not started, but has ended in some way."""

    def end(self, status: int) -> "Ended":
        self.process = SimpleNamespace(exitcode=status)  # type: ignore[assignment]
        return self

    def replace(self, within_s: float) -> None:  # noqa: ARG002
        self.is_replaced = True


def supervised(test: Callable[[Any], Awaitable[None] | None]) -> None:
    async def main() -> None:
        with socket.socket() as listener:
            supervisor: Any = Supervisor(Settings(workers=2), listener, lambda: None, lambda: None)
        supervisor._engine = Ended("engine", lambda: None)  # type: ignore[arg-type, return-value]
        supervisor._front_ends = [Ended(f"front end {i}", lambda: None) for i in range(2)]  # type: ignore[arg-type, return-value]
        for number, child in enumerate((supervisor._engine, *supervisor._front_ends)):
            child.number = number
        test(supervisor)

    asyncio.run(main())


def test_six_deaths_of_a_process_within_a_minute_end_the_service() -> None:
    def test(supervisor: Any) -> None:
        statuses = [supervisor._status_after(supervisor._front_ends[0].end(-11)) for _ in range(RESTARTS + 1)]
        assert statuses == [None] * RESTARTS + [EXIT_ENGINE_LOST]

    supervised(test)


def test_each_process_may_die_once() -> None:
    def test(supervisor: Any) -> None:
        many = [Ended(f"front end {i}", lambda: None) for i in range(2 * RESTARTS)]  # type: ignore[arg-type, return-value]
        assert [supervisor._status_after(child.end(-9)) for child in many] == [None] * len(many)

    supervised(test)


def test_what_is_wrong_with_the_configuration_ends_a_start_but_no_service() -> None:
    def test(supervisor: Any) -> None:
        front_end, other = supervisor._front_ends
        assert supervisor._status_after(front_end.end(EXIT_CONFIGURATION)) == EXIT_CONFIGURATION
        supervisor._loaded = {"sentiment": loaded()}
        assert supervisor._status_after(other.end(EXIT_CONFIGURATION)) is None

    supervised(test)


class Refusing(Child):
    """A place for whose process the system has no room, some of the times."""

    refusals: int
    is_started: asyncio.Event

    def start(self, number: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        super().start(number)
        self.is_started.set()


@pytest.mark.parametrize(("refusals", "status", "says"), [(1, 0, "trying again"), (99, EXIT_ENGINE_LOST, "giving up")])
def test_a_process_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusals: int, status: int, says: str
) -> None:
    monkeypatch.setattr("app.processes.supervisor.START_AGAIN_AFTER_S", 0.0)
    monkeypatch.setenv(MULTIPROCESS_FOLDER, "")  # which the supervisor sets, for the processes that it starts

    async def main() -> int:
        with socket.socket() as listener:
            supervisor: Any = Supervisor(Settings(workers=1), listener, sleep, sleep)
            supervisor._engine = Refusing("engine", supervisor._make_engine)
            supervisor._engine.refusals, supervisor._engine.is_started = refusals, asyncio.Event()
            running = asyncio.create_task(supervisor.run())
            started = asyncio.create_task(supervisor._engine.is_started.wait())
            await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
            started.cancel()
            supervisor._end(0)
            return int(await running)

    assert asyncio.run(asyncio.wait_for(main(), 60)) == status
    assert says in caplog.text


def test_those_that_read_the_bundles_before_are_replaced_and_that_is_no_death() -> None:
    def test(supervisor: Any) -> None:
        old, new = supervisor._front_ends
        supervisor._status_after(new.end(EXIT_OTHER_BUNDLES))
        assert (supervisor._engine.is_replaced, old.is_replaced, new.is_replaced) == (True, True, False)
        for child in (supervisor._engine, old):
            assert supervisor._status_after(child.end(0)) is None
        assert not any(child.deaths for child in (supervisor._engine, *supervisor._front_ends))
        assert not supervisor._engine.was_lost

    supervised(test)


def test_a_front_end_older_than_its_engine_goes_alone() -> None:
    def test(supervisor: Any) -> None:
        supervisor._engine.number = 3
        old, other = supervisor._front_ends
        assert supervisor._status_after(old.end(EXIT_OTHER_BUNDLES)) is None
        assert not any(child.is_replaced for child in (supervisor._engine, other))
        assert not any(child.deaths for child in (supervisor._engine, *supervisor._front_ends))

    supervised(test)


def test_bundles_that_never_agree_end_the_service() -> None:
    def test(supervisor: Any) -> None:
        [front_end, _] = supervisor._front_ends
        statuses = [supervisor._status_after(front_end.end(EXIT_OTHER_BUNDLES)) for _ in range(RESTARTS + 1)]
        assert statuses == [None] * RESTARTS + [EXIT_ENGINE_LOST]

    supervised(test)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (3, "ended with status 3"),
        (-9, "ended with status -9, killed by SIGKILL, often by the kernel for want of memory"),
        (-11, "ended with status -11, killed by SIGSEGV"),
    ],
)
def test_how_a_process_ended_is_told_in_words(status: int, told: str) -> None:
    assert Ended("engine", lambda: None).end(status).how_it_ended == told  # type: ignore[arg-type, return-value]
