"""The model card: what was learnt from what, and how good it is."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from training.markdown import table
from training.pretrain.arguments import Options

FIGURES: Final = "training.json"
_SHOWN: Final = (
    *("max_length", "num_train_epochs", "max_steps", "batch_size", "learning_rate", "warmup_ratio", "weight_decay"),
    *("bf16", "seed"),
)


def write_card(folder: Path, options: Options, figures: Mapping[str, Any]) -> None:
    """Write `README.md` and `training.json` into the folder of the checkpoint."""
    name, held_out = options.output.name, figures["held_out"]
    data = ModelCardData(
        base_model=None if options.checkpoint is None or Path(options.checkpoint).is_dir() else options.checkpoint,
        library_name="transformers",
        pipeline_tag="fill-mask",
        model_name=name,
        eval_results=[
            EvalResult("fill-mask", "fill-mask", "held-out documents", key, value, dataset_split="held out")
            for key, value in next(iter(held_out.values())).items()
        ],
    )
    began = "random weights" if options.checkpoint is None else Path(options.checkpoint).name
    measures = list(next(iter(held_out.values())))
    given = dataclasses.asdict(options)
    checkpoint = shlex.quote(str(options.output))
    made_of = (
        f"A BERT that learnt masked words and next sentences from {figures['tokens']:,} tokens of {figures['documents']:,} "
        f"documents, in {figures['steps']:,} steps from {began} on. The figures are of documents that were held out; the unigram "
        "entropy is the masked-word loss of a guess by the frequency of the words alone, and the next-sentence baseline the "
        "accuracy of the same guess each time."
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        made_of,
        table(
            ["tokens", *(measure.replace("_", " ") for measure in measures)],
            [[length, *row.values()] for length, row in held_out.items()],
        ),
        "![Loss by step](loss.png)",
        table(["option", "value"], [[f"`--{key.replace('_', '-')}`", _text(given[key])] for key in _SHOWN]),
        f"transformers {transformers.__version__}, torch {torch.__version__}. To serve it:",
        f"    python -m model_export export --checkpoint {checkpoint} --output models/{name} --task fill-mask",
    ]
    ModelCard("\n\n".join(sections) + "\n").save(folder / "README.md")
    (folder / FIGURES).write_text(json.dumps(figures, indent=2) + "\n")


def _text(value: Any) -> str:
    return "by default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
