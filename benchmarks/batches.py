"""Texts as the engine takes them: tokenized, and in batches up to a budget."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from app.bundle.files import Bundle
from app.bundle.sequences import TokenSequence


def sequence(ids: Sequence[int] | np.ndarray, types: Sequence[int] | None = None) -> TokenSequence:
    """Return a sequence of token ids, of type 0 unless they are told."""
    input_ids = np.array(ids, np.int32)
    token_type_ids = np.zeros_like(input_ids) if types is None else np.array(types, np.int32)
    return TokenSequence(input_ids, token_type_ids, np.empty(0, np.int32))


def token_sequences(bundle: Path, texts: Sequence[str]) -> list[TokenSequence]:
    """Tokenize the texts as the bundle in this folder has it."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    return [sequence(encoded.ids, encoded.type_ids) for encoded in tokenizer.encode_batch(texts)]


def random_sequence(random: np.random.Generator, bundle: Bundle, length: int) -> TokenSequence:
    """Return a sequence of random tokens."""
    return sequence(random.integers(0, bundle.manifest.architecture.vocab_size, length))


def in_batches(texts: Sequence[str], count: int) -> list[Sequence[str]]:
    """Return batches of so many texts, the last with the rest."""
    return [texts[first : first + count] for first in range(0, len(texts), count)]


def filled(sequences: Sequence[TokenSequence], budget_tokens: int) -> Iterator[list[TokenSequence]]:
    """Yield batches in order of arrival, each up to the budget; a longer sequence is alone."""
    batch: list[TokenSequence] = []
    tokens = 0
    for one in sequences:
        if batch and tokens + len(one) > budget_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(one)
        tokens += len(one)
    yield batch
