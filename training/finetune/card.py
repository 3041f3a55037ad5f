"""The model card: what was learnt from what, and how good it is."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from huggingface_hub import EvalResult, ModelCardData
from transformers import TrainerState

from training.checkpoint import Checkpoint
from training.finetune.arguments import Options
from training.finetune.kind import Kind, Report
from training.markdown import table

FIGURES: Final = "evaluation.json"
_TRAINING: Final = (
    *("seed", "learning_rate", "batch_size", "warmup_ratio", "weight_decay", "class_weights", "bf16"),
    *("num_train_epochs", "max_steps", "early_stopping_patience", "max_length"),
)


def write_card(
    folder: Path, options: Options, checkpoint: Checkpoint, *, kind: Kind, report: Report, state: TrainerState
) -> None:
    """Write `README.md` and `evaluation.json` into the folder of the checkpoint."""
    name = options.output.name
    plain = {key: value for key, value in report.figures.items() if isinstance(value, float)}
    data = ModelCardData(
        base_model=None if Path(checkpoint.name).is_dir() else checkpoint.name,
        library_name="transformers",
        pipeline_tag=kind.pipeline,
        model_name=name,
        eval_results=[
            EvalResult(kind.pipeline, kind.task, options.data.name, key, value, dataset_split="held out")
            for key, value in plain.items()
        ],
    )
    given = dataclasses.asdict(options)
    made_of = (
        f"{Path(checkpoint.name).name}, fine-tuned on {len(kind.train):,} rows of {options.data.name}; the figures are of "
        f"{len(kind.held_out):,} rows that were held out, at the best of the evaluated steps: {state.best_global_step:,} of "
        f"{state.max_steps:,}."
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        made_of,
        table(list(plain), [list(plain.values())]),
        *report.sections,
        "## How it was made\n\n![Loss by step](loss.png)",
        table(["option", "value"], [[f"`--{key.replace('_', '-')}`", _shown(given[key])] for key in _TRAINING]),
        f"transformers {transformers.__version__}, torch {torch.__version__}. To serve it:",
        f"    python -m model_export export --checkpoint {shlex.quote(str(options.output))} --output models/{name} --task {kind.task}",
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n")
    (folder / FIGURES).write_text(json.dumps(report.figures, indent=2) + "\n")


def _shown(value: Any) -> str:
    return "by default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
