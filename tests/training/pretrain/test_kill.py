"""A run that is killed goes on, to the same weights."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT, eventually
from tests.training.pretrain.language import TINY, write_texts
from training.__main__ import main

pytestmark = pytest.mark.torch

STEPS = 60
WITHIN_S = 120.0


def options(texts: Path, output: Path, steps: int) -> list[str]:
    given = ("--texts", texts, "--output", output, "--vocab-size", 200, "--max-steps", steps, "--save-steps", 10, *TINY)
    return ["pretrain", *map(str, given), "--batch-size", "16"]


@contextmanager
def running(texts: Path, output: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "training", *options(texts, output, STEPS)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
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


def test_a_run_that_is_killed_after_its_last_step_learns_no_more(
    tmp_path: Path, training: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.pretrain import command as pretrain

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    texts = write_texts(tmp_path / "texts.txt")
    told = training(*options(texts, tmp_path / "whole", 15))
    assert told.count("step 15 of 15: held out") == 1
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "draw_loss", killed)
        assert main(options(texts, tmp_path / "killed", 15)) == 130
    assert "Going on from step 15 of 15." in training(*options(texts, tmp_path / "killed", 15))
    whole, after = tmp_path / "whole", tmp_path / "killed"
    assert (after / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    first, second = (json.loads((folder / "evaluation.json").read_text())["held_out"] for folder in (whole, after))
    assert first == second


def test_a_checkpoint_that_has_changed_is_not_gone_on_with(
    tmp_path: Path, training: Callable[..., str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.work_folder import WorkFolder

    texts, start = write_texts(tmp_path / "texts.txt"), tmp_path / "start"
    training(*options(texts, start, 1))
    given = (
        "--texts",
        texts,
        "--output",
        tmp_path / "output",
        "--checkpoint",
        start,
        "--max-length",
        32,
        "--max-steps",
        1,
    )
    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "finish", lambda _: None)
        training("pretrain", *given)
    (start / "vocab.txt").write_text("a\n")
    assert "is of a run with other options (from)" in refused("pretrain", *given)
