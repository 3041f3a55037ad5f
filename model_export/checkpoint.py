"""Find a checkpoint, in a folder or on the hub, and choose which of its heads to export."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from app.bundle import Task
from model_export.config import Config, read_config
from model_export.errors import ExportError, one_line
from model_export.sentence_transformers import MODULES_FILE, POOLING_FILES
from model_export.weights import PICKLED, SAFETENSORS

_SMALL_FILES: Final = ("*.json", "*.txt", "*.model")
_TASKS: Final[Mapping[str, Task]] = {
    "ForSequenceClassification": "classify",
    "ForMaskedLM": "fill-mask",
    "BertForPreTraining": "fill-mask",
    "ForNextSentencePrediction": "next-sentence",
    "ForTokenClassification": "entities",
    "ForQuestionAnswering": "answer",
    "BertModel": "embed",
    "RobertaModel": "embed",
    "CamembertModel": "embed",
    "ElectraModel": "embed",
}
"""By the suffix of an architecture's name."""


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
    if folder.is_dir():
        if revision is not None:
            raise ExportError(f"--revision is for checkpoints on the hub, but {name} is a folder. Leave it out.")
        return Checkpoint(name, folder, None, read_config(folder))
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
            snapshot_download(name, revision=folder.name, allow_patterns=POOLING_FILES)
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


def choose_task(checkpoint: Checkpoint, task: Task | Literal["auto"]) -> Task:
    """Return the task to export: the requested one, or that of the only head that the config names.

    A sentence-transformers folder is for `embed`, and so is a model without a head.

    Raises:
        ExportError: the config names no head or several, or a head that only looks like the requested one.
    """
    named = checkpoint.config.architectures
    tasks = {found for name in named for suffix, found in _TASKS.items() if name.endswith(suffix)}
    if {task} | tasks == {"classify", "entities"} and task not in ("auto", *tasks):
        # Both heads are called classifier and may have the same shape.
        raise ExportError(f"{checkpoint.name} is for --task {tasks.pop()} ({', '.join(named)}). Choose that.")
    if task != "auto":
        return task
    if (checkpoint.folder / MODULES_FILE).is_file():
        return "embed"
    if len(tasks) == 1:
        return tasks.pop()
    heads = "two heads" if tasks else "no head that can be exported"
    raise ExportError(
        f"The config of {checkpoint.name} names {heads} ({', '.join(named) or 'no architecture'}). "
        f"Say which one to export: --task {' or --task '.join(get_args(Task))}."
    )
