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
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="write the result to this folder")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an output that exists, and drop a run that began with other options",
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
        help="learn from all of it N times [default: %(default)g]",
    )
    parser.add_argument(
        "--max-steps", type=at_least_1, metavar="N", help="stop after N steps, whatever --num-train-epochs says"
    )
    parser.add_argument(
        "--batch-size",
        type=at_least_1,
        default=batch_size,
        metavar="N",
        help="examples of a step [default: %(default)s]",
    )
    parser.add_argument(
        "--gradient-accumulation-steps",
        type=at_least_1,
        default=1,
        metavar="N",
        help="compute a step in N parts, which takes less memory; --batch-size counts the whole step [default: %(default)s]",
    )
    parser.add_argument(
        "--learning-rate",
        type=above_0,
        default=learning_rate,
        metavar="RATE",
        help="highest learning rate [default: %(default)s]",
    )
    parser.add_argument(
        "--warmup-ratio",
        type=fraction,
        default=warmup_ratio,
        metavar="SHARE",
        help="share of the steps in which the learning rate rises; then it falls to 0 [default: %(default)s]",
    )
    parser.add_argument(
        "--weight-decay",
        type=at_least_0,
        default=0.01,
        metavar="X",
        help="weight decay of AdamW [default: %(default)s]",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="compute in bfloat16, which is faster on processors and GPUs that have it"
    )
    add_seed(parser)
    parser.add_argument(
        "--save-steps",
        type=at_least_1,
        metavar="N",
        help="evaluate and save every N steps; a kill loses at most these [default: an epoch, at most 500]",
    )


def add_seed(parser: argparse._ActionsContainer) -> None:
    """Add the seed."""
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of all chance: the same seed gives the same weights on the same machine [default: 0]",
    )


def add_reading(parser: argparse._ActionsContainer) -> None:
    """Add how files of rows are read, and which columns have what."""
    parser.add_argument("--encoding", default="utf-8", metavar="NAME", help="encoding of the files [default: utf-8]")
    parser.add_argument(
        "--delimiter", metavar="CHARACTER", help="character between the cells of a .csv [default: a comma]"
    )
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="leave bad rows out, and list them; otherwise they stop the command",
    )
    parser.add_argument(
        "--text-column",
        nargs="+",
        metavar="NAME",
        help="column of the text, or two of a pair [default: text, and text_pair if there is one]",
    )
    parser.add_argument(
        "--label-column",
        nargs="+",
        metavar="NAME",
        help="column of the label, or one column of 0 and 1 for each label [default: label]",
    )
    parser.add_argument(
        "--label-delimiter", metavar="TEXT", help="text between the labels of a cell, if it has several"
    )


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
