"""The options of `python -m training pretrain`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from training.flags import Output, Schedule, add_output, add_schedule, at_least_1, fraction


@dataclass(frozen=True)
class Options(Output, Schedule):
    """What was asked for; the command line describes each."""

    texts: list[Path]
    encoding: str
    eval_share: float
    checkpoint: str | None
    vocab: Path | None
    vocab_size: int | None
    cased: bool
    num_hidden_layers: int | None
    hidden_size: int | None
    num_attention_heads: int | None
    intermediate_size: int | None
    max_length: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_output(parser)

    texts = parser.add_argument_group("texts")
    texts.add_argument(
        "--texts",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="running text: a line has one sentence or several, and an empty line ends a document",
    )
    texts.add_argument("--encoding", default="utf-8", metavar="NAME", help="encoding of the files [default: utf-8]")
    texts.add_argument(
        "--eval-share",
        type=fraction,
        default=0.05,
        metavar="SHARE",
        help="share of the documents to evaluate on, which is not learnt from [default: %(default)s]",
    )

    network = parser.add_argument_group("network", "that of --checkpoint, or a new one with these options")
    network.add_argument("--checkpoint", metavar="DIR_OR_HUB_ID", help="BERT to go on from, with its vocabulary")
    network.add_argument(
        "--vocab", type=Path, metavar="FILE", help="vocabulary, a vocab.txt [default: one learnt from the texts]"
    )
    network.add_argument(
        "--vocab-size", type=at_least_1, metavar="N", help="tokens of the vocabulary to learn [default: 30522]"
    )
    network.add_argument(
        "--cased",
        action="store_true",
        help="keep upper case and accents; otherwise texts are read in lower case, without accents",
    )
    network.add_argument("--num-hidden-layers", type=at_least_1, metavar="N", help="layers [default: 12]")
    network.add_argument("--hidden-size", type=at_least_1, metavar="N", help="width of a layer [default: 768]")
    network.add_argument(
        "--num-attention-heads", type=at_least_1, metavar="N", help="attention heads of a layer [default: 12]"
    )
    network.add_argument(
        "--intermediate-size",
        type=at_least_1,
        metavar="N",
        help="width between the two products of a layer [default: 4 times --hidden-size]",
    )

    training = parser.add_argument_group("training")
    training.add_argument(
        "--max-length",
        type=at_least_1,
        default=512,
        metavar="TOKENS",
        help="tokens of an example in the last tenth of the steps; before, at most 128 [default: %(default)s]",
    )
    add_schedule(training, epochs=40, learning_rate=1e-4, batch_size=256, warmup_ratio=0.01)
