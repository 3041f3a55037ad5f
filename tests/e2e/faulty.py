"""The server on a device that waits and fails when it is told to: `python -m tests.e2e.faulty`, else as `python -m app`.

Told by files in the folder that the environment variable FAULTS names: `hold` stops the device until it is gone, and is
answered by `held`; `lost` loses it, `poison` holds the id of a token that it fails on, `room` the most sequences that its
memory takes, `slow` how many seconds a batch takes longer, `quoted` a word: a request that has it fails before it is tokenized, by an
error that quotes it.
With `predict` a chunk is small, and what is predicted counts at once.
The environment variable STUCK_S is how long a batch may run at least, LINGER_S how long a connection
stays open before it is closed.
"""

import os
import runpy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import app.engine.threads
import app.http.connections.connection
import app.predict.pipeline
import app.processes.models.ahead
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.protocols import Runner
from app.errors import EngineLost, OutOfDeviceMemory
from app.runtime.choice import open_runner
from app.tasks import TASKS

FAULTS = Path(os.environ["FAULTS"])


class FaultyRunner:
    launches_ahead = False
    threads: Sequence[int] = ()

    def __init__(self, runner: Runner) -> None:
        self.provider = runner.provider
        self.variant_name = runner.variant_name
        self._run = runner.run

    def keep_threads(self, threads: Sequence[int]) -> None: ...

    def launch(self, batch: Sequence[TokenSequence], threads: int = 0) -> Callable[[], list[SequenceResult]]:
        return lambda: self.run(batch, threads)

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        return self.run(batch)

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]:
        while (FAULTS / "hold").exists():
            (FAULTS / "held").touch()
            time.sleep(0.001)
        if (FAULTS / "lost").exists():
            raise EngineLost("The device failed.") from RuntimeError("a fault that a test wanted")
        if (FAULTS / "poison").exists():
            poison = int((FAULTS / "poison").read_text())
            if any(poison in sequence.input_ids for sequence in batch):
                raise ValueError("a fault that a test wanted")
        if (FAULTS / "room").exists() and len(batch) > int((FAULTS / "room").read_text()):
            raise OutOfDeviceMemory("a fault that a test wanted")
        if (FAULTS / "slow").exists():
            time.sleep(float((FAULTS / "slow").read_text()))
        return self._run(batch, threads)


def open_faulty(*arguments: Any, **options: Any) -> Runner:
    return FaultyRunner(open_runner(*arguments, **options))


def quoting(prepare: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_or_quote(handler: Any, model: Any, request: Any) -> Any:
        if (FAULTS / "quoted").exists() and (FAULTS / "quoted").read_text() in str(request):
            raise KeyError(repr(request)) from ValueError(str(request))
        return prepare(handler, model, request)

    return prepare_or_quote


for kind in {type(handler) for handler in TASKS.values()}:
    kind.prepare = quoting(kind.prepare)  # type: ignore[method-assign]

app.processes.models.ahead.open_runner = open_faulty  # type: ignore[assignment, attr-defined]
app.engine.threads.STUCK_S = float(os.environ.get("STUCK_S", app.engine.threads.STUCK_S))  # type: ignore[misc]
app.http.connections.connection.LINGER_S = float(os.environ.get("LINGER_S", app.http.connections.connection.LINGER_S))  # type: ignore[misc]

app.predict.pipeline.MAX_CHUNK_BYTES = 4096  # type: ignore[misc]
app.predict.pipeline.COMMIT_EVERY_S = 0.0  # type: ignore[misc]

if __name__ == "__main__":
    runpy.run_module("app", run_name="__main__")
