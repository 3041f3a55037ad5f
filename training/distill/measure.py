"""How large, how fast and how good a checkpoint is when it is served, in fp32 and in int8: by the commands that a user has."""

import io
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.bundle import export
from training.distill.evaluation import Answer, Evaluation, Form, Row, quality
from training.errors import TrainingError, tell

VARIANTS: Final = ("fp32", "int8")
_RATE: Final = re.compile(r"([\d,]+) rows/s\b")
_BAD_ROWS: Final = 3
"""The exit status of `python -m app predict` where some rows have no prediction."""
_LEAST_ROWS: Final = 400
"""That are answered to tell the speed."""

_LIKELY: Final = 0.5
"""The score from which on a label of several is one of a text's."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model in one precision."""

    model: str
    precision: str
    parameters: int
    size_bytes: int
    rows_per_s: float
    quality: float

    @property
    def name(self) -> str:
        """The model and its precision."""
        return f"{self.model}, {self.precision}"


def measure(models: Mapping[str, Path], task: str, form: Form, evaluation: Evaluation, scratch: Path) -> list[Measured]:
    """Export each checkpoint in each precision and ask it; what the first answers is right where nothing else is.

    Raises:
        TrainingError: an export or a prediction failed.
    """
    measured: list[Measured] = []
    for name, checkpoint in models.items():
        tell(f"Measuring {name} in {' and '.join(VARIANTS)} ...")
        bundle = scratch / "bundles" / name
        variants = ",".join(f"cpu-{each}" for each in VARIANTS)
        told = io.StringIO()
        try:
            with redirect_stdout(told), redirect_stderr(told):
                # However much int8 changes: that is what is to be told.
                export(checkpoint, bundle, task, ["--variants", variants, "--keep-inaccurate"])
        except TrainingError:
            *_, reason = told.getvalue().strip().split("\n")
            raise TrainingError(f"{name} cannot be exported: {reason.removeprefix('error: ')}") from None
        for precision in VARIANTS:
            found, rate = ask(bundle, precision, evaluation, form, scratch)
            if evaluation.answers is None:
                evaluation.answers = found
            measured.append(
                Measured(
                    name,
                    precision,
                    parameters=_manifest(bundle)["architecture"]["parameters"],
                    size_bytes=sum(file.stat().st_size for file in bundle.glob(f"cpu-{precision}.*")),
                    rows_per_s=rate,
                    quality=quality(form, found, evaluation.answers),
                )
            )
    return measured


def ask(bundle: Path, precision: str, evaluation: Evaluation, form: Form, scratch: Path) -> tuple[list[Answer], float]:
    """Return what a bundle answers to each row, and how many rows it answers in a second.

    Raises:
        TrainingError: `python -m app predict` failed.
    """
    rows = evaluation.rows
    repeats = -(-_LEAST_ROWS // len(rows))
    # A folder of its own: what a kill left is not gone on with, of which no speed could be told.
    folder = Path(tempfile.mkdtemp(dir=scratch))
    source, target = folder / "rows.jsonl", folder / "answers.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows] * repeats))
    options = [
        "--model",
        bundle,
        "--input",
        source,
        "--output",
        target,
        "--precision",
        precision,
        "--device",
        "cpu",
        "--keep",
        "--parameters",
        json.dumps(evaluation.parameters),
    ]
    command = [sys.executable, "-m", "app", "predict", *map(str, options), "--overwrite", "--no-tuning-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode == _BAD_ROWS:
        with target.with_suffix(".bad.jsonl").open() as lines:
            bad = json.loads(next(lines))
        raise TrainingError(f"a text to evaluate on cannot be asked, {_start(bad['content'])}: {bad['error']}")
    if done.returncode:
        raise TrainingError(f"the bundle of {bundle.name} cannot be asked: {done.stderr.strip()}")
    [rate] = _RATE.findall(done.stderr)[-1:]
    with target.open() as lines:
        answers = [_answer(json.loads(line)["prediction"], form) for _, line in zip(rows, lines, strict=False)]
    return answers, float(rate.replace(",", ""))


def _answer(prediction: Any, form: Form) -> Answer:
    match form:
        case "label":
            return {prediction[0]["label"]}
        case "labels":
            return {one["label"] for one in prediction if one["score"] > _LIKELY}
        case "number":
            return float(prediction[0]["score"])
        case "entities":
            return {(one["start"], one["end"], one["entity_group"]) for one in prediction}
        case "answer":
            return {one["answer"] for one in prediction[:1]} or {""}


def _start(row: Row) -> str:
    return repr(textwrap.shorten(next(iter(row.values())), 60, placeholder=" ..."))


def _manifest(bundle: Path) -> Any:
    return json.loads((bundle / "manifest.json").read_text())
