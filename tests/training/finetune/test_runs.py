"""A run depends on its seed alone, goes on after a kill, and leaves its output whole or not at all."""

import fcntl
import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, eventually
from tests.training import toy
from training.__main__ import main
from training.errors import Stopped, TrainingError

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


def test_a_checkpoint_that_has_changed_is_not_gone_on_with(
    tmp_path: Path, refused: Callable[..., str], command: Callable[[str], list[object]], checkpoint: Path
) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    changed = [other if argument == checkpoint else argument for argument in command("output")]
    kill_after(10, tmp_path / "output", changed)
    toy.make_checkpoint(other, hidden_dropout_prob=0.3)
    assert "is of a run with other options (from)" in refused(*changed)


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


def test_a_lock_whose_file_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.work_folder import WorkFolder

    def flock(*arguments: Any) -> None:
        (tmp_path / "output.lock").unlink()  # by the run that had it, when this one has just opened it
        (tmp_path / "output.lock").touch()
        real(*arguments)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(TrainingError, match="another command works on"),
        WorkFolder(tmp_path / "output", {}, overwrite=False),
    ):
        pass


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Stopped])
def test_a_stop_beside_the_steps_says_that_the_command_goes_on_if_something_is_there(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    from training.work_folder import WorkFolder

    def run(*made: str) -> None:
        with WorkFolder(tmp_path / "output", {}, overwrite=False) as folder:
            for name in made:
                (folder.scratch / name).touch()
            raise stop

    with pytest.raises(stop, match=r"^$"):
        run()
    assert not list(tmp_path.iterdir())
    with pytest.raises(stop, match="The same command goes on"):
        run("corpus")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_export_is_all_that_is_left_to_do(
    tmp_path: Path, training: Callable[..., str], command: Callable[[str], list[object]], number: signal.Signals
) -> None:
    bundle = tmp_path / "models" / "output"
    given = [*command("output"), "--max-steps", 1, "--export", bundle, "--variants", "cpu-fp32,cpu-int8"]
    with started(given) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("Reading the checkpoint"))
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait() in (-number, 128 + number)
    if number != signal.SIGKILL:
        assert rest.endswith("Stopped in the export. The same command goes on with it.\n")
    assert not (bundle / "manifest.json").exists()
    before = (tmp_path / "output" / "model.safetensors").stat().st_ino
    told = training(*given)
    assert "held out" not in told
    assert f"Exported {bundle}" in told
    assert (tmp_path / "output" / "model.safetensors").stat().st_ino == before
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "output", "models"}


def test_a_result_that_a_kill_kept_from_its_place_is_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.work_folder import WorkFolder

    def killed() -> None:
        raise KeyboardInterrupt

    with WorkFolder(tmp_path / "output", {"seed": 0}, overwrite=False) as folder:
        folder.result.mkdir()
        (folder.result / "config.json").touch()
        monkeypatch.setattr(folder, "_put_in_place", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.finish()
        (folder.checkpoints / "checkpoint-1" / "weights").mkdir(parents=True)
    with WorkFolder(tmp_path / "output", {"seed": 0}, overwrite=False) as folder:
        assert folder.is_finished
    assert [path.name for path in tmp_path.rglob("*")] == ["output", "config.json"]
    with pytest.raises(TrainingError, match="is there"), WorkFolder(tmp_path / "output", {"seed": 0}, overwrite=False):
        pass


EXPORTS: dict[str, tuple[tuple[object, ...], str]] = {
    "an unknown variant": (("--export", "models/a", "--variants", "cpu-fp33"), "--variants has cpu-fp33: choose from"),
    "variants of nothing": (("--variants", "cpu-fp32"), "--variants are of the bundle that --export writes"),
    "no name of a bundle": (("--export", "models/a b"), "--export models/a b does not end in a valid name of a bundle"),
    "a folder that is no bundle": (("--export", ROOT / "docs"), "is not empty and is not a bundle"),
    "nowhere to write": (("--export", "/proc/none/a"), "--export /proc/none/a cannot be written"),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_an_export_that_would_fail_is_refused_before_anything_is_learnt(
    tmp_path: Path, refused: Callable[..., str], command: Callable[[str], list[object]], case: str
) -> None:
    options, message = EXPORTS[case]
    assert message in refused(*command("output"), *options)
    assert not list(tmp_path.glob("output*"))


def test_a_network_that_cannot_be_exported_is_refused_before_anything_is_learnt(
    tmp_path: Path, refused: Callable[..., str], command: Callable[[str], list[object]], checkpoint: Path
) -> None:
    other = toy.make_checkpoint(tmp_path / "checkpoint", hidden_act="silu")
    given = [other if argument == checkpoint else argument for argument in command("output")]
    told = refused(*given, "--export", "models/a")
    assert f"the result could not be exported: {other}/config.json has the activation 'silu'" in told


@pytest.mark.parametrize(
    ("figures", "losses", "best", "last"),
    [
        ([0, 0, 0, 0, 0.5, 0.6], [9, 8, 7, 6, 5, 4], 6, 6),  # a slow start
        ([0, 0, 0, 0, 0.5, 0.6], [5, 6, 7, 8, 9, 9], 1, 4),
        ([0.5, 0.6, 0.6, 0.6, 0.6, 0.6], [5, 4, 3, 4, 3.5, 3], 3, 6),
        ([0.5, 0.4, 0.3, 0.2, 0.9, 0.9], [5, 4, 3, 2, 1, 0], 1, 4),
    ],
)
def test_the_best_step_has_the_best_figure_and_of_equals_the_lowest_loss(
    figures: list[float], losses: list[float], best: int, last: int
) -> None:
    from transformers import TrainerControl, TrainerState

    from training.running import BestStep

    state = TrainerState()
    for step, (figure, loss) in enumerate(zip(figures, losses, strict=True), 1):
        state.log_history += [{"step": step, "loss": 1.0}, {"step": step, "eval_f1": figure, "eval_loss": loss}]
        control = TrainerControl()
        BestStep("f1", patience=3).on_evaluate(None, state, control)  # a new one, as after a kill
        if control.should_training_stop:
            break
    assert (state.best_global_step, step) == (best, last)


def test_a_run_that_is_killed_after_its_last_step_learns_no_more(
    tmp_path: Path,
    training: Callable[..., str],
    command: Callable[[str], list[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from training.finetune import command as finetune

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    steps = ("--max-steps", 25)  # the last one is within an epoch
    training(*command("whole"), *steps)
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "draw_loss", killed)
        assert main([*map(str, command("killed")), *map(str, steps)]) == 130
    assert "step 26" not in training(*command("killed"), *steps)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_a_killed_run_ends_early_where_one_does_that_was_not_killed(
    tmp_path: Path,
    training: Callable[..., str],
    command: Callable[[str], list[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from training.running import Progress

    chance = random.Random(0)
    rows = [{**row, "label": chance.choice(["positive", "negative"])} for row in toy.reviews(200)]
    toy.write_csv(tmp_path / "rows.csv", rows)  # nothing to learn: no evaluation is much better than the first
    given = ("--early-stopping-patience", 2, "--learning-rate", 3e-3)
    whole = training(*command("whole"), *given)
    assert "step 120" not in whole

    def killed(*arguments: Any, **_: object) -> None:
        if arguments[2].global_step == 35:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_begin", killed)
        assert main([*map(str, command("killed")), *map(str, given)]) == 130
    after = training(*command("killed"), *given)
    first, second = (re.findall(r"step (\d+) of 120: held out", told)[-1] for told in (whole, after))
    assert first == second
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


UNREADABLE: dict[str, tuple[str, str]] = {
    "cut short": ("model.safetensors", "the weights of {} cannot be read: Error while deserializing header"),
    "no tokenizer": ("tokenizer.json", "{} has no vocabulary: tokenizer.json or vocab.txt is missing"),
    "a pickle cut short": ("pytorch_model.bin", "the weights of {} cannot be read: PytorchStreamReader failed"),
    "a pickle of more than tensors": ("pytorch_model.bin", "of a pytorch_model.bin, tensors alone are read"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_damaged_checkpoint_is_told(
    tmp_path: Path, refused: Callable[..., str], command: Callable[[str], list[object]], checkpoint: Path, case: str
) -> None:
    torch = pytest.importorskip("torch")
    name, message = UNREADABLE[case]
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    if name == "tokenizer.json":
        (broken / name).unlink()
        (broken / "tokenizer_config.json").unlink()
    if name == "pytorch_model.bin":
        (broken / "model.safetensors").unlink()
        torch.save({"a": torch.zeros(1000), "b": Path() if "more" in case else 0}, broken / name)
    if "short" in case:
        content = (broken / name).read_bytes()
        (broken / name).write_bytes(content[: len(content) // 2])
    given = [broken if argument == checkpoint else argument for argument in command("output")]
    assert message.format(broken) in refused(*given)


def test_bf16_is_refused_where_the_gpu_has_none_and_learns_on_a_processor(
    refused: Callable[..., str],
    training: Callable[..., str],
    command: Callable[[str], list[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from training import running

    torch = pytest.importorskip("torch")
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        patch.setattr(running, "is_torch_bf16_gpu_available", lambda: False)
        assert "the GPU has no bfloat16: do without --bf16" in refused(*command("output"), "--bf16")
    training(*command("output"), "--bf16", "--max-steps", 1)


@pytest.mark.parametrize("length", [4, 65])
def test_a_length_that_the_checkpoint_does_not_take_is_refused(
    refused: Callable[..., str], command: Callable[[str], list[object]], length: int
) -> None:
    told = refused(*command("output"), "--max-length", length)
    assert f"--max-length {length} is not from 5, which two texts of a token need, to 64" in told


def test_no_length_is_advised_that_the_checkpoint_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.checkpoint import open_checkpoint
    from training.finetune.cut import encode

    short = toy.make_checkpoint(tmp_path / "short", max_position_embeddings=40)
    written = short / "tokenizer_config.json"
    written.write_text(json.dumps({**json.loads(written.read_text()), "model_max_length": 64}))
    tokenizer = open_checkpoint(str(short)).tokenizer
    for longest in (39, 41):
        texts = ["the " * (count - 2) for count in (10, longest)]  # with two special tokens
        assert [len(ids) for ids in encode(tokenizer, texts, None, 20)["input_ids"]] == [10, 20]
    assert [line.rpartition("end")[2] for line in capsys.readouterr().err.splitlines() if "end" in line] == [
        "; --max-length 39 cuts none.",
        ".",
    ]


def test_what_is_read_is_not_written_over(
    tmp_path: Path, refused: Callable[..., str], command: Callable[[str], list[object]], checkpoint: Path
) -> None:
    data = tmp_path / "rows.csv"
    for options in (
        ("--save-eval-data", data),
        ("--eval-data", tmp_path / "more.csv", "--save-eval-data", tmp_path / "x" / ".." / "more.csv"),
        ("--data", tmp_path, "--save-eval-data", tmp_path / "held-out.jsonl"),
        ("--data", tmp_path, "--output", tmp_path / "output"),
        ("--output", tmp_path, "--overwrite"),
        ("--output", checkpoint, "--overwrite"),
        ("--output", checkpoint / "output"),
    ):
        assert "are the same, or one is in the other: name another" in refused(*command("output"), *options)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv"}


def test_the_card_has_what_makes_the_model_again_as_it_was_written(
    tmp_path: Path, training: Callable[..., str], command: Callable[[str], list[object]]
) -> None:
    name = "it's `my` *film*|s.csv"
    data = toy.write_csv(tmp_path / name, toy.reviews(200))
    given = ("--data", data, "--max-steps", 1, "--calibrate", "--doc-stride", 64, "--max-length", 32)
    training(*command("my films"), *given)
    card = (tmp_path / "my films" / "README.md").read_text()
    assert f"rows of ``{name}``; the figures" in card
    for row in (
        "| `--calibrate` | yes |",
        "| `--doc-stride` | 64 |",
        "| `--max-length` | 32 |",
        "| `--eval-share` | 0.1 |",
        "| `--class-weights` | `none` |",
        "| `--early-stopping-patience` | 0 |",
    ):
        assert row in card
    assert f"--checkpoint '{tmp_path}/my films' --output 'models/my films' --task classify" in card


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
    monkeypatch.setattr(WorkFolder, "finish", lambda self: self.result.rename(self.output))  # what was logged stays
    logged = []
    for parts in (1, 2):
        output = tmp_path / str(parts)
        training(*given, "--output", output, "--max-steps", 1, "--gradient-accumulation-steps", parts)
        [state] = Path(f"{output}.part").glob("checkpoints/**/checkpoint-1/trainer_state.json")
        [entry] = [entry for entry in json.loads(state.read_text())["log_history"] if "grad_norm" in entry]
        logged.append((entry["loss"], entry["grad_norm"]))
    # The hidden states of a part are averaged over its own tokens; a step that forgets to average its parts has twice the loss.
    assert logged[0] == pytest.approx(logged[1], rel=0.02)
