"""The servers that are measured: how each is started, asked and stopped."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.bench import Bench
from benchmarks.bundles import ROOT, TORCH_PYTHON, ExportFailed
from benchmarks.engines import ENGINES, ONNX_RUNTIME, PEERS, Engine
from benchmarks.load import HOST, FloatArray
from benchmarks.report import Row
from benchmarks.texts import http_request

INFINITY: Final = TORCH_PYTHON.with_name("infinity_emb")
OURS: Final = "this server"
START_WITHIN_S: Final = 300.0
"""torch compiles the model at the first request."""
STOP_WITHIN_S: Final = 5.0
PROBE: Final = "A text to see whether the server answers."


class DidNotStart(Exception):
    """A server ended or stayed silent; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class System:
    """A server with an engine in one setting."""

    name: str
    engine: str
    setting: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/classify"
    form: str = "text"
    """How it is asked: `text` for one text, or the name of the key of a list."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = PEERS
    probe: str = PROBE
    broken: str = ""
    """Why it cannot be started, if that is known before."""

    @property
    def title(self) -> str:
        return f"{self.name}, {self.engine}, {self.setting}"

    @property
    def row(self) -> Row:
        """Return what names it in a table."""
        return {"server": self.name, "engine": self.engine, "setting": self.setting}

    def request(self, text: str) -> bytes:
        """Return the request for a text."""
        content: Any = [text] if self.form in _LISTS else text
        return http_request(self.path, {self.form: content, **self.extra})


_LISTS: Final = ("texts", "input")


def our_server(models: Path, engine: str, setting: str, *arguments: str) -> System:
    """Return this project's server on the bundle that is alone in `models`; `engine` and `setting` are for the tables."""
    options = ("--models", str(models), "--port", "{port}", "--no-access-log", "--no-tuning-cache", *arguments)
    command = (sys.executable, "-m", "app", *options)
    return System(OURS, engine, setting, command, path="/v1/classify", form="inputs", folder=ROOT)


def our_servers(bench: Bench, model: str) -> list[System]:
    """Return this server in each precision: one process, front ends of their own, and batches of one thread on each core."""
    settings = {"1 process": (), "2 front ends": ("--workers", "2")}
    if bench.cores > 1:
        settings[f"1 process, {bench.cores} x 1 threads"] = ("--threads", "1")
    return [
        our_server(bench.models_folder(model), f"cpu-{precision}", setting, "--precision", precision, *arguments)
        for precision in bench.precisions
        for setting, arguments in settings.items()
    ]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a peer uses the machine: most texts per run, model processes, threads of each."""

    batch: int
    workers: int
    threads: int

    def __str__(self) -> str:
        batch = f"batch {self.batch}" if self.batch > 1 else "no batching"
        return f"{batch}, {self.workers} x {self.threads} threads"


SERVED: Final = tuple(engine for engine in ENGINES if engine.title != "OpenVINO fp32")
"""What the peers are measured with."""


def peers(bench: Bench, model: str, layout: Layout) -> list[System]:
    """Return every peer in a layout, those left out that have no such setting.

    On the engines that are not ONNX Runtime: FastAPI, which is how most are served, and mosec, the fastest that batches.

    Raises:
        ExportFailed: the checkpoint cannot be made.
    """
    systems = []
    for engine in SERVED:
        try:
            systems += _on_engine(bench, model, layout, engine)
        except ExportFailed as error:
            systems.append(System("every server", engine.title, str(layout), (), broken=str(error)))
    if layout.workers == 1:
        checkpoint = str(bench.bundles.checkpoint(model))
        infinity = (
            *(str(INFINITY), "v2", "--model-id", checkpoint, "--served-model-name", "bert", "--engine", "torch"),
            *("--device", "cpu", "--dtype", "float32", "--batch-size", str(layout.batch), "--no-bettertransformer"),
            *("--no-model-warmup", "--host", HOST, "--port", "{port}"),
        )
        environment = {"OMP_NUM_THREADS": str(layout.threads), "DO_NOT_TRACK": "1"}
        environment |= {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
        one = System(
            "infinity", "torch fp32", str(layout), infinity, environment, form="input", extra={"model": "bert"}
        )
        systems.append(one)
    return systems


def _on_engine(bench: Bench, model: str, layout: Layout, engine: Engine) -> list[System]:
    environment = {
        **engine.environment(bench, model, layout.threads),
        "BATCH": str(layout.batch),
        "WORKERS": str(layout.workers),
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    }
    python = str(engine.python)

    def peer(name: str, *command: str, **how: Any) -> System:  # noqa: ANN401
        return System(name, engine.title, str(layout), (python, *command), environment, **how)

    systems = [peer("mosec", "mosec_peer.py", path="/inference")]
    if layout.batch == 1:
        systems.insert(0, peer("FastAPI", "fastapi_peer.py"))
    if engine in ONNX_RUNTIME:
        bentoml = ("-m", "bentoml", "serve", "bentoml_peer:Classifier", "--host", HOST, "--port", "{port}")
        systems += [
            peer("LitServe", "litserve_peer.py"),
            peer("BentoML", *bentoml, form="texts"),
            peer("Ray Serve", "ray_peer.py"),
        ]
    return systems


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    system: System
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def requests(self, texts: Sequence[str]) -> list[bytes]:
        return [self.system.request(text) for text in texts]

    def ask(self, path: str, document: Any = None, within_s: float = 10.0) -> tuple[int, str]:  # noqa: ANN401 - JSON
        """Return the status and the content of the answer to a GET, or to a POST if there is a document to send."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=within_s)
        try:
            if document is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def batches(self) -> FloatArray:
        """Return the seconds and the number of all batches that ran, of a server of ours."""
        _, metrics = self.ask("/metrics")
        values = (
            re.findall(rf"^bert_inference_duration_seconds_{name}{{.*}} (\S+)$", metrics, re.MULTILINE)
            for name in ("sum", "count")
        )
        return np.array([sum(map(float, found)) for found in values])


@contextlib.contextmanager
def serving(system: System) -> Iterator[Running]:
    """Start a server, wait until it answers, and end it and all that it started.

    Raises:
        DidNotStart: it does not answer.
    """
    if system.broken:
        raise DidNotStart(f"{system.title}: {system.broken}")
    if shutil.which(system.command[0]) is None:
        raise DidNotStart(f"{system.title}: {system.command[0]} is not installed")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in system.command],
            cwd=system.folder,
            env={**_clean_environment(), **system.environment, "PORT": str(port)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_it_answers(system, port, process, Path(log.name))
            yield Running(system, port, process, Path(log.name))
        finally:
            _end(process)


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BERT_")}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _wait_until_it_answers(system: System, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _status(port, system.request(system.probe)) == 200:
                return
        time.sleep(0.1)
    raise DidNotStart(f"{system.title}: {log.read_text(errors='replace')[-1000:].strip()}")


def _status(port: int, request: bytes) -> int:
    with socket.create_connection((HOST, port), timeout=30) as connection:
        connection.sendall(request)
        return int(connection.recv(1 << 16)[9:12] or 0)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its descendants: some servers start theirs in sessions of their own."""
    family = _descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN_S)
    for pid, started in [(process.pid, ""), *family.items()]:
        if not started or _start_of(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> dict[int, str]:
    """Return the processes below one, with when each started: an id alone may be another's by the time it is used."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child: _start_of(child)} | _descendants(child)
    return found


def _start_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "gone"
