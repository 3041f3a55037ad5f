"""What systemd is told by the real server: one process, and two front ends with an engine."""

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import BundleOf
from tests.e2e.processes import until
from tests.support import ServerProcess, serving, starting

EACH = pytest.mark.parametrize("workers", ["1", "2"], ids=["alone", "workers"])
WITHIN_S = 60.0


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(WITHIN_S)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def hear(self, server: ServerProcess | None = None) -> dict[str, str]:
        """Return the next message. systemd believes those of the main process only."""
        message, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        [(_, _, sender)] = ancillary
        if server is not None:
            assert struct.unpack("3i", sender)[0] == server.process.pid
        return dict(line.split("=", 1) for line in message.decode().split("\n"))


@pytest.fixture(scope="module")
def models(bundle_of: BundleOf) -> Path:
    return bundle_of("bert-single-label")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else f"@bert-{uuid4().hex}")
    yield manager
    manager.socket.close()


def children(server: ServerProcess) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    ]


@EACH
def test_systemd_is_told_what_the_service_does(models: Path, manager: Manager, workers: str) -> None:
    with serving(models, "--workers", workers, "--threads", "1", NOTIFY_SOCKET=manager.address) as server:
        assert manager.hear(server) == {"STATUS": "loading bert-single-label"}
        assert manager.hear(server) == {"READY": "1", "STATUS": "ready"}
        assert server.ask("GET", "/readyz").status == 200
        for pid in children(server):
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()

        asked_us = time.monotonic_ns() // 1000
        server.process.send_signal(signal.SIGHUP)
        rereading = manager.hear(server)
        assert rereading.pop("RELOADING") == "1"
        assert asked_us <= int(rereading.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert rereading == {"STATUS": "reading anew what has changed"}
        assert manager.hear(server) == {"READY": "1", "STATUS": "ready"}

        server.process.send_signal(signal.SIGTERM)
        assert manager.hear(server) == {"STOPPING": "1", "STATUS": "finishing what was accepted"}
        assert server.process.wait(WITHIN_S) == 0
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.hear()


@EACH
def test_a_watchdog_is_told_that_the_service_works(models: Path, tmp_path: Path, workers: str) -> None:
    manager = Manager(str(tmp_path / "notify"))
    options = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
    with manager.socket, serving(models, "--workers", workers, "--threads", "1", **options) as server:
        heard = [manager.hear(server) for _ in range(10)]
        assert heard.count({"WATCHDOG": "1"}) >= 7  # beside loading and ready
        assert server.stop() == 0


def test_an_engine_that_is_replaced_is_a_status(models: Path, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket, serving(models, "--workers", "2", "--threads", "1", NOTIFY_SOCKET=manager.address) as server:
        until(lambda: manager.hear(server).get("READY"))
        engine = next(one["pid"] for one in server.records if one.get("process") == "engine")
        os.kill(engine, signal.SIGKILL)
        heard = manager.hear(server)["STATUS"]
        assert heard.startswith("engine ended with status -9")
        assert heard.endswith("starting another")
        assert manager.hear(server) == {"READY": "1", "STATUS": "ready"}
        assert server.stop() == 0


def test_a_manager_that_is_gone_harms_nothing(models: Path, tmp_path: Path) -> None:
    with serving(models, "--threads", "1", NOTIFY_SOCKET=str(tmp_path / "none")) as server:
        assert server.ask("GET", "/readyz").status == 200
        assert "cannot be told READY=1" in server.log
        assert server.stop() == 0


def test_what_changes_while_models_load_is_read_after_that(models: Path, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    options = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "600000000"}
    with manager.socket, starting(models, "--threads", "1", environment=options, wait=False) as server:
        until(lambda: "WATCHDOG" in manager.hear(server))  # it handles signals, and has begun to load
        server.process.send_signal(signal.SIGHUP)
        assert manager.hear(server) == {"READY": "1", "STATUS": "ready"}
        assert "RELOADING" in manager.hear(server)
        assert manager.hear(server) == {"READY": "1", "STATUS": "ready"}
        assert server.stop() == 0
