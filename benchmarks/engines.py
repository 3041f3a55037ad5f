"""What the peers run their models on, and this project's engine, without a server: texts in, logits and CPU time out."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from app.bundle.cpus import has_bf16_products
from app.bundle.manifest import Precision
from benchmarks.batches import token_sequences
from benchmarks.bench import Bench
from benchmarks.bundles import ROOT, TELLS_NOBODY, TORCH_PYTHON, ExportFailed, ModelForm
from benchmarks.report import Row, say

PEERS: Final = Path(__file__).parent / "peers"
PEERS_PYTHON: Final = ROOT / ".venv-bench/bin/python"
"""An environment with `requirements-peers.txt`."""

Logits = npt.NDArray[np.float64]


class DidNotOpen(Exception):
    """An engine is not installed or cannot run the model; the message has the end of its log."""


class Engine(NamedTuple):
    """An engine in a precision."""

    title: str
    module: str
    precision: Literal["fp32", "bf16", "bf16-compiled", "int8"]
    form: ModelForm
    python: Path

    def environment(self, bench: Bench, model: str, threads: int) -> dict[str, str]:
        """Return what `peers/text_model.py` reads.

        Raises:
            ExportFailed: the model cannot be made for this engine, or this CPU does not multiply in its precision.
        """
        if self.precision.startswith("bf16") and not has_bf16_products():
            raise ExportFailed("this CPU does not multiply bf16")
        return {
            "ENGINE": self.module,
            "PRECISION": self.precision,
            "MODEL": str(bench.bundles.peer_model(model, self.form)),
            "TOKENIZER": str(bench.bundles.checkpoint(model) / "tokenizer.json"),
            "THREADS": str(threads),
            # Whatever else counts threads: torch, and NumPy's BLAS.
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            **TELLS_NOBODY,
        }


ONNX_RUNTIME: Final = (
    Engine("ONNX Runtime fp32", "onnxruntime", "fp32", "padded-fp32", PEERS_PYTHON),
    Engine("ONNX Runtime int8", "onnxruntime", "int8", "padded-int8", PEERS_PYTHON),
)
ENGINES: Final = (
    *ONNX_RUNTIME,
    Engine("OpenVINO fp32", "openvino", "fp32", "openvino", TORCH_PYTHON),
    Engine("OpenVINO bf16", "openvino", "bf16", "openvino", TORCH_PYTHON),
    Engine("OpenVINO int8", "openvino", "int8", "openvino-int8", TORCH_PYTHON),
    Engine("CTranslate2 int8", "ctranslate2", "int8", "ctranslate2-int8", TORCH_PYTHON),
    Engine("torch bf16", "torch", "bf16", "checkpoint", TORCH_PYTHON),
    Engine("torch bf16, compiled", "torch", "bf16-compiled", "checkpoint", TORCH_PYTHON),
)


class Answers(NamedTuple):
    """What came of batches of texts."""

    logits: Logits  # float64[texts, labels]
    cpu_s: float


Measure = Callable[[Sequence[Sequence[str]]], Answers]
"""Answer batches of texts, and say how long one thread took for that, tokenization left out."""


def our_title(precision: Precision) -> str:
    """Return how this project's own engine is called in tables: by the variant."""
    return f"this, cpu-{precision}"


class Opened(NamedTuple):
    """A model in all engines that can run it here."""

    measures: dict[str, Measure]
    missing: list[Row]
    """What could not be opened, and why."""


@contextmanager
def opened(bench: Bench, model: str) -> Iterator[Opened]:
    """Open a model in every engine, with one thread: this project's first."""
    found = Opened({our_title(precision): _our_measure(bench, model, precision) for precision in bench.precisions}, [])
    with ExitStack() as stack:
        for engine in ENGINES:
            say(f"{model}: {engine.title}")
            try:
                found.measures[engine.title] = stack.enter_context(_measure(bench, model, engine))
            except (DidNotOpen, ExportFailed) as error:
                say(f"  {error}")
                found.missing.append(
                    {"kind": "not measured", "model": model, "engine": engine.title, "error": str(error)[-200:]}
                )
        yield found


def _our_measure(bench: Bench, model: str, precision: Precision) -> Measure:
    runner = bench.runner(model, precision, threads=1)
    folder = bench.bundles.folder(model)

    def measure(batches: Sequence[Sequence[str]]) -> Answers:
        prepared = [token_sequences(folder, texts) for texts in batches]
        started_at = time.process_time()
        answers = [runner.run(batch) for batch in prepared]
        cpu_s = time.process_time() - started_at
        return Answers(np.array([answer for batch in answers for answer in batch], np.float64), cpu_s)

    return measure


@contextmanager
def _measure(bench: Bench, model: str, engine: Engine) -> Iterator[Measure]:
    """Run `peers/measured.py` in the environment of an engine.

    Raises:
        DidNotOpen: it ended.
        ExportFailed: the model cannot be made for it.
    """
    if not engine.python.exists():
        raise DidNotOpen(f"{engine.python} is not there")
    environment = os.environ | engine.environment(bench, model, threads=1)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [str(engine.python), "measured.py"],
            cwd=PEERS,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def measure(batches: Sequence[Sequence[str]]) -> Answers:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(json.dumps(batches) + "\n")
                stdin.flush()
            if not (line := stdout.readline()):
                log.seek(0)
                raise DidNotOpen(f"{engine.title} ended: {log.read().strip()[-1000:]}")
            answer = json.loads(line)
            return Answers(np.array(answer["logits"], np.float64), answer["cpu_s"])

        try:
            measure([["It answers."], ["One", "and another."]])
            yield measure
        finally:
            process.kill()
            process.communicate()
