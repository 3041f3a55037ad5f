"""What a supervisor does when a process ends, hangs or cannot be started."""

import asyncio
import errno
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine.messages import Serving
from app.errors import StartupError
from app.http.listening.ports import Ports
from app.processes.exit_status import ExitStatus
from app.processes.supervision.board import BEAT_EVERY_S
from app.processes.supervision.reports import FrontEndReady, ModelsServed
from app.processes.supervision.slot import RESTARTS, RestartLimit, SlotState, WorkerSlot
from app.processes.supervision.supervisor import SILENCE_S, START_WITHIN_S, Supervisor
from app.settings import Settings
from tests.app.loaded import loaded


async def sleep(*_: object) -> ExitStatus:
    """Run until it is told to finish: the main coroutine of a process."""
    await asyncio.Event().wait()
    return ExitStatus.STOPPED


class Process:
    """A process that was not started. It ends when a test says so."""

    pid = None

    def __init__(self) -> None:
        self.exitcode: int | None = None
        self.signals: list[str] = []

    def kill(self) -> None:
        self.signals.append("SIGKILL")


def running(slot: WorkerSlot, number: int) -> WorkerSlot:
    """Put a running process into a slot."""
    slot.process = Process()  # type: ignore[assignment]
    slot.number, slot.state = number, SlotState.RUNNING
    return slot


def ended(slot: WorkerSlot, status: int) -> WorkerSlot:
    slot.process = SimpleNamespace(exitcode=status)  # type: ignore[assignment]
    return slot


def supervised(test: Callable[[Any], None]) -> None:
    """Run a test against a supervisor of an engine and two front ends, started in this order."""

    async def main() -> None:
        supervisor: Any = Supervisor(Settings(workers=2), Ports([]), sleep, sleep)
        for number, slot in enumerate((supervisor._engine, *supervisor._front_ends)):
            running(slot, number)
        test(supervisor)

    asyncio.run(main())


def test_six_deaths_of_a_process_within_a_minute_end_the_service() -> None:
    def test(supervisor: Any) -> None:
        slot = supervisor._front_ends[0]
        statuses = [supervisor._status_after(ended(running(slot, i), -11)) for i in range(RESTARTS + 1)]
        assert statuses == [None] * RESTARTS + [ExitStatus.FAILED]

    supervised(test)


def test_restarts_wait_the_longer_the_more_there_were() -> None:
    limit = RestartLimit()
    pauses = []
    for _ in range(RESTARTS):
        assert not limit.exceeded()
        pauses.append(limit.pause_s)
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0]


def test_a_stop_does_not_wait_for_a_restart() -> None:
    async def main() -> None:
        supervisor: Any = Supervisor(Settings(workers=2), Ports([]), sleep, sleep)
        slot = supervisor._front_ends[0]
        for _ in range(RESTARTS):
            slot.deaths.exceeded()
        pausing = asyncio.create_task(supervisor._pause(slot))
        await asyncio.sleep(0)
        assert not pausing.done()
        supervisor._end(ExitStatus.STOPPED)
        async with asyncio.timeout(slot.deaths.pause_s / 2):
            await pausing

    asyncio.run(main())


def test_each_process_may_die_once() -> None:
    def test(supervisor: Any) -> None:
        slots = [WorkerSlot(f"front end {i}", None, None, 1.0) for i in range(2 * RESTARTS)]  # type: ignore[arg-type]
        assert [supervisor._status_after(ended(running(slot, 9), -9)) for slot in slots] == [None] * len(slots)

    supervised(test)


def test_a_wrong_configuration_ends_a_start() -> None:
    def test(supervisor: Any) -> None:
        slot = supervisor._front_ends[0]
        assert supervisor._status_after(ended(slot, ExitStatus.CONFIGURATION)) == ExitStatus.CONFIGURATION

    supervised(test)


def test_a_wrong_configuration_ends_a_start_whose_engine_has_loaded() -> None:
    def test(supervisor: Any) -> None:
        supervisor._handle(ModelsServed(Serving({"sentiment": loaded()})))
        status = supervisor._status_after(ended(supervisor._front_ends[0], ExitStatus.CONFIGURATION))
        assert status == ExitStatus.CONFIGURATION

    supervised(test)


def test_a_wrong_configuration_does_not_end_a_service_that_was_ready() -> None:
    def test(supervisor: Any) -> None:
        supervisor._handle(FrontEndReady())
        assert supervisor._status_after(ended(supervisor._front_ends[0], ExitStatus.CONFIGURATION)) is None

    supervised(test)


def watched(test: Callable[[Any, Callable[[float], None]], None]) -> None:
    """Run a test against a supervisor whose processes have begun to serve, and a function that lets so many seconds pass."""

    async def main() -> None:
        supervisor: Any = Supervisor(Settings(workers=2), Ports([]), sleep, sleep)
        for number, slot in enumerate(supervisor._slots):
            running(slot, number)
            slot.ended = asyncio.get_running_loop().create_future()
            supervisor._board.beats[number] = 1

        def let_pass(seconds: float) -> None:
            for _ in range(round(seconds / BEAT_EVERY_S)):
                supervisor._look()

        let_pass(BEAT_EVERY_S)  # sees the first beats
        test(supervisor, let_pass)

    asyncio.run(main())


def test_a_process_that_hangs_is_killed_and_counts_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    def test(supervisor: Any, let_pass: Callable[[float], None]) -> None:
        engine, *others = supervisor._slots
        let_pass(SILENCE_S - BEAT_EVERY_S)
        assert not engine.process.signals
        for i, _ in enumerate(others):
            supervisor._board.beats[1 + i] += 1
        let_pass(2 * BEAT_EVERY_S)  # the kernel may take a while to end it
        assert engine.process.signals == ["SIGKILL"]
        assert not [signals for slot in others for signals in slot.process.signals]
        assert supervisor._status_after(ended(engine, -9)) is None
        assert engine.state is SlotState.LOST

    watched(test)
    assert caplog.messages.count("the engine hangs: killing it") == 1
    assert "engine ended with status -9, killed by SIGKILL as it had hung; starting another" in caplog.text


def test_a_process_that_hangs_while_the_service_stops_is_killed_and_has_no_successor() -> None:
    def test(supervisor: Any, let_pass: Callable[[float], None]) -> None:
        front_end = supervisor._front_ends[0]
        front_end.stop()
        let_pass(SILENCE_S)
        assert front_end.process.signals == ["SIGKILL"]
        assert front_end.is_stopped

    watched(test)


def test_a_process_that_has_ended_does_not_hang() -> None:
    def test(supervisor: Any, let_pass: Callable[[float], None]) -> None:
        for slot in supervisor._slots:
            slot.ended.set_result(None)
        let_pass(SILENCE_S)
        assert not [signals for slot in supervisor._slots for signals in slot.process.signals]

    watched(test)


@pytest.mark.parametrize("was_ready", [False, True])
def test_a_front_end_that_never_serves_hangs_if_others_could(*, was_ready: bool) -> None:
    def test(supervisor: Any, let_pass: Callable[[float], None]) -> None:
        if was_ready:
            supervisor._handle(FrontEndReady())
        engine, front_end, other = supervisor._slots
        for i, _ in enumerate(supervisor._slots):
            supervisor._silence.forget(i)  # they begin
        let_pass(START_WITHIN_S - BEAT_EVERY_S)
        supervisor._board.beats[2] += 1
        let_pass(BEAT_EVERY_S)
        assert front_end.process.signals == ["SIGKILL"] * was_ready
        assert not engine.process.signals  # how long models load nobody can say
        assert not other.process.signals

    watched(test)


class Refusing(WorkerSlot):
    """A slot for whose process the system has no room, some of the times."""

    refusals: int
    is_started: asyncio.Event

    def start(self, number: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        super().start(number)
        self.is_started.set()


@pytest.mark.parametrize(
    ("refusals", "status", "says"), [(1, ExitStatus.STOPPED, "trying again"), (99, ExitStatus.FAILED, "giving up")]
)
def test_a_process_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusals: int, status: ExitStatus, says: str
) -> None:
    monkeypatch.setattr("app.processes.supervision.slot.FIRST_PAUSE_S", 0.0)

    async def main() -> int:
        supervisor: Any = Supervisor(Settings(workers=1), Ports([]), sleep, sleep)
        slot = Refusing("engine", supervisor._spawn_engine, supervisor._handle, 1.0)
        slot.refusals, slot.is_started = refusals, asyncio.Event()
        supervisor._engine = slot
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            supervising = tasks.create_task(supervisor.run())
            started = tasks.create_task(slot.is_started.wait())
            await asyncio.wait((supervising, started), return_when=asyncio.FIRST_COMPLETED)
            started.cancel()
            supervisor._end(ExitStatus.STOPPED)
        return int(supervising.result())

    assert asyncio.run(main()) == status
    assert says in caplog.text


def test_a_missing_folder_for_temporary_files_ends_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    async def main() -> None:
        await Supervisor(Settings(workers=2), Ports([]), sleep, sleep).run()

    with pytest.raises(
        StartupError, match=r"No such file or directory\. .* mount a folder .* at /tmp .* or set TMPDIR"
    ):
        asyncio.run(main())
