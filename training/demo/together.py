"""Pairs to pretrain on and rated sentences, in the same steps."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from training.demo.network import SENTIMENT
from training.pretrain.examples import Collator, Example

EACH: Final = 3
"""So many pairs come with a rated sentence."""


class Rated(NamedTuple):
    """A sentence as tokens, and the number of its label."""

    ids: list[int]
    label: int


class Together(Dataset[tuple[Example, Rated | None]]):
    """A pair, and for every third one a rated sentence, which come in another order each time round."""

    def __init__(self, pairs: Dataset[Example], rated: Sequence[Rated], seed: int) -> None:
        self._pairs, self._rated, self._seed = pairs, rated, seed
        self._order: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Example, Rated | None]:
        pair = self._pairs[index]
        if index % EACH:
            return pair, None
        around, at = divmod(index // EACH, len(self._rated))
        if around not in self._order:
            self._order = {around: np.random.default_rng((self._seed, around)).permutation(len(self._rated))}
        return pair, self._rated[int(self._order[around][at])]


class TogetherCollator:
    """Make a batch of each kind."""

    def __init__(self, tokenizer: Any) -> None:
        self._pairs = Collator(tokenizer)
        self._tokenizer = tokenizer

    def __call__(self, items: Sequence[tuple[Example, Rated | None] | Example]) -> dict[str, torch.Tensor]:
        """Return what the network takes; examples that are evaluated come without rated sentences."""
        both = [item if isinstance(item, tuple) else (item, None) for item in items]
        batch = self._pairs([pair for pair, _ in both])
        rated = [one for _, one in both if one is not None]
        return batch | ({f"{SENTIMENT}{name}": value for name, value in self.rated(rated).items()} if rated else {})

    def rated(self, sentences: Sequence[Rated]) -> dict[str, torch.Tensor]:
        """Return sentences as the third head takes them: [sentences, tokens], and [sentences] for the labels."""
        padded = self._tokenizer.pad({"input_ids": [one.ids for one in sentences]}, return_tensors="pt")
        return {**padded, "labels": torch.tensor([one.label for one in sentences])}
