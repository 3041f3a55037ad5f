"""The options of `python -m training prune-vocabulary`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from training.flags import Output, add_output, at_least_1


@dataclass(frozen=True)
class Options(Output):
    """What was asked for; the command line describes each."""

    checkpoint: str
    corpus: list[Path]
    encoding: str
    min_count: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR_OR_HUB_ID",
        help="checkpoint to prune: a folder, or OWNER/NAME on the hub",
    )
    parser.add_argument(
        "--corpus",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="texts like those that the model will get, one a line; for pairs, both texts",
    )
    parser.add_argument(
        "--encoding", default="utf-8", metavar="NAME", help="encoding of the corpus [default: %(default)s]"
    )
    parser.add_argument(
        "--min-count",
        type=at_least_1,
        default=1,
        metavar="N",
        help="keep tokens that the corpus uses at least N times; above 1, texts with rarer ones get other answers [default: 1]",
    )
    add_output(parser)
