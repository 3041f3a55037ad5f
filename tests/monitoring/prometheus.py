"""Prometheus itself, started on a free port in a folder of its own, and asked over its HTTP API."""

import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

MONITORING: Final = Path(__file__).parents[2] / "monitoring"
CONFIG: Final = MONITORING / "prometheus"
COMPOSE: Final = Path(__file__).parents[2] / "docker-compose.yml"
START_WITHIN_S: Final = 20.0


def find_program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; without them, skip the test, or fail it in CI."""
    path = f"{MONITORING / '.prometheus'}{os.pathsep}{os.environ['PATH']}"
    if found := shutil.which(name, path=path):
        return found
    missing = "prometheus and promtool are not here: apt-get install prometheus, or monitoring/install-prometheus.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def wait_for(condition: Callable[[], Any], within_s: float, what: Callable[[], object]) -> Any:
    """Return the first true value of `condition`; `what` tells what was missing when there was none in time."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"after {within_s:.0f} s: {what()}"
        time.sleep(0.05)
    return value


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=10)

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expr: str) -> dict[frozenset[tuple[str, str]], float]:
        """Return the value of each series, without those that are not a number."""
        series = self.get("query", query=expr)["result"]
        values = {frozenset(one["metric"].items()): float(one["value"][1]) for one in series}
        return {labels: value for labels, value in values.items() if not math.isnan(value)}

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self._client.close()


def features() -> list[str]:
    """Return what docker-compose.yml turns on."""
    command = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["prometheus"]["command"]
    return [argument for argument in command if argument.startswith("--enable-feature=")]


@contextmanager
def running_prometheus(folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the `prometheus.yml` in `folder`, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                find_program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                *features(),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
    prometheus = Prometheus(f"http://{address}")
    try:
        wait_for(lambda: prometheus.is_ready() or process.poll() is not None, START_WITHIN_S, log_path.read_text)
        assert process.poll() is None, log_path.read_text()
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait(20)
