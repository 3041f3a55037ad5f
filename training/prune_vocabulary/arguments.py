"""What `prune-vocabulary` is told."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from training import flags


@dataclass(frozen=True)
class Options:
    """See the help of each."""

    checkpoint: str
    corpus: list[Path]
    encoding: str
    min_count: int
    output: Path
    overwrite: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to the command's parser."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR_OR_HUB_ID", help="a folder, or OWNER/NAME on the hub"
    )
    parser.add_argument(
        "--corpus",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="texts like those that the model will get, one a line; of both texts of a pair, if it gets pairs",
    )
    parser.add_argument("--encoding", default="utf-8", metavar="NAME", help="of the corpus [default: %(default)s]")
    parser.add_argument(
        "--min-count",
        type=flags.at_least_1,
        default=1,
        metavar="N",
        help="also drop tokens that the corpus uses less than N times; texts with them get other answers [default: 1]",
    )
    flags.add_output(parser)
