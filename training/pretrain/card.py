"""The model card of a pretrained checkpoint."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from training.card import base_model, how_it_was_made, write_card
from training.markdown import code, table
from training.pretrain.arguments import Options

_OPTIONS: Final = (
    *(
        "texts",
        "encoding",
        "eval_share",
        "checkpoint",
        "vocab",
        "vocab_size",
        "cased",
        "num_hidden_layers",
        "hidden_size",
    ),
    *("num_attention_heads", "intermediate_size", "max_length", "seed", "num_train_epochs", "max_steps", "batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "warmup_ratio", "weight_decay", "bf16"),
)


def write_report(folder: Path, options: Options, figures: Mapping[str, Any]) -> None:
    """Write what the held-out documents say into the folder of the checkpoint."""
    held_out = figures["held_out"]
    first = next(iter(held_out.values()))
    front = ModelCardData(
        base_model=base_model(options.checkpoint),
        library_name="transformers",
        pipeline_tag="fill-mask",
        model_name=options.output.name,
        eval_results=[
            EvalResult("fill-mask", "fill-mask", "held-out documents", key, value, dataset_split="held out")
            for key, value in first.items()
        ],
    )
    began = "random weights" if options.checkpoint is None else code(Path(options.checkpoint).name)
    made_of = (
        f"A BERT that learnt masked words and next sentences from {figures['tokens']:,} tokens of {figures['documents']:,} "
        f"documents, in {figures['steps']:,} steps from {began} on. The figures are of documents that were held out; the unigram "
        "entropy is the masked-word loss of a guess by the frequency of the words alone, and the next-sentence baseline the "
        "accuracy of the same guess each time (0 where no held-out document has two sentences)."
    )
    measured = table(
        ["tokens", *(measure.replace("_", " ") for measure in first)],
        [[length, *row.values()] for length, row in held_out.items()],
    )
    made = how_it_was_made(dataclasses.asdict(options), _OPTIONS, options.output, "fill-mask")
    write_card(folder, front, [made_of, measured, made], figures)
