"""A student answers like its teacher, and is smaller; the table tells by how much."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import CHECKPOINTS, serving
from tests.training import toy

pytestmark = pytest.mark.torch

LEARN = ("--num-train-epochs", 8, "--learning-rate", 2e-3, "--batch-size", 16)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, toy_checkpoint: Path) -> Path:
    from training.__main__ import main

    folder = tmp_path_factory.mktemp("teacher")
    data = toy.write_csv(folder / "reviews.csv", toy.reviews(400))
    given = ("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", folder / "teacher", *LEARN)
    assert main([str(one) for one in given]) == 0
    return folder / "teacher"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(row["text"] for row in toy.reviews(600, seed=5)))
    return path


def test_the_smallest_student_that_holds_is_taken_and_served(
    tmp_path: Path, teacher: Path, texts: Path, training: Callable[..., str]
) -> None:
    output, models = tmp_path / "student", tmp_path / "models"
    labelled = toy.write_csv(
        tmp_path / "labelled.csv", [*toy.reviews(100, seed=9), {"text": "it was great " * 40, "label": "positive"}]
    )
    with texts.open("a") as file:
        file.write("\n" + "\n".join(row["text"] for row in toy.reviews(100, seed=9)))
    sizes = ("--num-hidden-layers", 1, "--hidden-size", 32, 64, "--max-loss", "2%")
    given = ("--eval-data", labelled, "--output", output, "--export", models / "small")
    told = training("distill", "--teacher", teacher, "--texts", texts, *given, *sizes, *LEARN)
    assert "600 texts to learn from, 101 to evaluate on." in told  # no text is on both sides
    measured: list[dict[str, Any]] = json.loads((output / "evaluation.json").read_text())
    assert [(one["model"], one["precision"]) for one in measured] == [
        (model, precision) for model in ("teacher", "1x32", "1x64") for precision in ("fp32", "int8")
    ]
    assert measured[0]["quality"] > 0.95
    assert min(one["quality"] for one in measured) > 0.9
    held = [one for one in measured[2:] if one["quality"] >= measured[0]["quality"] - 0.02]
    smallest = min(held, key=lambda one: one["size_bytes"])
    name = f"{smallest['model']}, {smallest['precision']}"
    assert f"has {name};" in told
    assert f"**{name}**" in (output / "README.md").read_text()
    assert (output / "trade_off.png").stat().st_size > 1000
    assert json.loads((output / "config.json").read_text())["num_hidden_layers"] == 1
    with serving(models, "--threads", "1", "--batch-tokens", "1024", "--precision", smallest["precision"]) as server:
        [labels] = server.post("/v1/classify", {"inputs": ["it was nasty"]}).json["predictions"]
    assert labels[0]["label"] == "negative"


def test_without_labels_a_student_is_held_against_its_teacher(
    tmp_path: Path, teacher: Path, texts: Path, training: Callable[..., str]
) -> None:
    output = tmp_path / "student"
    told = training("distill", "--teacher", teacher, "--texts", texts, "--output", output, *LEARN)
    assert "540 texts to learn from, 60 to evaluate on." in told
    measured = json.loads((output / "evaluation.json").read_text())
    assert measured[0]["quality"] == 1
    assert {one["model"] for one in measured} == {"teacher", "1x64"}
    assert measured[2]["quality"] > 0.9


def test_the_teacher_is_taken_where_no_student_holds(
    tmp_path: Path, teacher: Path, texts: Path, training: Callable[..., str]
) -> None:
    output = tmp_path / "student"
    hopeless = ("--num-hidden-layers", 1, "--max-steps", 3, "--learning-rate", 1.0, "--max-loss", "1%")
    told = training("distill", "--teacher", teacher, "--texts", texts, "--output", output, *hopeless)
    assert "No student holds: the accuracy of each is more than 0.01 below the teacher's." in told
    assert f"{output} has the teacher itself." in told
    assert (output / "model.safetensors").read_bytes() == (teacher / "model.safetensors").read_bytes()


@pytest.mark.parametrize("task", ["entities", "answer"])
def test_other_tasks_are_distilled(
    tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str], task: str
) -> None:
    rows = toy.sentences(300) if task == "entities" else toy.questions(800)
    data = toy.write_jsonl(tmp_path / "rows.jsonl", rows)
    learn = ("--learning-rate", 1e-3, "--batch-size", 16, "--num-train-epochs", 12)
    given = ("--checkpoint", toy_checkpoint, "--output", tmp_path / "teacher", "--doc-stride", 8)
    training("finetune", "--data", data, *given, *learn, "--early-stopping-patience", 0)
    if task == "entities":
        texts = tmp_path / "texts.txt"
        texts.write_text("\n".join(f"{' '.join(row['tokens'])} {word}" for row in rows for word in toy.FILL[:3]))
    else:
        texts = toy.write_csv(
            tmp_path / "texts.csv", [{name: row[name] for name in ("question", "context")} for row in rows]
        )
    output = tmp_path / "student"
    student = ("--teacher", tmp_path / "teacher", "--texts", texts, "--output", output, "--num-hidden-layers", 1)
    held_out = toy.write_jsonl(tmp_path / "held-out.jsonl", rows[:100])
    training("distill", *student, *learn, "--eval-data", held_out)
    measured = json.loads((output / "evaluation.json").read_text())
    assert measured[0]["quality"] > 0.9
    # One layer cannot both read a question and look for its answer.
    assert measured[2]["quality"] > (0.9 if task == "entities" else 0.4)


def test_a_student_begins_with_its_teachers_weights() -> None:
    from training.checkpoint import open_checkpoint
    from training.distill.student import Shape, make_student, taught_layers
    from training.distill.teacher import open_teacher

    assert taught_layers(3, 6) == [1, 3, 5]
    assert taught_layers(4, 12) == [2, 5, 8, 11]
    torch = pytest.importorskip("torch")
    for name in ("bert-single-label", "roberta-entities", "distilbert-two-labels", "electra-single-label"):
        teacher = open_teacher(open_checkpoint(str(CHECKPOINTS / name))).network
        config = teacher.config
        shape = Shape(1, config.hidden_size)
        student = make_student(teacher, shape).state_dict()
        of_teacher = teacher.state_dict()
        last = config.num_hidden_layers - 1
        for key, value in student.items():
            assert torch.equal(value, of_teacher[key.replace("layer.0.", f"layer.{last}.")]), key
        if "electra" in name:
            continue  # whose embeddings are narrower
        half = make_student(teacher, Shape(1, config.hidden_size // 2)).state_dict()
        for key, value in half.items():
            source = of_teacher[key.replace("layer.0.", f"layer.{last}.")]
            assert set(value.flatten().tolist()) <= set(source.flatten().tolist()), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-hidden-layers", 3), "a student of 3x64 is larger than its teacher of 2x64"),
        (("--num-hidden-layers", 2), "as large as its teacher"),
        (("--hidden-size", 40), "is a multiple of 32"),
    ],
)
def test_a_student_that_cannot_be_is_refused(
    tmp_path: Path, teacher: Path, texts: Path, refused: Callable[..., str], options: tuple[object, ...], message: str
) -> None:
    assert message in refused("distill", "--teacher", teacher, "--texts", texts, "--output", tmp_path / "x", *options)


def test_what_cannot_be_distilled_is_refused(
    tmp_path: Path, teacher: Path, toy_checkpoint: Path, texts: Path, refused: Callable[..., str]
) -> None:
    given = ("--texts", texts, "--output", tmp_path / "x")
    assert "is no fine-tuned checkpoint" in refused("distill", "--teacher", toy_checkpoint, *given)
    few = tmp_path / "few.txt"
    few.write_text("it was fine\n" * 30)
    given = ("--teacher", teacher, "--output", tmp_path / "x")
    assert "1 different texts are too few" in refused("distill", "--texts", few, *given)
    labelled = toy.write_csv(tmp_path / "labelled.csv", [{"text": "a", "label": "mixed"}])
    told = refused("distill", "--texts", texts, "--eval-data", labelled, *given)
    assert "has labels that the teacher does not know: mixed. It knows negative, positive." in told
