"""Options that several commands have."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Output:
    """Where the result goes."""

    output: Path
    overwrite: bool


@dataclass(frozen=True)
class Reading:
    """How files of rows are read, where rows have what, and what to do with those that have it not."""

    encoding: str
    delimiter: str | None
    skip_bad_rows: bool
    text_column: list[str] | None
    label_column: list[str] | None
    label_delimiter: str | None


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn, and how often to keep what was learnt."""

    num_train_epochs: float
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    bf16: bool
    seed: int
    save_steps: int | None


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add where the result goes."""
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the result")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a result that is there, and what was begun with other options"
    )


def add_schedule(
    parser: argparse._ActionsContainer, *, epochs: float, learning_rate: float, batch_size: int, warmup_ratio: float
) -> None:
    """Add how long and how fast to learn, with the defaults of a command."""
    parser.add_argument(
        "--num-train-epochs",
        type=above_0,
        default=epochs,
        metavar="N",
        help="times over all of it [default: %(default)g]",
    )
    parser.add_argument("--max-steps", type=at_least_1, metavar="N", help="end after so many steps")
    parser.add_argument(
        "--batch-size",
        type=at_least_1,
        default=batch_size,
        metavar="N",
        help="sequences of a step [default: %(default)s]",
    )
    parser.add_argument(
        "--gradient-accumulation-steps",
        type=at_least_1,
        default=1,
        metavar="N",
        help="parts of a step, for less memory; --batch-size is that of the whole step [default: %(default)s]",
    )
    parser.add_argument(
        "--learning-rate", type=above_0, default=learning_rate, metavar="RATE", help="its peak [default: %(default)s]"
    )
    parser.add_argument(
        "--warmup-ratio",
        type=fraction,
        default=warmup_ratio,
        metavar="SHARE",
        help="steps in which the rate rises to its peak, before it falls to 0 [default: %(default)s]",
    )
    parser.add_argument(
        "--weight-decay", type=at_least_0, default=0.01, metavar="X", help="of AdamW [default: %(default)s]"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="multiply in bfloat16: faster where the processor or the GPU has it"
    )
    add_seed(parser)
    parser.add_argument(
        "--save-steps",
        type=at_least_1,
        metavar="N",
        help="evaluate, and keep what was learnt, every so many steps: a kill loses no more "
        "[default: an epoch, and at most 500 steps]",
    )


def add_seed(parser: argparse._ActionsContainer) -> None:
    """Add the seed."""
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="the same seed gives the same weights on a machine [default: 0]",
    )


def add_reading(parser: argparse._ActionsContainer) -> None:
    """Add how files of rows are read, and which columns have what."""
    parser.add_argument("--encoding", default="utf-8", metavar="NAME", help="of the files [default: utf-8]")
    parser.add_argument("--delimiter", metavar="CHARACTER", help="between the cells of a CSV [default: a comma]")
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave out what stops the command otherwise")
    parser.add_argument(
        "--text-column", nargs="+", metavar="NAME", help="a text, or two [default: text, and text_pair if it is there]"
    )
    parser.add_argument(
        "--label-column",
        nargs="+",
        metavar="NAME",
        help="the label; several, of 0 and 1 each, are as many labels [default: label]",
    )
    parser.add_argument("--label-delimiter", metavar="TEXT", help="between the labels of a cell that has several")


def whole(text: str) -> int:
    """Return a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def at_least_1(text: str) -> int:
    """Return a whole number from 1 on."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def at_least_0(text: str) -> float:
    """Return a number from 0 on."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


def above_0(text: str) -> float:
    """Return a number above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def fraction(text: str) -> float:
    """Return a share: from 0 to below 1, or with a percent sign."""
    number = _number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1, such as 0.1 or 10%")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
