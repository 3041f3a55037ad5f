"""Start the real server in a process of its own, on a free port, talk to it, and stop it."""

import gc
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from app.bundle.checksum import sealed

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "tests" / "fixtures" / "checkpoints"
DEMO_CHECKPOINT = ROOT / "model_export" / "demo_checkpoint"
START_WITHIN_S = 60.0
END_WITHIN_S = 30.0
STOP_WITHIN_S = 40.0
HAPPEN_WITHIN_S = 20.0
BATCH_TOKENS = "4096"
"""What a start finds best for the small models, in 0.6 s for each of them."""


@dataclass(frozen=True)
class Reply:
    """What came back. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error whose shape and request id are right."""
        document = self.json
        # The last two are for those who ask /v1/rerank in another form.
        assert set(document) - {"message", "detail"} == {"error", "error_type", "request_id"}
        assert document["request_id"] == self.headers["x-request-id"]
        return document["error"]


class Connection:
    """A connection that stays open."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request, whose body is JSON if it is not bytes, and wait for its answer."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self._connection.request(method, path, content, dict(headers or {}))
        response = self._connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def close(self) -> None:
        self._connection.close()


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

    def told(self, request_id: str) -> dict[str, Any]:
        """Return what the log says of a request: a thread writes it, maybe after the answer."""
        return eventually(lambda: next((one for one in self.records if one.get("request_id") == request_id), {}))

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask on a connection of its own."""
        connection = Connection(self.url)
        try:
            return connection.ask(method, path, body, headers)
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """Ask for an inference; header names with _ for -."""
        return self.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of a metric that have these labels."""
        values = []
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if re.fullmatch(rf"{name}(\{{.*\}})?", series) and all(f'{k}="{v}"' in series for k, v in labels.items()):
                values.append(float(value))
        assert values, f"there is no {name} with {labels}"
        return sum(values)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_WITHIN_S)

    def stop_now(self, number: int) -> int:
        """Send a signal again and again, as only one that comes a while after the first hastens a stop; return the exit status."""
        eventually(lambda: is_ended_by(number, self.process), STOP_WITHIN_S)
        return self.process.returncode


def is_ended_by(number: int, process: "subprocess.Popen[bytes]") -> bool:
    """Send a signal again; return whether the process has ended."""
    process.send_signal(number)
    return process.poll() is not None


def is_alive(server: ServerProcess) -> bool:
    try:
        return server.ask("GET", "/livez").status == 200
    except (OSError, http.client.HTTPException):
        return False


def change_manifest(bundle: Path, **changes: Any) -> None:
    """Change keys of a bundle's manifest as if it had been exported so: with the checksum of what it is now."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    manifest.pop("checksum", None)
    path.write_text(sealed(json.dumps(manifest)))


def eventually(condition: Callable[[], T], within_s: float = HAPPEN_WITHIN_S) -> T:
    """Return the value of a condition as soon as it is true."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return value


def run_app(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m app` to its end: for starts that must fail."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=END_WITHIN_S,
        check=False,
    )


def serving(models: Path, *arguments: str, **environment: str) -> AbstractContextManager[ServerProcess]:
    """Serve `models` on a free port, from when it is ready; what is still running at the end is killed."""
    return starting(models, *arguments, environment=environment)


@contextmanager
def starting(
    models: Path,
    *arguments: str,
    environment: Mapping[str, str],
    module: str = "app",
    wait: bool = True,
    until: str = r"listening on ([^ ,]+)",
    python: Path = Path(sys.executable),
    cwd: Path = ROOT,
) -> Iterator[ServerProcess]:
    """Serve as `serving` does, by another module, in another environment or folder, or from when the log has its URL.

    A batch has `BATCH_TOKENS`, if nothing else is asked for: `--batch-tokens 0` measures, as servers do by default.
    """
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [str(python), "-m", module, "--models", str(models), "--port", "0", *arguments],
                cwd=cwd,
                env=_environment({"BERT_BATCH_TOKENS": BATCH_TOKENS, **environment}),
                stdout=log,
                stderr=log,
            )
        try:
            server = ServerProcess(process, "", log_path)
            server.url = _wait_for(server, lambda: re.search(until, server.log))[1]
            if wait:
                # Of each front end: any of them may get the next connection.
                workers = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
                _wait_for(server, lambda: server.log.count("ready in ") >= workers)
            yield server
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BERT_")}
    # ResourceWarning: uvloop warns of connections that an engine with a lost device leaves open, and as an error that stops its end.
    return clean | {
        "PYTHONWARNINGS": "error,ignore::ResourceWarning",
        "BERT_LOG_FORMAT": "json",
        "BERT_TUNING_CACHE": "false",
        **changes,
    }


def _wait_for(server: ServerProcess, condition: Any) -> Any:
    deadline = time.monotonic() + START_WITHIN_S
    while not (value := condition()):
        assert server.process.poll() is None, f"the server ended:\n{server.log}"
        assert time.monotonic() < deadline, f"the server is not ready:\n{server.log}"
        time.sleep(0.02)
    return value


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave what refers to itself where it is: a server's garbage collector comes round seldom, too."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
