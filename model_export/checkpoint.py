"""Find a checkpoint, in a folder or on the hub, and read its config and its network.

Never imports torch: transformers is used for configs, tokenizers and the hub alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from app.bundle import ProblemType, Task
from model_export.errors import ExportError
from model_export.families import ACTIVATIONS, FAMILIES, TensorSpec, tensor_specs
from model_export.network import FloatArray, Network
from model_export.weights import PICKLED, SAFETENSORS, StoredTensor, Weights

CONFIG: Final = "config.json"

_SMALL_FILES: Final = ["*.json", "*.txt", "*.model"]
_HEADS: Final[Mapping[str, Task]] = {
    "ForSequenceClassification": "classify",
    "ForMaskedLM": "fill-mask",
    "BertForPreTraining": "fill-mask",
}
_HEAD_NAMES: Final[Mapping[Task, str]] = {
    "classify": "sequence-classification",
    "fill-mask": "masked-token",
}
_MANY: Final = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine. `revision` is the commit it was downloaded at."""

    name: str
    folder: Path
    revision: str | None
    config: Any


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Return the checkpoint in the folder `name`, or download that of the hub.

    Raises:
        ExportError: there is none, or its config cannot be read or is not of a kind that can be served.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise ExportError(f"--revision is for checkpoints of the hub; {name} is a folder. Leave it out.")
        return Checkpoint(name, folder, None, read_config(folder))
    folder = _download(name, revision)
    return Checkpoint(name, folder, folder.name, read_config(folder))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # slow, and folders do not need it
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    def download(*patterns: str) -> Path:
        # Subfolders hold other formats of the same weights.
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*patterns], ignore_patterns=["*/*"]))

    try:
        folder = download(*_SMALL_FILES, SAFETENSORS, "model-*.safetensors")
        if not any(folder.glob("model*.safetensors")):
            folder = download(*_SMALL_FILES, PICKLED, "pytorch_model-*.bin")
    except HFValidationError as error:
        raise ExportError(
            f"{name} is neither a folder here nor an id of the hub (OWNER/NAME). Check --checkpoint."
        ) from error
    except Exception as error:  # of the hub's client, its transport or the disk: all mean the same here
        at = f" at revision {revision}" if revision else ""
        raise ExportError(
            f"{name} is no folder here and could not be downloaded{at} ({_first_line(error)}). "
            "Check --checkpoint and --revision, HF_TOKEN if it is private, and the network; or download it elsewhere and give its folder."
        ) from error
    return folder


def read_config(folder: Path) -> Any:
    """Return the transformers config in `folder`.

    Raises:
        ExportError: it is missing, damaged, or of a model that this exporter does not know.
    """
    path = folder / CONFIG
    try:
        document = json.loads(path.read_bytes())
        model_type = document.get("model_type")
    except OSError as error:
        raise ExportError(f"{folder} is not a checkpoint: it has no readable {CONFIG}.") from error
    except (ValueError, AttributeError) as error:
        raise ExportError(f"{path} is not a JSON object. Download the checkpoint again.") from error
    if model_type not in FAMILIES:
        raise ExportError(
            f"{path} is of model type {model_type!r}; {', '.join(FAMILIES)} can be exported. Choose a checkpoint of one of these."
        )
    from transformers import AutoConfig  # noqa: PLC0415  # takes a second

    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:
        raise ExportError(f"transformers cannot read {path} ({_first_line(error)}). Correct it.") from error
    _refuse_variations(path, config)
    return config


def _refuse_variations(path: Path, config: Any) -> None:
    """Refuse what the graph does not have: silently leaving it out would give wrong answers."""
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise ExportError(f"{path} has {positions} position embeddings; only absolute ones can be exported.")
    for flag in ("is_decoder", "add_cross_attention"):
        if getattr(config, flag, False):
            raise ExportError(f"{path} sets {flag}; only encoders can be exported.")
    if config.num_hidden_layers < 1:
        raise ExportError(f"{path} has no layers: num_hidden_layers is {config.num_hidden_layers}.")
    if config.hidden_size % config.num_attention_heads:
        raise ExportError(
            f"{path} has a hidden size of {config.hidden_size}, which {config.num_attention_heads} attention heads cannot share equally."
        )
    _activation(path, config)


def _activation(path: Path, config: Any) -> str:
    name = getattr(config, FAMILIES[config.model_type].activation)
    if name not in ACTIVATIONS:
        raise ExportError(f"{path} has the activation {name!r}; {', '.join(ACTIVATIONS)} can be exported.")
    return ACTIVATIONS[name]


def choose_task(checkpoint: Checkpoint, task: Task | Literal["auto"]) -> Task:
    """Return the task to export: the one asked for, or the one head that the config names.

    Raises:
        ExportError: the config names no head or several.
    """
    if task != "auto":
        return task
    named: list[str] = checkpoint.config.architectures or []
    tasks = sorted({head for name in named for suffix, head in _HEADS.items() if name.endswith(suffix)})
    if len(tasks) == 1:
        return tasks[0]
    described = f"names the architectures {', '.join(named)}" if named else "names no architecture"
    if tasks:
        problem = f"The config of {checkpoint.name} {described}: more than one head."
    else:
        problem = f"The config of {checkpoint.name} {described}: no sequence-classification and no masked-token head."
    raise ExportError(f"{problem} Say which to export with --task {' or --task '.join(get_args(Task))}.")


def labels_of(config: Any) -> tuple[str, ...]:
    """Return the labels in the order of the logits.

    Raises:
        ExportError: their ids are not 0, 1, 2, ...
    """
    labels: Mapping[int, str] = config.id2label
    if sorted(labels) != list(range(len(labels))) or not labels:
        raise ExportError(f"id2label in {CONFIG} has the ids {sorted(labels)}, not 0 to {len(labels) - 1}. Correct it.")
    return tuple(str(labels[i]) for i in range(len(labels)))


def problem_type_of(config: Any) -> ProblemType | None:
    """Return what kind of classification the checkpoint was trained for.

    None where there is one label and the config does not say: transformers then applies a sigmoid, and none to a
    regression.
    """
    stated: ProblemType | None = config.problem_type
    if stated is None and len(config.id2label) > 1:
        return "single_label_classification"
    return stated


def position_offset_of(config: Any) -> int:
    """Return the position id of the first token."""
    return config.pad_token_id + 1 if FAMILIES[config.model_type].positions_follow_padding else 0


def read_network(checkpoint: Checkpoint, task: Task, weights: Weights, *, tokenizer_tells_types: bool) -> Network:
    """Read the tensors that a task needs, in fp32.

    Args:
        checkpoint: The checkpoint.
        task: Which head.
        weights: Its opened weights.
        tokenizer_tells_types: Whether the tokenizer gives token types to the model; if not, all are 0.

    Raises:
        ExportError: it lacks the head or other tensors, or their shapes are not those of the config.
    """
    config = checkpoint.config
    family = FAMILIES[config.model_type]
    specs = tensor_specs(family, config, task)
    found = {part: _find(spec, weights) for part, spec in specs.items()}
    missing = {part: specs[part].names[0] for part, name in found.items() if name is None}
    _refuse_missing(checkpoint, task, missing)
    names = {part: name for part, name in found.items() if name is not None}
    for part, name in names.items():
        shape = weights.tensors[name].shape
        if shape != specs[part].shape:
            raise ExportError(
                f"{name} in {checkpoint.name} has the shape {shape}, its {CONFIG} makes it {specs[part].shape}. "
                f"The config is not that of these weights; correct it ({_settings(part)})."
            )
    read = {name: _read(name, weights.tensors[name]) for name in dict.fromkeys(names.values())}
    tensors = {part: read[name] for part, name in names.items()}
    _tie(tensors)
    return Network(
        family=config.model_type,
        task=task,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        attention_heads=config.num_attention_heads,
        vocab_size=config.vocab_size,
        norm_epsilon=family.norm_epsilon or config.layer_norm_eps,
        activation=ACTIVATIONS[getattr(config, family.activation)],
        head_activation=family.heads[task].activation or ACTIVATIONS[getattr(config, family.activation)],
        uses_token_types=family.has_token_types and config.type_vocab_size > 1 and tokenizer_tells_types,
        position_offset=position_offset_of(config),
        tensors=tensors,
    )


def _find(spec: TensorSpec, weights: Weights) -> str | None:
    return next((name for name in spec.names if name in weights.tensors), None)


def _refuse_missing(checkpoint: Checkpoint, task: Task, missing: Mapping[str, str]) -> None:
    if not missing:
        return
    names = list(missing.values())
    listed = ", ".join(names[:_MANY]) + (f" and {len(names) - _MANY} more" if len(names) > _MANY else "")
    if "head.dense.weight" in missing or "head.output.weight" in missing:
        raise ExportError(
            f"{checkpoint.name} has no trained {_HEAD_NAMES[task]} head: it lacks {listed}. "
            "Fine-tune it for the task first, or choose another --task."
        )
    raise ExportError(f"{checkpoint.name} lacks the tensors {listed}. Save or download the checkpoint again, whole.")


def _settings(part: str) -> str:
    settings = {
        "word_embeddings": "vocab_size",
        "position_embeddings": "max_position_embeddings",
        "token_type_embeddings": "type_vocab_size",
        "head.output": "id2label or vocab_size",
    }
    return next((value for start, value in settings.items() if part.startswith(start)), "its sizes")


def _read(name: str, tensor: StoredTensor) -> FloatArray:
    try:
        return tensor.read()
    except Exception as error:
        raise ExportError(f"{name} cannot be read ({_first_line(error)}). Download the checkpoint again.") from error


def _tie(tensors: dict[str, FloatArray]) -> None:
    """Make one tensor of a decoder that equals the word embeddings: files of both are common, and twice the size."""
    decoder, words = tensors["head.output.weight"], tensors["word_embeddings.weight"]
    if decoder is not words and decoder.shape == words.shape and (decoder == words).all():
        tensors["head.output.weight"] = words


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
