"""Find a checkpoint, in a folder or on the hub, and choose which of its heads to export."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_export.checkpoint.config import CONFIG_FILE, Config, read_config
from model_export.checkpoint.cross_encoder import is_cross_encoder
from model_export.checkpoint.no_checkpoint import not_a_checkpoint, not_a_folder
from model_export.checkpoint.sentence_transformers import FILES_OF_MODULES, MODULES_FILE
from model_export.checkpoint.weights import PICKLED, SAFETENSORS
from model_export.errors import ExportError, one_line
from model_export.tasks import TASKS, HeadKind, TaskSpec

_SMALL_FILES: Final = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine. `revision` is the commit on the hub that was downloaded."""

    name: str
    folder: Path
    revision: str | None
    config: Config


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Return the checkpoint in the folder `name`, or the one of that name on the hub.

    Raises:
        ExportError: there is none, or it is of a kind that cannot be exported.
    """
    folder = Path(name)
    try:
        is_folder = folder.is_dir()
    except OSError as error:  # a folder above it cannot be searched
        raise ExportError(
            f"{name} cannot be read: {error.strerror}. Let the user that runs the export read it."
        ) from error
    if is_folder:
        if revision is not None:
            raise ExportError(f"--revision is for checkpoints on the hub, but {name} is a folder. Leave it out.")
        if not os.path.lexists(folder / CONFIG_FILE):
            raise not_a_checkpoint(folder, f"is not a checkpoint: it has no {CONFIG_FILE}")
        return Checkpoint(name, folder, None, read_config(folder))
    if os.path.lexists(folder):
        raise not_a_folder(folder)
    folder = _download(name, revision)
    return Checkpoint(name, folder, folder.name, read_config(folder))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # folders do not need it
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    def download(*patterns: str) -> Path:
        # Subfolders hold other formats of the same weights.
        files = [*_SMALL_FILES, *patterns]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=["*/*"]))
        if (folder / MODULES_FILE).is_file():
            snapshot_download(name, revision=folder.name, allow_patterns=list(FILES_OF_MODULES))
        return folder

    try:
        folder = download(SAFETENSORS, "model-*.safetensors")
        return folder if any(folder.glob("model*.safetensors")) else download(PICKLED, "pytorch_model-*.bin")
    except HFValidationError as error:
        raise ExportError(f"{name} is neither a folder nor a hub id (OWNER/NAME). Check --checkpoint.") from error
    except Exception as error:  # the hub's client, its transport and the disk all raise their own
        at = f" at revision {revision}" if revision else ""
        raise ExportError(
            f"{name} is not a folder and could not be downloaded{at} ({one_line(error)}). Check --checkpoint, "
            "--revision, the network, and HF_TOKEN if it is private; or download it elsewhere and give its folder."
        ) from error


def are_own_classes(architectures: Collection[str]) -> bool:
    """Return whether there are architectures, and transformers has none of them: their classes are people's own."""
    import transformers  # noqa: PLC0415  # takes a second

    return bool(architectures) and not any(hasattr(transformers, name) for name in architectures)


def choose_task(checkpoint: Checkpoint, name: str, trained: Collection[HeadKind]) -> TaskSpec:
    """Return the task to export: the one of this name, or for `auto` that of the one head that the config names.

    A sentence-transformers folder is for `embed`, and so is a model without a head; a CrossEncoder is for `rerank`, or for
    `classify` if it has several labels.

    Args:
        checkpoint: What to export.
        name: A task's name, or `auto`.
        trained: The heads whose tensors are among the weights.

    Raises:
        ExportError: the config names no head or several, or not the head of the task, or other labels than that needs.
    """
    architectures, labels = checkpoint.config.architectures, len(checkpoint.config.labels)
    named = [[task for task in TASKS.values() if one.endswith(task.architectures)] for one in architectures]
    # Names of tensors are not enough where the config has its own: a classifier of texts would give labels to tokens.
    # Any encoder gives embeddings.
    # Classes of people's own say nothing of tensors.
    is_named = bool(architectures) and not are_own_classes(architectures)
    heads = {task.head for tasks in named for task in tasks} if is_named else set(trained)
    possible = [task for task in TASKS.values() if task.head is None or task.head in heads]
    choice = " or ".join(f"--task {task.name}" for task in possible if labels == 1 or not task.has_one_label)
    names = ", ".join(architectures) or "no architecture"
    if name == "auto" and is_cross_encoder(checkpoint.folder):
        name = "rerank" if labels == 1 else "classify"
    if name == "auto":
        if os.path.lexists(checkpoint.folder / MODULES_FILE):
            return TASKS["embed"]
        defaults = {tasks[0].name for tasks in named if tasks}
        if len(defaults) == 1:
            return TASKS[defaults.pop()]
        found = "several heads" if defaults else "no head that can be exported"
        raise ExportError(
            f"The config of {checkpoint.name} names {found} ({names}). Say which one to export: {choice}."
        )
    chosen = TASKS[name]
    if is_named and chosen not in possible:
        raise ExportError(
            f"{checkpoint.name} has no trained {chosen.head} head: its config names {names}. "
            f"Choose {choice}, or fine-tune it for the task first."
        )
    if chosen.has_one_label and labels != 1:
        raise ExportError(
            f"{checkpoint.name} has {labels} labels; {name} needs a model with one, whose logit is the score. "
            f"Choose {choice}."
        )
    return chosen
