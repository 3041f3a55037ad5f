"""The model card of a fine-tuned checkpoint."""

import dataclasses
from pathlib import Path
from typing import Final

from huggingface_hub import EvalResult, ModelCardData
from transformers import TrainerState

from training.card import base_model, how_it_was_made, write_card
from training.finetune.arguments import Options
from training.finetune.kind import Kind, Report
from training.markdown import code, table

_OPTIONS: Final = (
    *(
        "checkpoint",
        "data",
        "eval_data",
        "eval_share",
        "encoding",
        "delimiter",
        "skip_bad_rows",
        "text_column",
        "label_column",
    ),
    *(
        "label_delimiter",
        "task",
        "problem_type",
        "max_length",
        "doc_stride",
        "max_answer_length",
        "class_weights",
        "calibrate",
        "seed",
    ),
    *("num_train_epochs", "max_steps", "save_steps", "early_stopping_patience", "batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "warmup_ratio", "weight_decay", "bf16"),
)


def write_report(folder: Path, options: Options, *, kind: Kind, report: Report, state: TrainerState) -> None:
    """Write what the held-out rows say into the folder of the checkpoint."""
    plain = {key: value for key, value in report.figures.items() if isinstance(value, float)}
    front = ModelCardData(
        base_model=base_model(options.checkpoint),
        library_name="transformers",
        pipeline_tag=kind.pipeline,
        model_name=options.output.name,
        eval_results=[
            EvalResult(kind.pipeline, kind.task, options.data.name, key, value, dataset_split="held out")
            for key, value in plain.items()
        ],
    )
    made_of = (
        f"{code(Path(options.checkpoint).name)}, fine-tuned on {len(kind.train):,} rows of {code(options.data.name)}; the figures are of "
        f"{len(kind.held_out):,} rows that were held out, at the best of the evaluated steps: {state.best_global_step:,} of "
        f"{state.max_steps:,}."
    )
    made = how_it_was_made(dataclasses.asdict(options), _OPTIONS, options.output, kind.task)
    sections = [made_of, table(list(plain), [list(plain.values())]), *report.sections, made]
    write_card(folder, front, sections, report.figures)
