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
        help="labelled rows: a .csv, .tsv, .jsonl, .json (also SQuAD's) or .parquet, or a folder of the datasets library",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR_OR_HUB_ID",
        help="checkpoint to start from: a folder, or OWNER/NAME on the hub",
    )
    add_output(parser)
    parser.add_argument(
        "--export",
        type=Path,
        metavar="models/NAME",
        help="then export the result to this bundle, which is replaced if it exists",
    )
    parser.add_argument(
        "--variants",
        metavar="NAME,...",
        help="variants of the bundle, as python -m model_export export --help lists them [default: as there]",
    )

    rows = parser.add_argument_group("rows")
    rows.add_argument("--eval-data", type=Path, metavar="FILE", help="rows to evaluate on [default: a share of --data]")
    rows.add_argument(
        "--eval-share",
        type=fraction,
        default=0.1,
        metavar="SHARE",
        help="share of --data to evaluate on, which is not learnt from [default: %(default)s]",
    )
    rows.add_argument(
        "--save-eval-data",
        type=Path,
        metavar="FILE",
        help="write the rows to evaluate on to this file, as JSON lines; distill --eval-data reads it",
    )
    add_reading(rows)

    task = parser.add_argument_group("task")
    task.add_argument("--task", choices=get_args(Task), help="what to learn [default: what the columns say]")
    task.add_argument(
        "--problem-type", choices=get_args(ProblemType), help="what the labels are [default: what they look like]"
    )
    task.add_argument(
        "--max-length",
        type=at_least_1,
        metavar="TOKENS",
        help="tokens of a text; longer texts are cut, and long contexts of answers parted [default: the checkpoint's most; answer: at most 384]",
    )
    task.add_argument(
        "--doc-stride",
        type=at_least_1,
        metavar="TOKENS",
        help="answer: tokens that two neighbouring parts of a long context share [default: 128, or half a part]",
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
        help="stop after N evaluations without a better one; 0 never stops early. The best step is kept [default: 3]",
    )
    training.add_argument(
        "--calibrate",
        action="store_true",
        help="divide the logits by the temperature of the report: labels stay, scores become truer",
    )
    add_schedule(training, epochs=4, learning_rate=5e-5, batch_size=32, warmup_ratio=0.1)
