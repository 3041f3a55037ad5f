"""A worker slot and real processes in it."""

import asyncio
import os
import signal
import struct
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from app.engine.messages import Serving
from app.processes.signals import FINISH
from app.processes.supervision.reports import ModelsServed, Report, SupervisorLink
from app.processes.supervision.slot import SlotState, WorkerSlot
from app.processes.supervision.spawn import spawn
from tests.app.loaded import loaded

WITHIN_S = 60.0
MANY = {f"model-{i}": loaded(identity="0" * 64) for i in range(2000)}


def end(_: Connection) -> None:
    pass


def report_many(pipe: Connection) -> None:
    SupervisorLink(pipe, None, None, None, was_lost=False).report(ModelsServed(Serving(MANY)))  # type: ignore[arg-type]


def end_amid_a_report(pipe: Connection) -> None:
    os.write(pipe.fileno(), struct.pack("!i", 1000) + b"a part")


def be_deaf(pipe: Connection) -> None:
    signal.signal(FINISH, signal.SIG_IGN)
    report_and_wait(pipe)


def report_and_wait(pipe: Connection) -> None:
    SupervisorLink(pipe, None, None, None, was_lost=False).report(ModelsServed(Serving()))  # type: ignore[arg-type]
    signal.pause()


def slot_of(
    main: Callable[[Connection], None], handle: Callable[[Report], None] = print, finish_within_s: float = 0.05
) -> WorkerSlot:
    def start(pipe: Connection) -> "object":
        return spawn("child", main, pipe)

    return WorkerSlot("child", start, handle, finish_within_s)  # type: ignore[arg-type]


def within(test: Callable[[], object]) -> None:
    async def main() -> None:
        async with asyncio.timeout(WITHIN_S):
            await test()  # type: ignore[misc]

    uvloop.run(main())  # as the service does: it reads pipes otherwise than asyncio's own loop


def test_a_report_longer_than_a_pipe_holds_arrives_whole_and_before_the_end() -> None:
    reports: list[Report] = []

    async def test() -> None:
        slot = slot_of(report_many, reports.append)
        slot.start(0)
        await slot.ended
        assert reports == [ModelsServed(Serving(MANY))]
        assert slot.process.exitcode == 0

    within(test)


def test_half_a_report_does_not_affect_the_successor() -> None:
    reports: list[Report] = []

    async def test() -> None:
        mains = iter((end_amid_a_report, report_many))
        slot = WorkerSlot("child", lambda pipe: spawn("child", next(mains), pipe), reports.append, 1.0)
        for number in range(2):
            slot.start(number)
            await slot.ended
        assert reports == [ModelsServed(Serving(MANY))]

    within(test)


@pytest.mark.parametrize(("finish_within_s", "within_s"), [(0.05, None), (600.0, 0.05)])
def test_a_process_that_does_not_finish_in_time_is_killed(
    finish_within_s: float, within_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        is_deaf = asyncio.Event()
        slot = slot_of(be_deaf, lambda _: is_deaf.set(), finish_within_s)
        slot.start(0)
        await is_deaf.wait()
        slot.stop(within_s)
        await slot.ended
        assert slot.process.exitcode == -signal.SIGKILL
        assert slot.is_stopped

    within(test)
    assert "child did not end in time: killed" in caplog.text


def test_a_process_that_does_not_serve_yet_ends_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """It has accepted nothing. SIGTERM, which the supervisor gets as well, ends none."""

    async def test() -> None:
        is_there = asyncio.Event()
        slot = slot_of(report_and_wait, lambda _: is_there.set(), 600.0)
        slot.start(0)
        await is_there.wait()
        slot.send(signal.SIGTERM)
        slot.stop()
        await slot.ended
        assert slot.process.exitcode == -FINISH

    within(test)
    assert not caplog.messages


def test_a_process_that_has_ended_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may have given its number to another one."""
    sent: list[object] = []

    async def test() -> None:
        slot = slot_of(end)
        slot.start(0)
        await slot.ended
        monkeypatch.setattr(os, "kill", lambda *signal: sent.append(signal))
        slot.stop()

    within(test)
    assert not sent


def test_a_process_that_ends_leaves_no_file_open() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def test() -> None:
        slot = slot_of(end)
        slot.start(0)  # and with it multiprocessing's resource tracker
        await slot.ended
        before = open_files()
        for number in range(1, 3):
            slot.start(number)
            await slot.ended
        assert open_files() == before

    within(test)


@pytest.mark.parametrize(
    ("status", "state", "told"),
    [
        (3, SlotState.RUNNING, "ended with status 3"),
        (-9, SlotState.RUNNING, "ended with status -9, killed by SIGKILL, often by the kernel for want of memory"),
        (-9, SlotState.HUNG, "ended with status -9, killed by SIGKILL as it had hung"),
        (-11, SlotState.RUNNING, "ended with status -11, killed by SIGSEGV"),
    ],
)
def test_how_a_process_ended_is_described(status: int, state: SlotState, told: str) -> None:
    slot = slot_of(end)
    slot.process, slot.state = SimpleNamespace(exitcode=status), state  # type: ignore[assignment]
    assert slot.how_it_ended == told
