"""Pairs with masked words, as a dataset of torch: what item i is depends on the seed and on i alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from training.pretrain.corpus import Corpus
from training.pretrain.masking import IGNORED, Masking
from training.pretrain.packing import Pair, pack, tokens_of

Example = dict[str, NDArray[np.int64]]


class Examples(Dataset[Example]):
    """Epoch after epoch without end, with other pairs and other masks in each."""

    def __init__(self, corpus: Corpus, tokenizer: Any, *, max_length: int, seed: int) -> None:
        """Pack the first epoch.

        Args:
            corpus: Of two documents or more.
            tokenizer: That it was cut with.
            max_length: Tokens of an example at most.
            seed: Decides all.
        """
        self._corpus = corpus
        self._masking = Masking(tokenizer)
        self._begin, self._between = int(tokenizer.cls_token_id), int(tokenizer.sep_token_id)
        self._max_length = max_length
        self._seed = seed
        self._epoch = 0
        self._pairs = self._pack(0)
        self.per_epoch = len(self._pairs)
        """Of the first; another has about as many."""

    def __getitem__(self, index: int) -> Example:
        """Make an example."""
        epoch, at = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._pairs, self._epoch = self._pack(epoch), epoch
        pair = Pair(*self._pairs[at % len(self._pairs)].tolist())
        chance = np.random.default_rng((self._seed, self._max_length, index))
        first, second = tokens_of(self._corpus, pair, self._room, chance)
        whole = np.concatenate([[self._begin], first, [self._between], second, [self._between]]).astype(np.int64)
        if not len(second):
            whole = whole[:-1]
        ids, labels = self._masking.mask(whole, chance)
        types = np.zeros_like(ids)
        types[len(first) + 2 :] = 1
        return {
            "input_ids": ids,
            "token_type_ids": types,
            "attention_mask": np.ones_like(ids),
            "labels": labels,
            "next_sentence_label": np.array(pair.label),
        }

    @property
    def _room(self) -> int:
        return self._max_length - 3

    def _pack(self, epoch: int) -> NDArray[np.int32]:
        return pack(self._corpus, self._room, f"{self._seed} {self._max_length} {epoch}")


class Collator:
    """Make a batch of examples, as long as the longest of them."""

    def __init__(self, tokenizer: Any) -> None:
        self._padding = {"input_ids": tokenizer.pad_token_id, "labels": IGNORED}

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return what the network takes: [examples, tokens], and [examples] for the next sentence."""
        batch = {}
        for name in examples[0]:
            rows = [torch.from_numpy(example[name]) for example in examples]
            batch[name] = (
                pad_sequence(rows, batch_first=True, padding_value=self._padding.get(name, 0))
                if rows[0].dim()
                else torch.stack(rows)
            )
        return batch
