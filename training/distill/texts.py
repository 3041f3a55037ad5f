"""What a student learns from, and what it is evaluated on."""

import random
from pathlib import Path
from typing import Any, Final

import datasets

from training.distill.arguments import Options
from training.distill.evaluation import Answer, Evaluation, Form, Row
from training.distill.teacher import Teacher
from training.errors import TrainingError, few
from training.finetune.arguments import Task
from training.finetune.bad_rows import fault_of_texts, require_columns, without_bad_rows
from training.finetune.command import KINDS
from training.finetune.entities import TOKENS
from training.finetune.labels import is_number
from training.rows import FILES, read_held_out, read_rows
from training.texts import SUFFIXES, read_texts, text_files

_LEAST: Final = 20
"""Texts."""
_MOST_HELD_OUT: Final = 2000


def read_unlabelled(options: Options, task: Task) -> list[Row]:
    """Return what there is to learn from, each once.

    Raises:
        TrainingError: there is too little, a column is missing, or there are bad rows and they are not to be left out.
    """
    rows: list[Row] = []
    texts = []
    for path in options.texts:
        if _has_rows(path):
            rows += _rows(options, path, task)
        else:
            texts.append(path)
    if texts:
        if task == "answer":
            raise TrainingError("to answer, give --texts rows with question and context: .csv or .jsonl.")
        rows += [{"text": text} for text in read_texts(text_files(texts), options.encoding)]
    different = list({tuple(row.values()): row for row in rows}.values())
    if len(different) < _LEAST:
        raise TrainingError(f"{len(different)} different texts are too few to learn from; give at least {_LEAST}.")
    return different


def evaluation_rows(options: Options, teacher: Teacher, rows: list[Row]) -> tuple[Evaluation, list[Row]]:
    """Return what to evaluate on, `--eval-data` or some of the rows, and the rows that are left to learn from.

    Raises:
        TrainingError: nothing would be held out, or `--eval-data` does not do.
    """
    labelled = None if options.eval_data is None else _labelled(options, options.eval_data, teacher)
    evaluated = [] if labelled is None else labelled.rows
    if len({len(row) for row in (*rows, *evaluated)}) > 1:
        raise TrainingError(
            "of --texts and --eval-data, some are single texts and some are pairs: give what the teacher was made for."
        )
    if labelled is not None:
        asked = {tuple(row.values()) for row in evaluated}
        rest = [row for row in rows if tuple(row.values()) not in asked]
        if len(rest) < _LEAST:
            raise TrainingError(f"of --texts, {len(rest)} are not in --eval-data, too few to learn from: give others.")
        return labelled, rest
    order = random.Random(options.seed).sample(rows, len(rows))  # noqa: S311 - no secret
    count = min(round(options.eval_share * len(rows)), _MOST_HELD_OUT)
    if not count:
        raise TrainingError("nothing is held out to evaluate on: give a larger --eval-share, or --eval-data.")
    return Evaluation(order[:count], None), order[count:]


def _has_rows(path: Path) -> bool:
    """Return whether a file, or a folder of the `datasets` library, is of rows; others are of lines of text."""
    files = path.rglob("*") if path.is_dir() else [path]
    kinds = {file.suffix.lower() for file in files if file.stem.lower() != "readme"}
    return bool(kinds.intersection((*FILES, ".arrow"))) and not kinds.intersection(SUFFIXES)


def _rows(options: Options, path: Path, task: Task) -> list[Row]:
    rows = read_rows(path, options).train
    names = ["question", "context"] if task == "answer" else options.text_column or _text_columns(rows, task)
    if len(names) > (1 if task == "entities" else 2):
        raise TrainingError(f"--text-column names one column{'' if task == 'entities' else ', or two'}.")
    require_columns(rows, names, path, "--text-column")
    own = ["question", "context"] if task == "answer" else ["text", "text_pair"]
    wanted = {name: [_text(cell, task) for cell in rows[column]] for name, column in zip(own, names, strict=False)}
    good = without_bad_rows(
        datasets.Dataset.from_dict(wanted),
        lambda row: fault_of_texts(list(row.values())),
        path,
        skip=options.skip_bad_rows,
    )
    return [dict(row) for row in good]


def _text_columns(rows: datasets.Dataset, task: Task) -> list[str]:
    if task == "entities":
        return [next((name for name in TOKENS if name in rows.column_names), "text")]
    return ["text", "text_pair"] if "text_pair" in rows.column_names else ["text"]


def _text(cell: Any, task: Task) -> Any:
    """Return a cell; tokens as the text that finetune makes of them."""
    return " ".join(map(str, cell)) if task == "entities" and isinstance(cell, list) else cell


def _labelled(options: Options, path: Path, teacher: Teacher) -> Evaluation:
    rows = KINDS[teacher.task].read(options, read_held_out(path, options), path)
    match teacher.task:
        case "classify":
            texts = [_pair(row["text"], row["text_pair"]) for row in rows]
            found = Evaluation(texts, [_right(label, teacher.form, path) for label in rows["label"]])
        case "entities":
            spans = [{(span["start"], span["end"], span["type"]) for span in spans} for spans in rows["spans"]]
            found = Evaluation([{"text": text} for text in rows["text"]], spans)
        case _:
            questions = [{"question": row["question"], "context": row["context"]} for row in rows]
            found = Evaluation(questions, [set(answers["text"] or [""]) for answers in rows["answers"]])
    _check_right(found.answers or [], teacher, path)
    return found


def _pair(text: str, second: str) -> Row:
    return {"text": text, "text_pair": second} if second else {"text": text}


def _right(label: Any, form: Form, path: Path) -> Answer:
    if form == "number":
        if not is_number(label):
            raise TrainingError(f"the teacher predicts a number, and a label of {path} is none: {label!r}.")
        return float(label)
    names = set(label) if isinstance(label, list) else {label}
    if form == "label" and len(names) != 1:
        raise TrainingError(f"the teacher answers with one label, and a row of {path} has {len(names)}: {label!r}.")
    return names


def _check_right(answers: list[Answer], teacher: Teacher, path: Path) -> None:
    match teacher.form:
        case "number":
            if len(set(answers)) == 1:
                raise TrainingError(f"all labels of {path} are {answers[0]:g}, which tells nothing: give others.")
        case "label" | "labels" | "entities":
            is_span = teacher.form == "entities"
            names = {name[2] if is_span else name for one in answers for name in one}
            if unknown := sorted(names - teacher.labels):
                raise TrainingError(
                    f"{path} has labels that the teacher does not know: {few(unknown)}. It knows {few(sorted(teacher.labels))}."
                )
