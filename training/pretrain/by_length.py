"""Examples in batches of about one length: short documents would be half padding otherwise."""

from typing import Final

import numpy as np
from torch.utils.data import Dataset

from training.pretrain.examples import Example

_BATCHES: Final = 32
"""That are sorted together: enough for little padding, and few enough to keep in memory."""


class ByLength(Dataset[Example]):
    """The first examples of a dataset in another order, which depends on the seed alone."""

    def __init__(self, examples: Dataset[Example], count: int, *, batch_size: int, seed: int) -> None:
        self._examples, self._count, self._batch_size, self._seed = examples, count, batch_size, seed
        self._number, self._group = -1, list[Example]()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        number, at = divmod(index, _BATCHES * self._batch_size)
        if number != self._number:
            self._number, self._group = number, self._sorted(number)
        return self._group[at]

    def _sorted(self, number: int) -> list[Example]:
        size = _BATCHES * self._batch_size
        examples = [self._examples[i] for i in range(number * size, min((number + 1) * size, self._count))]
        examples.sort(key=lambda example: len(example["input_ids"]))
        begins = np.arange(0, len(examples), self._batch_size)
        order = np.random.default_rng((self._seed, number)).permutation(begins)
        return [example for begin in order.tolist() for example in examples[begin : begin + self._batch_size]]
