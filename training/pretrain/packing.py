"""Sentences packed into pairs, as BERT's authors do it (`create_pretraining_data.py`)."""

import random
from array import array
from bisect import bisect_left
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.pretrain.corpus import Corpus
from training.pretrain.masking import IGNORED

_SHORT: Final = 0.1
"""Of the pairs, so many have a random length: texts that are served are short, too."""
_NEXT: Final = 0.5
_SAME_SOURCE: Final = 0.5
FOLLOWS: Final = 0
RANDOM: Final = 1
"""As transformers has them."""


class Pair(NamedTuple):
    """A row of what `pack` returns."""

    document: int
    begin: int
    """The first sentence of A."""
    split: int
    """The sentence behind A."""
    end: int
    """The sentence behind B, if B is what follows."""
    length: int
    """Tokens of both, about."""
    label: int
    """Of the next sentence: `FOLLOWS`, `RANDOM`, or `IGNORED` where nothing follows that fits: A stands alone."""


def pack(corpus: Corpus, length: int, seed: str) -> NDArray[np.int32]:
    """Pack all sentences of a corpus, once: [pairs, fields of Pair], in random order.

    Sentences of a document are taken until they have `length` tokens, and cut between two of them into A and B. B is
    replaced in half of the cases; what followed A is then packed anew. One sentence alone gets no B, unlike that of BERT's
    authors: its B would always be a random one, which teaches that short documents end, and texts that are served stand alone.
    """
    chance = random.Random(seed)  # noqa: S311
    starts = memoryview(np.ascontiguousarray(corpus.sentences).data)
    rows = array("i")
    for document, (begin, last) in enumerate(zip(corpus.first.tolist(), corpus.last.tolist(), strict=True)):
        at = begin
        while at < last:
            wanted = chance.randint(2, length) if chance.random() < _SHORT else length
            end = bisect_left(starts, starts[at] + wanted, at + 1, last)
            if end == at + 1:
                split, label = end, IGNORED
            else:
                split, label = chance.randint(at + 1, end - 1), FOLLOWS if chance.random() < _NEXT else RANDOM
            rows.extend((document, at, split, end, wanted, label))
            at = end if label == FOLLOWS else split
    pairs = np.frombuffer(rows, np.int32).reshape(-1, len(Pair._fields))
    return np.random.default_rng(chance.getrandbits(64)).permutation(pairs)


def tokens_of(
    corpus: Corpus, pair: Pair, length: int, chance: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the tokens of A and of B, which together are no longer than `length`; a random B is drawn here."""
    first = _tokens(corpus, pair.begin, pair.split)
    if pair.label == IGNORED:
        return _cut(first, first[:0], length, chance)
    if pair.label == FOLLOWS:
        return _cut(first, _tokens(corpus, pair.split, pair.end), length, chance)
    other = _other(corpus, pair.document, chance)
    begin, last = int(corpus.first[other]), int(corpus.last[other])
    at = int(chance.integers(begin, last))
    wanted = corpus.sentences[at] + max(1, pair.length - len(first))
    end = at + 1 + int(np.searchsorted(corpus.sentences[at + 1 : last], wanted))
    return _cut(first, _tokens(corpus, at, end), length, chance)


def _other(corpus: Corpus, document: int, chance: np.random.Generator) -> int:
    """Draw another document: half of the time one of the same source, which style does not tell apart."""
    begin, end = 0, len(corpus.source)
    if chance.random() < _SAME_SOURCE:
        source = corpus.source[document]
        first, last = np.searchsorted(corpus.source, source), np.searchsorted(corpus.source, source, "right")
        if last - first > 1:
            begin, end = first, last
    other = int(chance.integers(begin, end - 1))
    return other + (other >= document)


def _tokens(corpus: Corpus, begin: int, end: int) -> NDArray[Any]:
    return corpus.tokens[corpus.sentences[begin] : corpus.sentences[end]]


def _cut(
    first: NDArray[Any], second: NDArray[Any], length: int, chance: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Shorten the longer one, or both to the same length, at random ends."""
    excess = len(first) + len(second) - length
    if excess <= 0:
        return first, second
    longer = max(0, min(excess, abs(len(first) - len(second))))
    both = excess - longer
    of_first = (longer if len(first) > len(second) else 0) + both // 2
    return _shortened(first, of_first, chance), _shortened(second, excess - of_first, chance)


def _shortened(tokens: NDArray[Any], by: int, chance: np.random.Generator) -> NDArray[Any]:
    before = int(chance.binomial(by, 0.5))
    return tokens[before : len(tokens) - (by - before)]
