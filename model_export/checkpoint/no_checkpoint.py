"""Say what a path is that is no checkpoint, and what to give instead."""

import re
from pathlib import Path
from typing import Final

from app.bundle.manifest import MANIFEST_FILE
from model_export.checkpoint.unmerged_adapters import refuse_adapter_folder
from model_export.errors import ExportError, few

_CONFIG: Final = "config.json"
_OF_TRAINING: Final = re.compile(r"checkpoint-(\d+)")
_INNER: Final = ("*/config.json", "snapshots/*/config.json")
"""Where checkpoints are in a folder of several, and in the hub's cache."""
_OTHER_FRAMEWORKS: Final = ("tf_model.h5", "flax_model.msgpack", "saved_model.pb", "model.ckpt*", "bert_model.ckpt*")
_OTHER_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")
_NOT_WEIGHTS: Final = ("training_args.bin", "optimizer.", "scheduler.", "rng_state", "scaler.", "adapter_model.")
"""How the names of files begin that a trainer writes beside the weights."""
_SAVE: Final = "save_pretrained()"


def not_a_folder(path: Path) -> ExportError:
    """Return the error of a path that is a file."""
    if path.suffix == ".onnx":
        return ExportError(
            f"{path} is an ONNX graph. The export starts from the weights: give a folder written by {_SAVE}."
        )
    if path.suffix == ".gguf":
        return ExportError(f"{path} is a GGUF file, which cannot be exported. Give a folder written by {_SAVE}.")
    if path.suffix in (".zip", ".gz", ".tgz", ".tar", ".xz"):
        return ExportError(f"{path} is an archive. Unpack it, and give the folder with its {_CONFIG}.")
    if (path.parent / _CONFIG).is_file():
        return ExportError(f"{path} is a file. Give the folder that it is in: {path.parent}.")
    return ExportError(f"{path} is a file, not a checkpoint. Give a folder written by {_SAVE}.")


def not_a_checkpoint(folder: Path, lack: str) -> ExportError:
    """Return the error of a folder that lacks something; `lack` is said of it.

    Raises:
        ExportError: it is an adapter.
    """
    refuse_adapter_folder(folder)
    saved = _saved_by_trainer(folder)
    if saved:
        return ExportError(
            f"{folder} {lack}. It is the output of a training: export one of its checkpoints, {few(saved)}. Which one was best stands "
            "in the trainer_state.json of the last, as best_model_checkpoint."
        )
    if not (folder / _CONFIG).exists():
        if (folder / MANIFEST_FILE).is_file():
            return ExportError(
                f"{folder} is a bundle, which was exported already. Serve it, check it with 'python -m model_export verify {folder}', "
                "or give the checkpoint that it was made of."
            )
        inner = sorted(str(path.parent) for pattern in _INNER for path in folder.glob(pattern))
        if inner:
            return ExportError(f"{folder} {lack}. Give the folder in it that has one: {few(inner)}.")
    remedy = _of_other_weights(folder) or f"Save the model with {_SAVE} and export that folder."
    return ExportError(f"{folder} {lack}. {remedy}")


def _saved_by_trainer(folder: Path) -> list[str]:
    """Return the folders in which a trainer saved steps, the last step first."""
    steps = [
        (int(found[1]), path) for path in folder.glob("checkpoint-*") if (found := _OF_TRAINING.fullmatch(path.name))
    ]
    return [str(path) for _, path in sorted(steps, reverse=True) if path.is_dir()]


def _of_other_weights(folder: Path) -> str | None:
    """Return what to do with weights that are there, but under other names or of another framework."""

    def names(*patterns: str) -> list[str]:
        found = sorted({path.name for pattern in patterns for path in folder.glob(pattern)})
        return [name for name in found if not name.startswith(_NOT_WEIGHTS)]

    if others := names(*_OTHER_FRAMEWORKS):
        return (
            f"{few(others)} holds weights of TensorFlow or Flax. Load them with a transformers 4 that has that framework and torch "
            f"(from_tf=True or from_flax=True), and save them with {_SAVE}."
        )
    if (folder / "model.safetensors").exists() or (folder / "pytorch_model.bin").exists():
        return f"Download the rest of the checkpoint too, or save the model with {_SAVE}, which writes it."
    if others := names(*_OTHER_WEIGHTS):
        return (
            f"It has {few(others)}. If these are the weights, load them into the model's class, and save it and its tokenizer with "
            f"{_SAVE}."
        )
    if graphs := names("*.onnx", "onnx/*.onnx"):
        return f"It has {few(graphs)}, but the export starts from the weights. Save the model with {_SAVE}."
    return None
