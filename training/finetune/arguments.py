"""The options of `python -m training finetune`."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from training.flags import Output, Reading, Schedule, add_output, add_reading, add_schedule, at_least_1, fraction, whole

Task = Literal["classify", "entities", "answer"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass(frozen=True)
class Options(Output, Reading, Schedule):
    """What was asked for; the command line describes each."""

    data: Path
    checkpoint: str
    export: Path | None
    variants: str | None
    eval_data: Path | None
    eval_share: float
    save_eval_data: Path | None
    task: Task | None
    problem_type: ProblemType | None
    max_length: int | None
    doc_stride: int | None
    max_answer_length: int
    class_weights: Literal["none", "balanced"]
    calibrate: bool
    early_stopping_patience: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FILE",
        help="labelled rows: .csv, .tsv, .jsonl, .json (also SQuAD's), .parquet, or a folder of the datasets library",
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR_OR_HUB_ID", help="what to start from")
    add_output(parser)
    parser.add_argument("--export", type=Path, metavar="models/NAME", help="export the result to a bundle, too")
    parser.add_argument(
        "--variants", metavar="NAME,...", help="of the bundle, as of python -m model_export export [default: its own]"
    )

    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--eval-data", type=Path, metavar="FILE", help="rows that are held out [default: a share of --data]"
    )
    rows.add_argument(
        "--eval-share", type=fraction, default=0.1, metavar="SHARE", help="that is held out [default: %(default)s]"
    )
    rows.add_argument(
        "--save-eval-data",
        type=Path,
        metavar="FILE",
        help="write the rows that are held out, as JSON lines for distill",
    )
    add_reading(rows)

    task = parser.add_argument_group("task")
    task.add_argument("--task", choices=get_args(Task), help="what to learn [default: by the columns]")
    task.add_argument("--problem-type", choices=get_args(ProblemType), help="[default: by the labels]")
    task.add_argument(
        "--max-length",
        type=at_least_1,
        metavar="TOKENS",
        help="a longer text is cut [default: the checkpoint's; answer: 384]",
    )
    task.add_argument(
        "--doc-stride",
        type=at_least_1,
        metavar="TOKENS",
        help="answer: what two windows of a long context have in common [default: 128, or half a window]",
    )
    task.add_argument(
        "--max-answer-length",
        type=at_least_1,
        default=15,
        metavar="TOKENS",
        help="answer: the longest that is evaluated, as in a request to the server [default: %(default)s]",
    )

    training = parser.add_argument_group("training")
    training.add_argument(
        "--class-weights",
        choices=("none", "balanced"),
        default="none",
        help="balanced: a rare label counts as much as a frequent one [default: none]",
    )
    training.add_argument(
        "--early-stopping-patience",
        type=whole,
        default=3,
        metavar="N",
        help="evaluations without a better one that end it; 0 goes on to the end. The best one is kept [default: 3]",
    )
    training.add_argument(
        "--calibrate",
        action="store_true",
        help="divide the logits by the temperature of the report: the same labels, truer scores",
    )
    add_schedule(training, epochs=4, learning_rate=5e-5, batch_size=32, warmup_ratio=0.1)
