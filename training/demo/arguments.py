"""The options of `python -m training demo`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from training.flags import Output, Schedule, add_output, add_schedule, at_least_1


@dataclass(frozen=True)
class Options(Output, Schedule):
    """What was asked for; the command line describes each."""

    sources: Path
    vocab_size: int
    max_length: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_output(parser)
    parser.add_argument(
        "--sources",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the packages that have the texts and the first weights; missing ones are downloaded to it",
    )
    parser.add_argument(
        "--vocab-size",
        type=at_least_1,
        default=16384,
        metavar="N",
        help="keep the first N tokens of the vocabulary to start from [default: %(default)s]",
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--max-length",
        type=at_least_1,
        default=96,
        metavar="TOKENS",
        help="tokens of an example; longer texts are cut [default: %(default)s]",
    )
    add_schedule(training, epochs=1, learning_rate=4e-4, batch_size=16, warmup_ratio=0.05)
