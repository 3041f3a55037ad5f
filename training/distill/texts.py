"""What a student learns from, and what it is evaluated on."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from transformers import PretrainedConfig

from training.distill.arguments import Options
from training.distill.evaluation import Answer, Evaluation, Row
from training.errors import TrainingError, few
from training.finetune.arguments import Task
from training.finetune.bad_rows import require_columns
from training.finetune.command import KINDS
from training.rows import FILES, read_rows
from training.texts import read_texts, text_files

_LEAST: Final = 20
"""Texts."""
_MOST_HELD_OUT: Final = 2000


def read_unlabelled(options: Options, task: Task) -> list[Row]:
    """Return what there is to learn from, each once.

    Raises:
        TrainingError: there is too little, or a column is missing.
    """
    paths = options.texts
    if len(paths) == 1 and paths[0].suffix.lower() in FILES:
        rows = _rows(options, paths[0], task)
    else:
        if task == "answer":
            raise TrainingError("to answer, give --texts one file of rows with question and context: .csv or .jsonl.")
        rows = [{"text": text} for text in read_texts(text_files(paths), options.encoding)]
    different = list(
        {tuple(row.values()): row for row in rows if all(value.strip() for value in row.values())}.values()
    )
    if len(different) < _LEAST:
        raise TrainingError(f"{len(different)} different texts are too few to learn from; give at least {_LEAST}.")
    return different


def evaluation_rows(
    options: Options, task: Task, teacher: PretrainedConfig, rows: list[Row]
) -> tuple[Evaluation, list[Row]]:
    """Return what to evaluate on, `--eval-data` or some of the rows, and the rows that are left to learn from.

    Raises:
        TrainingError: nothing would be held out, or `--eval-data` does not do.
    """
    if options.eval_data is not None:
        evaluation = _labelled(options, options.eval_data, task, teacher)
        asked = {tuple(row.values()) for row in evaluation.rows}
        rest = [row for row in rows if tuple(row.values()) not in asked]
        if len(rest) < _LEAST:
            raise TrainingError(f"of --texts, {len(rest)} are not in --eval-data, too few to learn from: give others.")
        return evaluation, rest
    order = random.Random(options.seed).sample(rows, len(rows))  # noqa: S311 - no secret
    count = min(round(options.eval_share * len(rows)), _MOST_HELD_OUT)
    if not count:
        raise TrainingError("nothing is held out to evaluate on: give a larger --eval-share, or --eval-data.")
    return Evaluation(order[:count], None), order[count:]


def _labelled(options: Options, path: Path, task: Task, teacher: PretrainedConfig) -> Evaluation:
    rows = KINDS[task].read(options, read_rows(path, options).train, path)
    match task:
        case "classify":
            texts = [_pair(row["text"], row["text_pair"]) for row in rows]
            return Evaluation(texts, [_right(value, teacher) for value in rows["label"]])
        case "entities":
            spans = [{(span["start"], span["end"], span["type"]) for span in spans} for spans in rows["spans"]]
            return Evaluation([{"text": text} for text in rows["text"]], spans)
        case "answer":
            questions = [{"question": row["question"], "context": row["context"]} for row in rows]
            return Evaluation(questions, [set(answers["text"] or [""]) for answers in rows["answers"]])


def _rows(options: Options, path: Path, task: Task) -> list[Row]:
    rows = read_rows(path, options).train
    if task == "answer":
        names = ["question", "context"]
    else:
        both = task == "classify" and "text_pair" in rows.column_names
        names = options.text_column or (["text", "text_pair"] if both else ["text"])
    require_columns(rows, names, path, "--text-column")
    columns: Sequence[Sequence[Any]] = [rows[name] for name in names]
    own = ["question", "context"] if task == "answer" else ["text", "text_pair"]
    return [dict(zip(own, map(str, cells), strict=False)) for cells in zip(*columns, strict=True)]


def _pair(text: str, second: str) -> Row:
    return {"text": text, "text_pair": second} if second else {"text": text}


def _right(value: Any, teacher: PretrainedConfig) -> Answer:
    if teacher.problem_type == "regression":
        return float(value)
    names = set(value) if isinstance(value, list) else {str(value)}
    known = set(teacher.id2label.values())
    if not names <= known:
        raise TrainingError(f"the teacher has no label {few(sorted(names - known))}; it has {few(sorted(known))}.")
    return names
