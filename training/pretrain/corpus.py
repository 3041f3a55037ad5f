"""The tokens of the texts, in files that are mapped into memory: 2 bytes a token."""

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.pretrain.documents import split_sentences

_AT_ONCE: Final = 2000
"""Sentences that the tokenizer gets together, on all cores."""
_COUNTED_AT_ONCE: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents of sentences of tokens."""

    tokens: NDArray[Any]
    sentences: NDArray[np.int64]
    """[sentences + 1], where each begins in `tokens`."""
    first: NDArray[np.int64]
    """[documents], the first sentence of each."""
    last: NDArray[np.int64]
    """[documents], the one behind its last."""
    source: NDArray[np.int64]
    """[documents], ascending: half of the random second texts are of the source of the first."""

    @property
    def count(self) -> int:
        """Tokens of these documents."""
        return int((self.sentences[self.last] - self.sentences[self.first]).sum())

    def part(self, chosen: NDArray[np.bool_]) -> "Corpus":
        """Return some of the documents: [documents], true for one that is in it. Those without a sentence are not."""
        chosen = chosen & (self.last > self.first)
        return Corpus(self.tokens, self.sentences, self.first[chosen], self.last[chosen], self.source[chosen])

    def frequencies(self, vocabulary: int) -> NDArray[np.int64]:
        """Return how often each token is in these documents: [tokens of the vocabulary]."""
        counts = np.zeros(vocabulary, np.int64)
        held: list[NDArray[Any]] = []
        size = 0
        for begin, end in zip(self.sentences[self.first], self.sentences[self.last], strict=True):
            held.append(self.tokens[begin:end])
            size += end - begin
            if size >= _COUNTED_AT_ONCE:
                counts += np.bincount(np.concatenate(held), minlength=vocabulary)
                held, size = [], 0
        return counts + np.bincount(np.concatenate(held), minlength=vocabulary) if held else counts


def open_corpus(folder: Path) -> Corpus:
    """Return what `write_corpus` wrote, as one source."""
    documents = np.load(folder / "documents.npy")
    tokens = np.load(folder / "kind.npy")
    return Corpus(
        np.memmap(folder / "tokens", tokens.dtype, "r"),
        np.load(folder / "sentences.npy"),
        documents[:-1],
        documents[1:],
        np.zeros(len(documents) - 1, np.int64),
    )


def write_corpus(
    folder: Path, documents: Iterable[Sequence[str]], tokenizer: Callable[..., Any], longest: int
) -> tuple[int, int]:
    """Write the tokens of documents.

    Args:
        folder: Where they go.
        documents: As their lines.
        tokenizer: Of transformers.
        longest: Tokens; a longer sentence is cut into several.

    Returns:
        Sentences, and how many of them were cut.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)  # type: ignore[arg-type]
    lengths, sizes = array("i"), array("q")
    sentences = cut = 0
    with (folder / "tokens").open("wb") as file:
        for group in _groups(documents):
            texts = list(itertools.chain.from_iterable(group))
            ids = tokenizer(
                texts,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            file.write(np.fromiter(itertools.chain.from_iterable(ids), dtype).tobytes())
            sentences += sum(1 for one in ids if one)
            cut += sum(1 for one in ids if len(one) > longest)
            remaining = iter(ids)
            for document in group:
                pieces = [
                    size for one in itertools.islice(remaining, len(document)) for size in _pieces(len(one), longest)
                ]
                lengths.extend(pieces)
                sizes.append(len(pieces))
    np.save(folder / "sentences.npy", _ends(lengths))
    np.save(folder / "documents.npy", _ends(sizes))
    np.save(folder / "kind.npy", np.zeros(0, dtype))
    return sentences, cut


def _groups(documents: Iterable[Sequence[str]]) -> Iterator[list[list[str]]]:
    """Yield documents as their sentences, several at once."""
    group: list[list[str]] = []
    size = 0
    for document in documents:
        group.append([sentence for line in document for sentence in split_sentences(line)])
        size += len(group[-1])
        if size >= _AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _pieces(size: int, longest: int) -> Iterator[int]:
    for begin in range(0, size, longest):
        yield min(longest, size - begin)


def _ends(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
