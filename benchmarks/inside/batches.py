"""Texts as the engine takes them: tokenized, and in batches up to a budget. Runs in the project's environment."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from app.bundle.sequences import TokenSequence


def token_sequences(bundle: Path, texts: Sequence[str]) -> list[TokenSequence]:
    """Tokenize the texts as the bundle in this folder has it."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    no_masks = np.empty(0, np.int64)
    return [
        TokenSequence(np.array(encoded.ids), np.array(encoded.type_ids), no_masks)
        for encoded in tokenizer.encode_batch(texts)
    ]


def filled(sequences: Sequence[TokenSequence], budget_tokens: int) -> Iterator[list[TokenSequence]]:
    """Yield batches in order of arrival, each up to the budget."""
    batch: list[TokenSequence] = []
    tokens = 0
    for sequence in sequences:
        if batch and tokens + len(sequence) > budget_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(sequence)
        tokens += len(sequence)
    yield batch
