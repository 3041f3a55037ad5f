"""A run of several students that is killed goes on with the one that is not whole, if it is of the same teacher."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import CHECKPOINTS, ROOT, eventually
from tests.training import toy

pytestmark = pytest.mark.torch

WITHIN_S = 120.0


def test_after_a_stop_in_the_export_it_alone_is_left(
    tmp_path: Path, training: Callable[..., str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.__main__ import main
    from training.distill import command

    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(row["text"] for row in toy.reviews(100)))
    bundle = tmp_path / "models" / "student"
    given = ("--teacher", CHECKPOINTS / "bert-single-label", "--texts", texts, "--max-steps", 1, "--export", bundle)
    student = ("distill", *given, "--hidden-size", 16, "--output", tmp_path / "student")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(command, "export", stop)
        assert main(list(map(str, student))) == 130
    assert "is of other students" in refused(*student, "--num-hidden-layers", 2)
    assert "Student" not in training(*student)
    assert (bundle / "manifest.json").exists()
    assert "is there; name another --output" in refused(*student)


def test_what_is_read_is_not_written_over(tmp_path: Path, refused: Callable[..., str]) -> None:
    texts = toy.write_jsonl(tmp_path / "texts.jsonl", toy.reviews(100))
    given = ("distill", "--teacher", CHECKPOINTS / "bert-single-label", "--texts", texts)
    assert f"--output {texts} and" in refused(*given, "--output", texts)
    output = tmp_path / "student"
    assert f"--export {output} and" in refused(*given, "--output", output, "--export", output)


def test_a_kill_between_two_students_changes_no_weight(
    tmp_path: Path, training: Callable[..., str], refused: Callable[..., str]
) -> None:
    teacher, texts = tmp_path / "teacher", tmp_path / "texts.txt"
    shutil.copytree(CHECKPOINTS / "bert-single-label", teacher)
    texts.write_text("\n".join(row["text"] for row in toy.reviews(300)))
    given = (
        "distill",
        "--teacher",
        teacher,
        "--texts",
        texts,
        "--batch-size",
        16,
        "--max-steps",
        150,
        "--save-steps",
        50,
    )
    # The smallest is the second: the first is not to be taught again, and not to matter for it.
    students = ("--num-hidden-layers", 1, "--hidden-size", 32, 16, "--max-loss", "99%")
    training(*given, *students, "--output", tmp_path / "whole")

    command = (*given, *students, "--output", tmp_path / "killed")
    scratch = tmp_path / "killed.part" / "scratch"
    with subprocess.Popen(
        [sys.executable, "-m", "training", *map(str, command)], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        try:
            eventually((scratch / "1x32").exists, WITHIN_S)
        finally:
            process.kill()
    assert not (scratch / "1x16").exists()

    config = teacher / "config.json"
    before = config.read_text()
    config.write_text(before.replace("positive", "good"))
    assert "is of a run with other options (teacher)" in refused(*command)
    config.write_text(before)

    told = training(*command)
    assert "Student 1x32:" not in told
    assert "Student 1x16:" in told
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed.part").exists()
