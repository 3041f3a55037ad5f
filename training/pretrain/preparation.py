"""What is made once, before the training: the tokenizer, and the texts as its tokens."""

import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoTokenizer

from training.checkpoint import Checkpoint, check_language
from training.errors import TrainingError, share, tell
from training.pretrain.arguments import Options
from training.pretrain.corpus import Corpus, open_corpus, write_corpus
from training.pretrain.documents import FEWEST, hold_out, read_documents
from training.pretrain.phases import SHORT
from training.pretrain.tokenizer import given_tokenizer, learn_tokenizer
from training.texts import text_files

_VOCABULARY: Final = 30522
_SAMPLED: Final = 2000
"""Documents that tell whether the tokenizer knows the language."""


class Prepared(NamedTuple):
    """What the training reads."""

    tokenizer: Any
    train: Corpus
    held_out: Corpus


def prepare(folder: Path, options: Options, checkpoint: Checkpoint | None) -> Prepared:
    """Read the texts, or what an earlier run has made of them.

    Raises:
        TrainingError: there are too few documents, or the tokenizer does not know their language.
    """
    if not folder.exists():
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        _make(new, options, checkpoint)
        new.rename(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    corpus, held_out = open_corpus(folder), np.load(folder / "held_out.npy")
    prepared = Prepared(tokenizer, corpus.part(~held_out), corpus.part(held_out))
    if min(len(prepared.train.first), len(prepared.held_out.first)) < FEWEST:
        raise TrainingError("too few documents have a text that has tokens: give more.")
    tell(
        f"{len(prepared.train.first):,} documents of {prepared.train.count:,} tokens to learn from, "
        f"{len(prepared.held_out.first):,} of {prepared.held_out.count:,} held out; {len(tokenizer):,} tokens in the vocabulary."
    )
    return prepared


def _make(folder: Path, options: Options, checkpoint: Checkpoint | None) -> None:
    files = text_files(options.texts)
    count = sum(1 for _ in read_documents(files, options.encoding))
    if not count:
        raise TrainingError("no line of the files has a text.")
    held_out = hold_out(count, options.eval_share, options.seed)
    documents = _Documents(files, options.encoding, ~held_out)
    tokenizer = checkpoint.tokenizer if checkpoint is not None else _new_tokenizer(documents, options)
    lines = itertools.chain.from_iterable(itertools.islice(read_documents(files, options.encoding), _SAMPLED))
    check_language(tokenizer, list(lines))
    longest = min(SHORT, options.max_length) - 3
    bar = tqdm(
        read_documents(files, options.encoding),
        "reading",
        count,
        disable=not sys.stderr.isatty(),
        unit=" documents",
        leave=False,
        dynamic_ncols=True,
    )
    sentences, cut = write_corpus(folder, bar, tokenizer, longest)
    if cut:
        tell(f"{share(cut, sentences)} sentences are longer than {longest} tokens, and cut into several.")
    np.save(folder / "held_out.npy", held_out)
    tokenizer.save_pretrained(folder)


def _new_tokenizer(documents: "_Documents", options: Options) -> Any:
    if options.vocab is not None:
        return given_tokenizer(options.vocab, cased=options.cased, max_length=options.max_length)
    wanted = options.vocab_size or _VOCABULARY
    tell("Learning the vocabulary.")
    tokenizer = learn_tokenizer(documents, wanted, cased=options.cased, max_length=options.max_length)
    if len(tokenizer) < wanted:
        tell(f"The texts make a vocabulary of {len(tokenizer):,} tokens, and not of {wanted:,}.")
    return tokenizer


class _Documents:
    """Some of the documents, to be read several times."""

    def __init__(self, files: Sequence[Path], encoding: str, chosen: NDArray[np.bool_]) -> None:
        self._files = files
        self._encoding = encoding
        self._chosen = chosen

    def __iter__(self) -> Iterator[list[str]]:
        return itertools.compress(read_documents(self._files, self._encoding), self._chosen)
