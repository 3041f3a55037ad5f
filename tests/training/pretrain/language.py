"""A language of few sentences: what a word is follows from the others of its document."""

import random
from pathlib import Path
from typing import Any

PEOPLE = {"anna": "ulm", "bela": "bonn", "carl": "kiel", "dora": "trier", "emil": "mainz", "frida": "worms"}
SENTENCES = (
    "{name} lives in {place}.",
    "{name} came back to {place}!",
    "We met {name} in {place}.",
    "Is {place} where {name} works?",
    "The house of {name} in {place} is old.",
)
TINY = ("--hidden-size", 64, "--num-attention-heads", 2, "--num-hidden-layers", 2, "--max-length", 32)


def write_texts(path: Path, documents: int = 120, sentences: int = 8) -> Path:
    """Write documents that are each about one person, some lines with two sentences."""
    chance = random.Random(0)
    with path.open("w") as file:
        for _ in range(documents):
            name, place = chance.choice(list(PEOPLE.items()))
            told = [chance.choice(SENTENCES).format(name=name.title(), place=place.title()) for _ in range(sentences)]
            file.write("\n".join([" ".join(told[:2]), *told[2:]]) + "\n\n")
    return path


def make_tokenizer(words: int = 40, pieces: int = 20) -> Any:
    """Return a tokenizer of words w0, w1, … and of their ends ##p0, ##p1, …"""
    from transformers import BertTokenizerFast  # not installed for the other tests

    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(f"w{i}" for i in range(words)),
        *(f"##p{i}" for i in range(pieces)),
    ]
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)})


def make_corpus(documents: int = 50, sentences: int = 12, sizes: tuple[int, int] = (3, 20)) -> Any:
    """Return a corpus, each of whose tokens tells its document: 5 and its number."""
    import numpy as np

    from training.pretrain.corpus import Corpus

    lengths = np.random.default_rng(0).integers(*sizes, documents * sentences)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(5 + np.arange(documents).repeat(sentences), lengths).astype(np.uint16)
    first = np.arange(documents) * sentences
    return Corpus(tokens, starts, first, first + sentences, np.zeros(documents, np.int64))
