"""How many steps there are, of which length, and what they learn from."""

import math
from typing import Any, Final

from torch.utils.data import ConcatDataset, Dataset

from training.pretrain.arguments import Options
from training.pretrain.by_length import ByLength
from training.pretrain.corpus import Corpus
from training.pretrain.examples import Example, Examples

SHORT: Final = 128
"""Tokens of the examples at first."""
_SHORT_SHARE: Final = 0.9
"""Of the steps, as BERT's authors have it: attention costs the square of the length."""


class Phases:
    """Short examples, and for the last tenth of the steps long ones."""

    def __init__(self, corpus: Corpus, tokenizer: Any, options: Options) -> None:
        """Pack the documents to learn from for each of the lengths."""
        shares = {options.max_length: 1.0}
        if options.max_length > SHORT:
            shares = {SHORT: _SHORT_SHARE, options.max_length: 1 - _SHORT_SHARE}
        sources = {length: Examples(corpus, tokenizer, max_length=length, seed=options.seed) for length in shares}
        self.per_epoch = 1 / sum(share / sources[length].per_epoch for length, share in shares.items())
        """Examples in which each text comes once, of both lengths as they are mixed."""
        self.steps = options.max_steps or math.ceil(options.num_train_epochs * self.per_epoch / options.batch_size)
        first, *last = sources
        short = round(self.steps * shares[first])
        counts = {first: short, **dict.fromkeys(last, self.steps - short)}
        batch = options.batch_size
        self.examples: Dataset[Example] = ConcatDataset(
            [
                ByLength(sources[length], steps * batch, batch_size=batch, seed=options.seed)
                for length, steps in counts.items()
                if steps
            ]
        )
        """Of all steps, in their order."""
