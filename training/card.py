"""The model card of a result: what it was made of, and how good it is."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCardData

from training.markdown import code, plain, table


def write_card(folder: Path, front: ModelCardData, sections: Sequence[str], figures: Any) -> None:
    """Write `README.md`, and the figures as `evaluation.json`, into the folder of a checkpoint.

    Args:
        folder: It.
        front: What the hub reads.
        sections: Markdown, behind the name of the model.
        figures: As JSON has them.
    """
    parts = [f"---\n{front.to_yaml()}\n---", f"# {plain(str(front.model_name))}", *sections]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    (folder / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")


def how_it_was_made(options: Mapping[str, Any], names: Sequence[str], output: Path, task: str) -> str:
    """Return the options of these names, the versions, and the command that exports the result."""
    rows = [[code(f"--{name.replace('_', '-')}"), _shown(options[name])] for name in names]
    return (
        f"## How it was made\n\n![Loss by step](loss.png)\n\n{table(['option', 'value'], rows)}\n\n"
        f"transformers {transformers.__version__}, torch {torch.__version__}. {how_to_serve(output, task)}"
    )


def how_to_serve(output: Path, task: str, options: str = "") -> str:
    """Return the sentence and the command that export the result, with more options of the command."""
    paths = f"--checkpoint {shlex.quote(str(output))} --output {shlex.quote(f'models/{output.name}')}"
    return f"To serve it:\n\n    python -m model_export export {paths} --task {task} {options}".rstrip()


def base_model(checkpoint: str | None) -> str | None:
    """Return the checkpoint that a run started from, if it has a name on the hub."""
    return None if checkpoint is None or Path(checkpoint).is_dir() else checkpoint


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if value is None or isinstance(value, bool):
        return {None: "by default", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, int | float) else code(value)
