"""Start the real server in a process of its own, on a free port, and stop it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
START_WITHIN_S = 60.0
STOP_WITHIN_S = 40.0


@dataclass
class ServerProcess:
    process: "subprocess.Popen[bytes]"
    url: str
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log as it was written: one JSON object a line."""
        return [json.loads(line) for line in self.log.splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_WITHIN_S)


def run_app(*arguments: str, timeout_s: float = 30.0, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m app` to its end: for starts that must fail."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def serving(models: Path, *arguments: str, wait: bool = True, **environment: str) -> Iterator[ServerProcess]:
    """Serve `models` on a free port; what is still running at the end is killed."""
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app", "--models", str(models), "--port", "0", *arguments],
                cwd=ROOT,
                env=_environment(environment),
                stdout=log,
                stderr=log,
            )
        try:
            server = ServerProcess(process, "", log_path)
            server.url = _wait_for(server, lambda: re.search(r"listening on (http://[^ ]+)", server.log))[1]
            if wait:
                _wait_for(server, lambda: _is_ready(server.url))
            yield server
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _environment(changes: dict[str, str]) -> dict[str, str]:
    # ResourceWarning: prometheus_client leaves its shared files open when several processes count together.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BERT_")}
    return clean | {"PYTHONWARNINGS": "error,ignore::ResourceWarning", "BERT_LOG_FORMAT": "json"} | changes


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _wait_for(server: ServerProcess, condition: Any) -> Any:
    deadline = time.monotonic() + START_WITHIN_S
    while not (value := condition()):
        assert server.process.poll() is None, f"the server ended:\n{server.log}"
        assert time.monotonic() < deadline, f"the server is not ready:\n{server.log}"
        time.sleep(0.02)
    return value
