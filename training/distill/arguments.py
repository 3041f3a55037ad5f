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
        help="texts to learn from, without labels: lines of text, or rows as finetune reads them, in files or folders",
    )
    add_output(parser)
    parser.add_argument(
        "--export",
        type=Path,
        metavar="models/NAME",
        help="then export the result to this bundle, which is replaced if it exists",
    )

    students = parser.add_argument_group("students")
    students.add_argument(
        "--num-hidden-layers",
        nargs="+",
        type=at_least_1,
        metavar="N",
        help="layers of the student, which starts from as many of the teacher's; several numbers make several students "
        "[default: half of the teacher's]",
    )
    students.add_argument(
        "--hidden-size",
        nargs="+",
        type=at_least_1,
        metavar="N",
        help="width of the student, a multiple of the size of the teacher's heads; each is tried with each number of layers "
        "[default: the teacher's]",
    )
    students.add_argument(
        "--max-loss",
        type=fraction,
        metavar="SHARE",
        help="take the smallest model, in fp32 or int8, whose accuracy, F1 or correlation is below the teacher's by at most "
        "so much, such as 1%% [default: the best student]",
    )

    rows = parser.add_argument_group("evaluation")
    rows.add_argument(
        "--eval-data",
        type=Path,
        metavar="FILE",
        help="labelled rows to evaluate on [default: a share of --texts, and what the teacher answers to them]",
    )
    rows.add_argument(
        "--eval-share",
        type=fraction,
        default=0.1,
        metavar="SHARE",
        help="share of --texts to evaluate on, which is not learnt from [default: %(default)s]",
    )
    add_reading(rows)

    training = parser.add_argument_group("training")
    training.add_argument(
        "--max-length",
        type=at_least_1,
        metavar="TOKENS",
        help="tokens of a text; longer texts are cut [default: the teacher's most]",
    )
    training.add_argument(
        "--temperature",
        type=above_0,
        default=2.0,
        metavar="X",
        help="divide the logits by X in the loss: above 1, unlikely labels count more [default: %(default)s]",
    )
    training.add_argument(
        "--hidden-loss-weight",
        type=at_least_0,
        default=1.0,
        metavar="X",
        help="weight of the hidden states in the loss; that of the labels is 1 [default: %(default)s]",
    )
    add_schedule(training, epochs=6, learning_rate=1e-4, batch_size=32, warmup_ratio=0.1)
