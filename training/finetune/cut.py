"""Texts as tokens, which are cut where they are longer than what a model takes."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

from training.errors import share, tell


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    **options: Any,
) -> BatchEncoding:
    """Return texts or pairs as tokens; how many are cut is printed, and what length would cut none.

    Args:
        tokenizer: Its `model_max_length` is the most that the checkpoint takes.
        texts: The texts, or the first of each pair.
        pairs: The second of each pair.
        max_length: The tokens that are kept.
        options: Of the tokenizer.
    """
    whole = tokenizer(texts, pairs, verbose=False, **options)
    lengths = [len(ids) for ids in whole["input_ids"]]
    cut = sum(length > max_length for length in lengths)
    if not cut:
        return whole
    longest = max(lengths)
    remedy = f"; --max-length {longest} cuts none" if longest <= tokenizer.model_max_length else ""
    tell(f"{share(cut, len(lengths))} texts have more than {max_length} tokens and lose their end{remedy}.")
    return tokenizer(texts, pairs, truncation=True, max_length=max_length, **options)
