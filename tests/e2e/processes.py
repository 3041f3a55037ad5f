"""What a test sees of a server with several processes, and asks of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support import ServerProcess, eventually

WITHIN_S = 30.0


def children(pid: int) -> dict[int, str]:
    """The supervisor's processes by what they do: only the engine maps ONNX graphs' runtime threads."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text()
    return found


def send_to_all(server: ServerProcess, *numbers: int) -> None:
    """Send signals to every process of a server, as to its process group; the supervisor is the last to get them."""
    for pid in (*children(server.process.pid), server.process.pid):
        for number in numbers:
            os.kill(pid, number)


def open_sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                yield target[8:-1]


def workers(server: ServerProcess) -> list[int]:
    return sorted(pid for pid, command in children(server.process.pid).items() if "spawn_main" in command)


def engine_of(server: ServerProcess) -> int:
    """The process that listens on the engine's socket."""
    sockets = {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()
        if line.endswith("engine.sock") and line.split()[5] == "01" and line.split()[3] == "00010000"
    }
    for pid in workers(server):
        if not sockets.isdisjoint(open_sockets(pid)):
            return pid
    pytest.fail("no process listens on the engine's socket")


def connections(server: ServerProcess) -> list[int]:
    """How many callers each front end is connected to, from the fewest to the most."""
    port = f":{urlsplit(server.url).port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    sockets = {line[9] for line in lines if line[1].endswith(port) and line[3] == "01"}
    engine = engine_of(server)
    return sorted(sum(socket in sockets for socket in open_sockets(pid)) for pid in workers(server) if pid != engine)


def until(condition: Callable[[], Any]) -> Any:
    return eventually(condition, WITHIN_S)


def classify(server: ServerProcess, inputs: Any, **options: Any) -> httpx.Response:
    body = {"model": "bert-single-label", "inputs": inputs}
    return httpx.post(f"{server.url}/v1/classify", json=body, timeout=60, **options)


def metric(server: ServerProcess, name: str) -> float:
    """The sum of a metric's series, as one scrape tells it."""
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def all_ready(server: ServerProcess) -> bool:
    """Whether every front end is: connections are spread over them, so one answer says little."""
    return metric(server, "bert_engine_up") == 1 and all(
        httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200 for _ in range(8)
    )
