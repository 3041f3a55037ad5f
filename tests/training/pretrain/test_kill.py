"""A run that is killed goes on, to the same weights."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT, eventually
from tests.training.pretrain.language import TINY, write_texts

pytestmark = pytest.mark.torch

STEPS = 60
WITHIN_S = 120.0


def command(texts: Path, output: Path) -> list[str]:
    given = ("--texts", texts, "--output", output, "--vocab-size", 200, "--max-steps", STEPS, "--save-steps", 10, *TINY)
    return [sys.executable, "-m", "training", "pretrain", *map(str, given), "--batch-size", "16"]


@contextmanager
def running(texts: Path, output: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(texts, output), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(texts: Path, output: Path) -> str:
    with running(texts, output) as process:
        _, told = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0, told
    return told


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts.txt")
    finish(texts, tmp_path / "whole")

    output = tmp_path / "killed"
    checkpoints = tmp_path / "killed.part" / "checkpoints"
    told = ""
    for number, status, step in ((signal.SIGKILL, -9, 10), (signal.SIGTERM, 143, 30)):
        with running(texts, output) as process:
            saved = checkpoints / f"checkpoint-{step}" / "trainer_state.json"
            eventually(lambda saved=saved: saved.exists(), WITHIN_S)  # type: ignore[misc]
            process.send_signal(number)
            _, told = process.communicate(timeout=WITHIN_S)
            assert process.returncode == status, told
    assert "The same command goes on from step" in told
    assert "Going on from step" in finish(texts, output)

    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed.part").exists()
