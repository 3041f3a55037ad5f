"""The WordPiece tokenizer: from a vocabulary that is given, or that is learnt from the texts."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

from tokenizers import trainers
from transformers import BertTokenizerFast

from training.errors import TrainingError, few

SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CHARACTERS: Final = 4
"""Characters, each alone and as `##`, have half of the vocabulary at most: one entry in four each way."""
_KNOWN: Final = 0.98
"""Of the texts, which the characters in the vocabulary must make; rare ones may be unknown."""


def given_tokenizer(vocab: Path, *, cased: bool, max_length: int) -> BertTokenizerFast:
    """Return the tokenizer of a `vocab.txt`, which has a token a line.

    Raises:
        TrainingError: it is not there, or no such vocabulary.
    """
    if not vocab.is_file():
        raise TrainingError(f"{vocab} is not there.")
    try:
        tokens = vocab.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeError:
        raise TrainingError(f"{vocab} is not utf-8.") from None
    tokens = [token.removesuffix("\r") for token in tokens]
    if missing := [token for token in SPECIAL if token not in tokens]:
        raise TrainingError(f"{vocab} has no {few(missing)}: it is no vocabulary of BERT, which has a token a line.")
    if twice := [token for token, count in Counter(tokens).items() if count > 1]:
        raise TrainingError(f"{vocab} has tokens twice: {few([repr(token) for token in twice])}.")
    return _tokenizer({token: i for i, token in enumerate(tokens)}, cased=cased, max_length=max_length)


def learn_tokenizer(lines: Iterable[Iterable[str]], size: int, *, cased: bool, max_length: int) -> BertTokenizerFast:
    """Learn a vocabulary: the same from the same lines, which are read twice.

    Args:
        lines: Of documents.
        size: Tokens at most; few texts make fewer.
        cased: Whether it tells upper case from lower.
        max_length: Tokens of a sequence.

    Raises:
        TrainingError: `size` has no room for the characters.
    """
    learning = _tokenizer(None, cased=cased, max_length=max_length).backend_tokenizer
    seen: Counter[str] = Counter()
    for document in lines:
        seen.update(learning.normalizer.normalize_str("\n".join(document)))
    ordered = sorted((c for c in seen if not c.isspace()), key=lambda c: (-seen[c], c))
    met = list(accumulate(seen[c] for c in ordered))
    least = max(2 * len(SPECIAL), _CHARACTERS * (bisect_left(met, _KNOWN * met[-1]) + 1)) if met else 0
    if size < least:
        raise TrainingError(
            f"--vocab-size {size} has no room for the texts' {len(ordered):,} different characters: give at least {least:,}."
        )
    characters = sorted(ordered[: size // _CHARACTERS])
    # The library numbers `##x` in the order of a hash table, which differs from run to run, and merges by number what is equally
    # frequent. What counts as special has its number before.
    numbered = [*SPECIAL, *characters, *(f"##{c}" for c in characters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=numbered,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    learning.train_from_iterator(_flat(lines), trainer)
    return _tokenizer(learning.get_vocab(), cased=cased, max_length=max_length)


def _tokenizer(vocab: dict[str, int] | None, *, cased: bool, max_length: int) -> BertTokenizerFast:
    return BertTokenizerFast(vocab=vocab, do_lower_case=not cased, model_max_length=max_length)


def _flat(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    for document in documents:
        yield from document
