"""How well the held-out documents are guessed, and how well one would guess who knows nothing but frequencies."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.pretrain.by_length import ByLength
from training.pretrain.corpus import Corpus
from training.pretrain.examples import Example, Examples
from training.pretrain.masking import IGNORED
from training.pretrain.packing import FOLLOWS, RANDOM

MEASURES: Final = ("masked_word_loss", "masked_word_accuracy", "perplexity", "next_sentence_accuracy")
_MOST: Final = 2048
"""Examples that are evaluated: 40,000 masked tokens, whose average loss is known to a hundredth or two."""
_BATCH: Final = 32


def held_out_examples(corpus: Corpus, tokenizer: Any, *, max_length: int, seed: int) -> ByLength:
    """Return the examples that are evaluated, with the same masks each time."""
    examples = Examples(corpus, tokenizer, max_length=max_length, seed=seed)
    return ByLength(examples, min(examples.per_epoch, _MOST), batch_size=_BATCH, seed=seed)


def metrics(prediction: Any) -> dict[str, float]:
    """Return the figures of an evaluation, from what the network returns by sequence."""
    losses, right, words, right_next, labelled = prediction.predictions
    count = max(words.sum(), 1)
    loss = float(losses.sum() / count)
    found = (loss, float(right.sum() / count), float(np.exp(loss)), float(right_next.sum() / max(labelled.sum(), 1)))
    return dict(zip(MEASURES, found, strict=True))


def next_sentence_baseline(examples: Iterable[Example]) -> float:
    """Return the next-sentence accuracy of the same guess each time: about a half."""
    labels = np.array([example["next_sentence_label"] for example in examples])
    return float(max((labels == FOLLOWS).sum(), (labels == RANDOM).sum()) / max((labels != IGNORED).sum(), 1))


def unigram_entropy(examples: Iterable[Example], frequencies: NDArray[np.int64]) -> float:
    """Return the masked-word loss of a guess by frequency alone, in nats.

    Args:
        examples: That are evaluated.
        frequencies: How often each token is in the documents to learn from: [tokens of the vocabulary].
    """
    labels = np.concatenate([example["labels"] for example in examples])
    # One more of each: a token that was never seen would cost infinitely much.
    shares = (frequencies + 1) / (frequencies + 1).sum()
    return float(-np.log(shares[labels[labels != IGNORED]]).mean())
