"""What a precision costs in right answers, beside what it gives in speed: on sentences that people have rated."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.batches import in_batches
from benchmarks.bench import Bench
from benchmarks.bundles import ExportFailed
from benchmarks.engines import opened, our_title
from benchmarks.labelled import Sentence, split
from benchmarks.parts.engines import rates_in_turns
from benchmarks.report import Row, say

BATCH: Final = 16
"""Texts of a batch, as they come. The answers of engines that quantize a batch by its own range depend on it."""
AIM: Final = "changed <= 0.5%"
"""Of this project's int8."""


def accuracy(bench: Bench, *, models: Sequence[str], texts: int | None, timed_texts: int) -> Iterator[Row]:
    """Answer rated sentences in every engine: the share of right labels, and of labels that are not those of cpu-fp32.

    Sentences are held out from the training of the checkpoint, and the newspaper's are of a kind that it was not trained on.
    Tokens per second are of CPU time, one thread, for the same sentences alone and in batches.

    Args:
        bench: What is measured on.
        models: Classifiers of sentiment, negative and positive.
        texts: How many sentences are answered, None for all.
        timed_texts: How many of them are answered again for the speed, in each round.
    """
    for model in models:
        try:
            bench.bundles.folder(model)
        except ExportFailed as error:
            yield {"kind": "not measured", "model": model, "error": str(error)[-200:]}
            continue
        _, sentences = split(bench.bundles.cache)
        chosen = np.random.default_rng(0).permutation(len(sentences))[:texts]
        yield from _accuracy(bench, model, [sentences[i] for i in chosen], timed_texts)


def _accuracy(bench: Bench, model: str, sentences: Sequence[Sentence], timed_texts: int) -> Iterator[Row]:
    texts = [sentence.text for sentence in sentences]
    right = np.array([sentence.is_positive for sentence in sentences])
    sources = np.array([sentence.source for sentence in sentences])
    with opened(bench, model) as (measures, missing):
        yield from missing
        labels: dict[str, npt.NDArray[np.bool_]] = {}
        for engine, measure in measures.items():
            say(f"accuracy: {model}, {engine}")
            labels[engine] = measure(in_batches(texts, BATCH)).logits.argmax(axis=1).astype(bool)
        timed = texts[:timed_texts]
        shapes = {"tokens_per_s_alone": in_batches(timed, 1), f"tokens_per_s_{BATCH}": in_batches(timed, BATCH)}
        exact = labels[our_title("fp32")]
        for rates in rates_in_turns(bench, model, measures, shapes):
            for engine, found in labels.items():
                is_right = found == right
                by_source = {name: float(is_right[sources == name].mean()) for name in dict.fromkeys(sources.tolist())}
                yield {
                    "kind": "rated sentences",
                    "model": model,
                    "engine": engine,
                    "sentences": len(texts),
                    "accuracy": float(is_right.mean()),
                    **dict(sorted(by_source.items())),
                    "changed": float((found != exact).mean()),
                    **rates[engine],
                    "aim": AIM if engine == our_title("int8") else "",
                }
