"""The model card of the demo checkpoint."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub import ModelCardData

from training.card import how_it_was_made, write_card
from training.demo.arguments import Options
from training.demo.sources import SOURCES
from training.markdown import table

_OPTIONS: Final = (
    "seed",
    "max_steps",
    "batch_size",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "max_length",
    "vocab_size",
)


def write_report(folder: Path, options: Options, figures: Mapping[str, Any]) -> None:
    """Write what was learnt from what, and how good it is, into the folder of the checkpoint."""
    front = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        model_name="Demo checkpoint",
        license="apache-2.0",
    )
    made_of = (
        f"A small English BERT with three heads, of masked words, next sentences and sentiment. It starts from all-MiniLM-L6-v2 "
        f"(Apache-2.0), with the first {options.vocab_size:,} tokens of its vocabulary, and learns in {figures['steps']:,} steps from "
        f"{figures['tokens']:,} tokens of text and {figures['rated']:,} rated sentences. It is a demonstration: its English is that of "
        "its sources, and it has their biases."
    )
    texts = table(
        ["package", "texts", "licence", "held out: masked words right", "next sentences right"],
        [
            [source.package, source.texts, source.licence, *(_shown(figures["words"], source.package))]
            for source in SOURCES
        ],
    )
    sentiment = table(
        ["held out", "sentences", "right"], [[kind, *found] for kind, found in figures["sentiment"].items()]
    )
    filled = table(["text", "likeliest words"], [[text, ", ".join(words)] for text, words in figures["filled"].items()])
    made = how_it_was_made(dataclasses.asdict(options), _OPTIONS, options.output, "classify")
    write_card(
        folder, front, [made_of, "## Texts", texts, "## Sentiment", sentiment, "## Masked words", filled, made], figures
    )


def _shown(words: Mapping[str, Mapping[str, float]], package: str) -> list[object]:
    found = words.get(package)
    return ["too few", ""] if found is None else [found["masked_word_accuracy"], found["next_sentence_accuracy"]]
