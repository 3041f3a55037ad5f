"""The options of `python -m training distill`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from training.flags import (
    Output,
    Reading,
    Schedule,
    above_0,
    add_output,
    add_reading,
    add_schedule,
    at_least_0,
    at_least_1,
    fraction,
)


@dataclass(frozen=True)
class Options(Output, Reading, Schedule):
    """What was asked for; the command line describes each."""

    teacher: str
    texts: list[Path]
    export: Path | None
    eval_data: Path | None
    eval_share: float
    num_hidden_layers: list[int] | None
    hidden_size: list[int] | None
    max_loss: float | None
    max_length: int | None
    temperature: float
    hidden_loss_weight: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--teacher", required=True, metavar="DIR_OR_HUB_ID", help="a fine-tuned checkpoint")
    parser.add_argument(
        "--texts",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="what to learn from, without labels: lines of text, folders of them, or rows as of finetune",
    )
    add_output(parser)
    parser.add_argument("--export", type=Path, metavar="models/NAME", help="export the student to a bundle, too")

    students = parser.add_argument_group("students")
    students.add_argument(
        "--num-hidden-layers",
        nargs="+",
        type=at_least_1,
        metavar="N",
        help="layers of a student, and of more students; it starts from as many of the teacher's [default: half of them]",
    )
    students.add_argument(
        "--hidden-size",
        nargs="+",
        type=at_least_1,
        metavar="N",
        help="its width, a multiple of the teacher's size of a head; each is tried with each number of layers "
        "[default: the teacher's]",
    )
    students.add_argument(
        "--max-loss",
        type=fraction,
        metavar="SHARE",
        help="take the smallest model, in fp32 or int8, whose accuracy, F1 or correlation is below the teacher's by at most "
        "so much, as 1%% "
        "[default: the best student]",
    )

    rows = parser.add_argument_group("evaluation")
    rows.add_argument(
        "--eval-data",
        type=Path,
        metavar="FILE",
        help="labelled rows as of finetune [default: a share of --texts, and what the teacher says of them]",
    )
    rows.add_argument(
        "--eval-share", type=fraction, default=0.1, metavar="SHARE", help="that is held out [default: %(default)s]"
    )
    add_reading(rows)

    training = parser.add_argument_group("training")
    training.add_argument(
        "--max-length", type=at_least_1, metavar="TOKENS", help="a longer text is cut [default: the teacher's]"
    )
    training.add_argument(
        "--temperature",
        type=above_0,
        default=2.0,
        metavar="X",
        help="by which the logits are divided: above 1, unlikely labels count more [default: %(default)s]",
    )
    training.add_argument(
        "--hidden-loss-weight",
        type=at_least_0,
        default=1.0,
        metavar="X",
        help="of the difference of hidden states, beside that of the labels [default: %(default)s]",
    )
    add_schedule(training, epochs=6, learning_rate=1e-4, batch_size=32, warmup_ratio=0.1)
