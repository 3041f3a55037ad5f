"""A run depends on its seed alone, goes on after a kill, and leaves its output whole or not at all."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT, eventually
from tests.training import toy

pytestmark = pytest.mark.torch

STARTED_WITHIN_S = 120.0
STEPS = (
    "--max-steps",
    120,
    "--save-steps",
    10,
    "--learning-rate",
    1e-3,
    "--batch-size",
    16,
    "--early-stopping-patience",
    0,
)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with dropout, whose chance must be the same after a kill, too."""
    return toy.make_checkpoint(tmp_path_factory.mktemp("dropout") / "checkpoint", hidden_dropout_prob=0.2)


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path) -> Callable[[str], list[object]]:
    data = toy.write_csv(tmp_path / "rows.csv", toy.reviews(200))  # step 20 is within the second epoch

    def command(name: str) -> list[object]:
        return ["finetune", "--data", data, "--checkpoint", checkpoint, "--output", tmp_path / name, *STEPS]

    return command


@contextmanager
def started(arguments: list[object]) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in a process of its own, which is killed if it has not ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "training", *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def kill_after(step: int, folder: Path, arguments: list[object]) -> None:
    """Run a command until it has kept what it has learnt so far, and kill it."""
    state = folder.with_name(f"{folder.name}.part") / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json"
    with started(arguments):
        eventually(state.exists, STARTED_WITHIN_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_goes_on_and_gives_the_weights_of_one_that_was_not(
    tmp_path: Path, training: Callable[..., str], command: Callable[[str], list[object]], number: signal.Signals
) -> None:
    training(*command("whole"))
    with started(command("killed")) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("step 20 of 120: held out"))
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait() in (-number, 128 + number)
    assert not (tmp_path / "killed").exists()
    if number != signal.SIGKILL:
        assert re.search(r"Stopped at step \d+ of 120. The same command goes on from step \d+0\.", rest)
    told = training(*command("killed"))
    assert re.search(r"Going on from step \d+0 of 120\.", told)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert not (tmp_path / "killed.part").exists()


def test_a_checkpoint_that_a_kill_left_unfinished_is_not_gone_on_with(
    tmp_path: Path, training: Callable[..., str], command: Callable[[str], list[object]]
) -> None:
    training(*command("whole"))
    kill_after(20, tmp_path / "killed", command("killed"))
    kept = tmp_path / "killed.part" / "checkpoints"
    last = max(kept.iterdir(), key=lambda folder: int(folder.name.partition("-")[2]))
    unfinished = kept / "checkpoint-39"
    last.rename(unfinished)
    (unfinished / "trainer_state.json").write_text('{"epoch"')
    training(*command("killed"))
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_another_seed_gives_other_weights_and_the_same_the_same(
    tmp_path: Path, training: Callable[..., str], command: Callable[[str], list[object]]
) -> None:
    for name, seed in (("first", 1), ("second", 1), ("third", 2)):
        training(*command(name), "--seed", seed)
    assert weights(tmp_path / "first") == weights(tmp_path / "second") != weights(tmp_path / "third")


def test_what_was_begun_with_other_options_is_not_gone_on_with(
    tmp_path: Path, refused: Callable[..., str], training: Callable[..., str], command: Callable[[str], list[object]]
) -> None:
    kill_after(10, tmp_path / "output", command("output"))
    told = refused(*command("output"), "--seed", 5)
    assert "is of a run with other options (seed): give the same to go on, --overwrite to begin anew" in told
    training(*command("output"), "--seed", 5, "--overwrite")
    assert (tmp_path / "output" / "model.safetensors").exists()


def test_an_output_that_is_there_is_replaced_only_if_so_asked(
    tmp_path: Path, refused: Callable[..., str], training: Callable[..., str], command: Callable[[str], list[object]]
) -> None:
    (tmp_path / "output").mkdir()
    assert "is there; name another --output, or --overwrite it" in refused(*command("output"))
    training(*command("output"), "--overwrite")
    assert (tmp_path / "output" / "README.md").exists()


def test_two_commands_do_not_work_on_one_output(
    tmp_path: Path, refused: Callable[..., str], command: Callable[[str], list[object]]
) -> None:
    with started(command("output")):
        eventually((tmp_path / "output.part").exists, STARTED_WITHIN_S)
        assert "another command works on" in refused(*command("output"))


@pytest.mark.parametrize("kind", ["plain", "balanced", "distilled"])
def test_a_step_in_parts_has_the_gradients_of_the_whole_step(
    tmp_path: Path, training: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from training.work_folder import WorkFolder

    checkpoint = toy.make_checkpoint(tmp_path / "checkpoint", attention_probs_dropout_prob=0.0)
    data = toy.write_csv(tmp_path / "rows.csv", toy.reviews(200))
    given: tuple[object, ...] = ("finetune", "--data", data, "--checkpoint", checkpoint)
    if kind == "balanced":
        given += ("--class-weights", "balanced")
    if kind == "distilled":
        training(*given, "--output", tmp_path / "teacher", "--max-steps", 20, "--learning-rate", 1e-3)
        given = ("distill", "--teacher", tmp_path / "teacher", "--texts", data, "--hidden-size", 32)
    monkeypatch.setattr(WorkFolder, "finish", lambda _: None)  # so that what was logged stays
    logged = []
    for parts in (1, 2):
        output = tmp_path / str(parts)
        training(*given, "--output", output, "--max-steps", 1, "--gradient-accumulation-steps", parts)
        [state] = Path(f"{output}.part").glob("checkpoints/**/checkpoint-1/trainer_state.json")
        [entry] = [entry for entry in json.loads(state.read_text())["log_history"] if "grad_norm" in entry]
        logged.append((entry["loss"], entry["grad_norm"]))
    # The hidden states of a part are averaged over its own tokens; a step that forgets to average its parts has twice the loss.
    assert logged[0] == pytest.approx(logged[1], rel=0.02)
