"""What a student learns from and is evaluated on is read, or refused before minutes are spent."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.support import CHECKPOINTS
from tests.training import toy
from training.errors import TrainingError

pytestmark = pytest.mark.torch

LINES = [f"it was fine {a}{b}" for a in "abcdefgh" for b in "abcde"]


def options(*given: object) -> Any:
    from training.distill.arguments import Options, add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parsed = parser.parse_args(["--teacher", "x", "--output", "x", *map(str, given)])
    return Options(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(Options)})


def read(task: Any, *given: object) -> list[dict[str, str]]:
    from training.distill.texts import read_unlabelled

    return read_unlabelled(options("--texts", *given), task)


def test_texts_are_read_from_lines_tokens_and_folders(tmp_path: Path) -> None:
    import datasets

    wanted = [{"text": line} for line in LINES]
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(LINES))
    tokens = toy.write_jsonl(tmp_path / "tokens.jsonl", [{"tokens": line.split(), "ner_tags": []} for line in LINES])
    table = toy.write_csv(tmp_path / "table.csv", [{"text": f"{line}, so", "label": "x"} for line in LINES])
    saved, plain = tmp_path / "saved", tmp_path / "plain"
    datasets.DatasetDict(train=datasets.Dataset.from_list(wanted)).save_to_disk(saved)
    (saved / "README.md").write_text("of a data set\n")
    plain.mkdir()
    toy.write_csv(plain / "train.csv", wanted)
    for source in (tokens, saved, plain):
        assert read("entities", source) == wanted
    assert read("classify", lines, table) == [{"text": f"{line}, so"} for line in LINES] + wanted


@pytest.mark.parametrize("text", [None, " "])
def test_a_text_that_is_none_is_refused_or_left_out(tmp_path: Path, text: str | None) -> None:
    rows = [{"text": line} for line in LINES]
    source = toy.write_jsonl(tmp_path / "rows.jsonl", [{"text": text}, *rows])
    with pytest.raises(TrainingError, match=r"rows\.jsonl, 1 have an? (text that is none|empty text) \(row 1\)"):
        read("classify", source)
    assert read("classify", source, "--skip-bad-rows") == rows
    numbers = toy.write_jsonl(tmp_path / "numbers.jsonl", [{"text": i} for i in range(30)])
    with pytest.raises(TrainingError, match="30 have a text that is none"):
        read("classify", numbers)


def test_as_many_columns_are_named_as_the_task_takes(tmp_path: Path) -> None:
    source = toy.write_csv(tmp_path / "rows.csv", [{"a": line, "b": line, "c": line} for line in LINES])
    assert read("classify", source, "--text-column", "a", "b")[0] == {"text": LINES[0], "text_pair": LINES[0]}
    with pytest.raises(TrainingError, match="names one column, or two"):
        read("classify", source, "--text-column", "a", "b", "c")
    with pytest.raises(TrainingError, match=r"names one column\."):
        read("entities", source, "--text-column", "a", "b")


ENTITY = {"start": 0, "end": 2, "label": "HUM"}


@pytest.mark.parametrize(
    ("teacher", "labelled", "message"),
    [
        ("bert-regression", [{"text": "a", "label": "good"}], "predicts a number, and a label of .* is none: 'good'"),
        ("bert-regression", [{"text": "a", "label": ["x"]}], r"predicts a number, and a label of .* is none: \['x'\]"),
        ("bert-regression", [{"text": "a", "label": 1.5}, {"text": "b", "label": 1.5}], "all labels of .* are 1.5"),
        ("bert-single-label", [{"text": "a", "label": "mixed"}], "does not know: mixed. It knows neutral, "),
        ("bert-single-label", [{"text": "a", "label": ["neutral", "positive"]}], "one label, and a row of .* has 2"),
        ("bert-multi-label", [{"text": "a", "label": ["toxic", "odd"]}], "does not know: odd"),
        ("bert-entities", [{"text": "it was", "entities": [ENTITY]}], "does not know: HUM. It knows LOC, PER"),
        ("xlm-roberta-entities", [{"text": "it was", "entities": [ENTITY]}], "does not know: HUM. It knows LOC, PER"),
        ("bert-nli", [{"text": "a", "text_pair": "b", "label": "neutral"}], "some are single texts and some are pairs"),
    ],
)
def test_labels_that_the_teacher_cannot_give_are_refused(
    tmp_path: Path, teacher: str, labelled: list[dict[str, Any]], message: str
) -> None:
    from training.checkpoint import open_checkpoint
    from training.distill.teacher import open_teacher
    from training.distill.texts import evaluation_rows

    given = options("--texts", "x", "--eval-data", toy.write_jsonl(tmp_path / "labelled.jsonl", labelled))
    with pytest.raises(TrainingError, match=message):
        evaluation_rows(given, open_teacher(open_checkpoint(str(CHECKPOINTS / teacher))), [{"text": x} for x in LINES])


def test_of_a_folder_the_held_out_part_is_evaluated_on(tmp_path: Path) -> None:
    from training.checkpoint import open_checkpoint
    from training.distill.teacher import open_teacher
    from training.distill.texts import evaluation_rows

    for part, text in (("train", "learnt"), ("test", "held out")):
        toy.write_csv(tmp_path / f"{part}.csv", [{"text": text, "label": "neutral"}])
    teacher = open_teacher(open_checkpoint(str(CHECKPOINTS / "bert-single-label")))
    given = options("--texts", "x", "--eval-data", tmp_path)
    evaluation, rest = evaluation_rows(given, teacher, [{"text": line} for line in LINES])
    assert evaluation.rows == [{"text": "held out"}]
    assert evaluation.answers == [{"neutral"}]
    assert len(rest) == len(LINES)
