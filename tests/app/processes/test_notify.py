"""What a service manager is told, and what its variables mean."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.processes.notify import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


def received(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_nothing_is_told_without_a_manager() -> None:
    service = ServiceManager.from_environment({})
    service.ready()
    service.stopping()
    asyncio.run(service.keep_alive())


def test_its_variables_are_not_passed_on(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager.from_environment(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("variables", "is_told"),
    [
        ({"WATCHDOG_USEC": "2000"}, True),
        ({"WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({}, False),
    ],
)
def test_a_watchdog_of_this_process_is_told_that_it_works(
    manager: socket.socket, variables: dict[str, str], is_told: bool
) -> None:
    service = ServiceManager.from_environment({"NOTIFY_SOCKET": manager.getsockname(), **variables})

    async def live() -> None:
        alive = asyncio.create_task(service.keep_alive())
        if is_told:
            for _ in range(3):
                assert await asyncio.get_running_loop().sock_recv(manager, 4096) == b"WATCHDOG=1"
            alive.cancel()
        else:
            await alive

    asyncio.run(live())
    assert is_told or not received(manager)


def test_a_service_that_stops_is_not_ready_again(manager: socket.socket) -> None:
    service = ServiceManager(manager.getsockname())

    async def stop() -> None:
        service.stopping()

    asyncio.run(service.reread(stop))
    service.ready()
    service.rereading()
    assert [message.split("\n")[0] for message in received(manager)] == ["RELOADING=1", "STOPPING=1"]


def test_a_reread_that_fails_is_over(manager: socket.socket) -> None:
    async def fail() -> None:
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        asyncio.run(ServiceManager(manager.getsockname()).reread(fail))
    assert [message.split("\n")[0] for message in received(manager)] == ["RELOADING=1", "READY=1"]


def test_a_manager_that_is_gone_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ServiceManager(str(tmp_path / "none")).ready()
        ServiceManager("/" + "x" * 108).ready()
    assert "cannot be told READY=1: No such file or directory" in caplog.text
    assert "cannot be told READY=1: AF_UNIX path too long" in caplog.text
