"""What a student learns, how it is measured and which one is taken go by what its teacher answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import CHECKPOINTS
from tests.training import toy
from training.errors import TrainingError

pytestmark = pytest.mark.torch


def teacher(folder: Path, name: str, **changed: Any) -> Any:
    from training.checkpoint import open_checkpoint
    from training.distill.teacher import open_teacher

    shutil.copytree(CHECKPOINTS / name, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    return open_teacher(open_checkpoint(str(folder)))


@pytest.mark.parametrize(
    ("name", "problem", "form"),
    [
        ("bert-single-label", None, "label"),
        ("bert-multi-label", "multi_label_classification", "labels"),
        ("bert-regression", None, "number"),
        ("bert-entities", "regression", "entities"),
        ("bert-answer", "multi_label_classification", "answer"),
    ],
)
def test_a_config_without_or_with_a_stale_problem_type_changes_no_lesson(
    tmp_path: Path, name: str, problem: str | None, form: str
) -> None:
    import torch

    from training.distill.lesson import Lesson
    from training.distill.student import Shape, make_student

    losses = []
    for changed in ({}, {"problem_type": problem}):
        opened = teacher(tmp_path, name, **changed)
        assert opened.form == form
        student = make_student(opened.network, Shape(1, opened.network.config.hidden_size))
        lesson = Lesson(student.eval(), opened, temperature=2.0, hidden_loss_weight=0.0)
        ids = torch.arange(5, 21).reshape(2, 8)
        mask = torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
        losses.append(lesson(input_ids=ids, attention_mask=mask)["loss"].item())
    assert losses[0] == losses[1] > 0


def test_a_teacher_of_several_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="predicts 3 numbers, and a student learns one"):
        teacher(tmp_path, "bert-single-label", problem_type="regression")


def test_quality_is_of_what_is_answered() -> None:
    from training.distill.evaluation import quality

    assert quality("label", [{"a"}, {"b"}], [{"a"}, {"a"}]) == 0.5
    # Half of the labels of a text are not all of them; of the answers to a question one is enough.
    assert quality("labels", [{"a"}], [{"a", "b"}]) == pytest.approx(2 / 3)
    assert quality("answer", [{"a"}], [{"a", "b"}]) == 1
    assert quality("number", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)
    assert quality("number", [3.0, 2.0, 1.0], [2.0, 4.0, 6.0]) == pytest.approx(-1)


def measured(model: str, precision: str, size: int, quality: float) -> Any:
    from training.distill.measure import Measured

    return Measured(model, precision, parameters=1, size_bytes=size, rows_per_s=1.0, quality=quality)


def test_the_smallest_that_holds_is_taken_in_the_precision_in_which_it_holds() -> None:
    from training.distill.choice import choose

    teachers = [measured("teacher", "fp32", 100, 0.95), measured("teacher", "int8", 30, 0.90)]
    small = [measured("1x32", "fp32", 20, 0.94), measured("1x32", "int8", 8, 0.93)]
    large = [measured("1x64", "fp32", 40, 0.95), measured("1x64", "int8", 15, 0.94)]
    models = [*teachers, *small, *large]
    for limit, name in (
        (None, "1x64, fp32"),
        (0.0, "1x64, fp32"),
        (0.01, "1x64, int8"),  # one in a hundred exactly
        (0.02, "1x32, int8"),
        (0.5, "1x32, int8"),
    ):
        assert choose(models, limit).name == name
    assert choose([*teachers, *small], 0.001).name == "teacher, fp32"  # its int8 does not hold either
    assert choose([teachers[0], measured("teacher", "int8", 30, 0.95), *small], 0.001).name == "teacher, int8"


def test_a_question_that_cannot_be_asked_is_told_before_a_student_is_taught(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    rows = [{"question": f"where is {a}{b}", "context": "he lives in bonn"} for a in "abcdef" for b in "abcdef"]
    answers = {"text": ["bonn"], "answer_start": [12]}
    labelled = {"question": "where is it " * 50, "context": "he lives in bonn", "answers": answers}
    given = ("--texts", toy.write_jsonl(tmp_path / "texts.jsonl", rows), "--output", tmp_path / "student")
    evaluated = ("--eval-data", toy.write_jsonl(tmp_path / "labelled.jsonl", [labelled]))
    told = refused("distill", "--teacher", CHECKPOINTS / "bert-answer", *given, *evaluated)
    assert "a text to evaluate on cannot be asked, 'where is it where" in told
    assert "question leaves no room for the context" in told
    assert not list((tmp_path / "student.part").rglob("checkpoint-*"))


def test_no_answer_is_right_where_the_labels_say_so(tmp_path: Path) -> None:
    from training.distill.evaluation import Evaluation
    from training.distill.measure import measure

    models = {"teacher": CHECKPOINTS / "bert-answer"}
    rows = [{"question": "Where?", "context": "Paris"}]
    found = Evaluation(rows, None)
    measure(models, "answer", "answer", found, tmp_path)
    assert found.answers == [{"Paris"}]
    impossible = measure(models, "answer", "answer", Evaluation(rows, [{""}]), tmp_path)
    assert impossible[0].quality == 1


def test_the_report_names_the_measure_and_how_to_serve_what_is_taken(tmp_path: Path) -> None:
    from tests.training.distill.test_texts import options
    from training.distill.report import compared, write_report

    opened = teacher(tmp_path / "teacher", "bert-regression")
    models = [measured(name, precision, 100, 0.9) for name in ("teacher", "1x16") for precision in ("fp32", "int8")]
    models.append(measured("1x8", "int8", 50, 0.89999))
    for given, heading in (((), "Pearson correlation with the teacher"), (("--eval-data", "x"), "Pearson correlation")):
        asked = options("--texts", "x", "--max-loss", "1%", *given)
        write_report(tmp_path, asked, opened, models, models[-1], evaluated=10)
        table = compared(asked, opened, models, models[-1])
        assert table.splitlines()[0] == f"| model | parameters | size | texts/s | {heading} | to the teacher |"
        assert "| **1x8, int8** | 1e-06 M | 5e-05 MB | 1 | 0.900 | +0.000 |" in table
        readme = (tmp_path / "README.md").read_text()
        assert table in readme
        assert "the smallest whose Pearson correlation is at most 0.01 below the teacher's in fp32" in readme
        assert "of the Pearson correlation, more is better" in readme
        assert "--task classify --variants cpu-int8" in readme


def test_a_teacher_that_cannot_be_served_is_told_with_the_reason(tmp_path: Path, refused: Callable[..., str]) -> None:
    teacher(tmp_path / "teacher", "bert-single-label", hidden_act="mish")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(row["text"] for row in toy.reviews(100)))
    told = refused("distill", "--teacher", tmp_path / "teacher", "--texts", texts, "--output", tmp_path / "student")
    assert "error: teacher cannot be exported: " in told
    assert "mish" in told
