"""This project's engine and those of the peers, without a server: tokens per second of CPU time, one thread each, in turns."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from benchmarks.batches import in_batches, token_sequences
from benchmarks.bench import Bench
from benchmarks.engines import Measure, opened, our_title
from benchmarks.report import Row, say
from benchmarks.texts import read_texts

Batches = Sequence[Sequence[str]]

EQUAL: Final = ((1, 27), (16, 27), (4, 128))
"""Texts of a batch, and tokens of each."""
MIXED: Final = 16
"""Texts of a batch of the mix, as they come: whoever pads computes two to five times as many tokens."""


def engines(bench: Bench, *, model: str, tokens: int, mixed_texts: int) -> Iterator[Row]:
    """Measure every engine with one thread in batches of equal length and of mixed lengths: tokens per second of CPU time.

    In turns within a round, each round in the other direction. Tokenization is left out, and tokens are those of the texts.

    Args:
        bench: What is measured on.
        model: What all of them run.
        tokens: How many of each shape of batch a round has.
        mixed_texts: How many texts of the mix a round has.
    """
    folder = bench.bundles.folder(model)
    shapes: dict[str, Batches] = {
        f"{count} x {length}": batches_of_equal_length(folder, count, length, tokens) for count, length in EQUAL
    }
    shapes[f"{MIXED} of 5 to 379"] = in_batches(read_texts("mix")[:mixed_texts], MIXED)
    with opened(bench, model) as (measures, missing):
        yield from missing
        for rates in rates_in_turns(bench, model, measures, shapes):
            exact = rates[our_title("fp32")]
            for engine, of in rates.items():
                yield {"kind": "tokens/s of one thread", "model": model, "engine": engine, **of}
                relative = {shape: rate / exact[shape] for shape, rate in of.items()}
                yield {"kind": "relative to cpu-fp32", "model": model, "engine": engine, **relative}


def rates_in_turns(
    bench: Bench, model: str, measures: Mapping[str, Measure], shapes: Mapping[str, Batches]
) -> Iterator[dict[str, dict[str, float]]]:
    """Yield for each round the tokens per second of CPU time, by engine and shape of batch."""
    folder = bench.bundles.folder(model)
    counts = {
        shape: sum(map(len, token_sequences(folder, [text for texts in batches for text in texts])))
        for shape, batches in shapes.items()
    }
    for measure in measures.values():  # the first run of a shape allocates, or compiles: a server has done that
        for batches in shapes.values():
            measure(batches)
    for number in range(bench.rounds):
        say(f"{model}, round {number + 1}")
        order = list(measures)[:: 1 if number % 2 == 0 else -1]
        found = {
            engine: {shape: counts[shape] / measures[engine](batches).cpu_s for shape, batches in shapes.items()}
            for engine in order
        }
        yield {engine: found[engine] for engine in measures}


def batches_of_equal_length(folder: Path, count: int, length: int, tokens: int) -> Batches:
    """Return batches of texts of a length, of words that are a token each."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    random = np.random.default_rng(0)
    special = len(tokenizer.encode("").ids)
    batches = max(1, tokens // (count * length))
    return [[" ".join(random.choice(words, length - special)) for _ in range(count)] for _ in range(batches)]
