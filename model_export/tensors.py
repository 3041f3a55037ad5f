"""Which tensors a network needs, under which names and in which shapes, and reading them from a checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from app.bundle import Task
from model_export.config import CONFIG_FILE, Config
from model_export.errors import ExportError, one_line
from model_export.network import FloatArray, Network
from model_export.weights import StoredTensor, Weights

_HEAD_NAMES: Final[Mapping[Task, str]] = {"classify": "sequence-classification", "fill-mask": "masked-token"}
_FEW: Final = 4


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that a checkpoint must have, under the first of `names` that is there."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


def read_network(name: str, config: Config, task: Task, weights: Weights, *, tokenizer_tells_types: bool) -> Network:
    """Read the tensors that a task needs, in fp32.

    Args:
        name: The checkpoint, for messages.
        config: Its config.
        task: Which head.
        weights: Its weights.
        tokenizer_tells_types: Whether its tokenizer gives token types to the model; if not, all are 0.

    Raises:
        ExportError: it lacks the head or other tensors, or they are not of the config's sizes.
    """
    specs = tensor_specs(config, task)
    stored = {part: _find(spec, weights) for part, spec in specs.items()}
    _refuse_missing(name, task, {part: specs[part].names[0] for part, found in stored.items() if found is None})
    names = {part: found for part, found in stored.items() if found is not None}
    for part, found in names.items():
        shape = weights.tensors[found].shape
        if shape != specs[part].shape:
            raise ExportError(
                f"{found} in {name} has the shape {shape}, {CONFIG_FILE} makes it {specs[part].shape}. "
                f"Correct {_setting(part)}, or take the config that belongs to these weights."
            )
    arrays = {found: _read(found, weights.tensors[found]) for found in dict.fromkeys(names.values())}
    tensors = {part: arrays[found] for part, found in names.items()}
    decoder, words = tensors["head.output.weight"], tensors["word_embeddings.weight"]
    if decoder.shape == words.shape and (decoder == words).all():
        tensors["head.output.weight"] = words  # files of both are common, and the graph would be, too
    uses_token_types = config.token_types > 1 and tokenizer_tells_types
    return Network(config=config, task=task, uses_token_types=uses_token_types, tensors=tensors)


def tensor_specs(config: Config, task: Task) -> dict[str, TensorSpec]:
    """Return the tensors that a task needs, under the names of `network`."""
    family, hidden, width = config.family, config.hidden_size, config.embedding_size
    head = family.heads[task]
    specs: dict[str, TensorSpec] = {}

    def add(part: str, shape: tuple[int, ...], *names: str) -> None:
        specs[part] = TensorSpec(tuple(spelling for name in names for spelling in _spellings(name)), shape)

    def norm(part: str, name: str, size: int) -> None:
        add(f"{part}.weight", (size,), f"{name}.weight")
        add(f"{part}.bias", (size,), f"{name}.bias")

    def dense(part: str, name: str, outputs: int, inputs: int) -> None:
        add(f"{part}.weight", (outputs, inputs), f"{name}.weight")
        add(f"{part}.bias", (outputs,), f"{name}.bias")

    words = (f"{family.embeddings}word_embeddings.weight", f"{head.output}.weight")
    is_tied = task == "fill-mask" and config.is_tied
    # A tied matrix is stored under either name or under both; where both are there and differ, each stands for itself.
    add("word_embeddings.weight", (config.vocab_size, width), *(words if is_tied else words[:1]))
    add("position_embeddings.weight", (config.positions, width), f"{family.embeddings}position_embeddings.weight")
    if config.token_types:
        types = f"{family.embeddings}token_type_embeddings.weight"
        add("token_type_embeddings.weight", (config.token_types, width), types)
    norm("embeddings_norm", f"{family.embeddings}LayerNorm", width)
    if family.embeddings_projection and width != hidden:
        dense("embeddings_projection", family.embeddings_projection, hidden, width)

    sizes = {"intermediate": (config.intermediate_size, hidden), "output": (hidden, config.intermediate_size)}
    for i in range(config.layers):
        for part, module in family.layer.items():
            name = family.layer_prefix.format(i=i) + module
            if part.endswith("_norm"):
                norm(f"layer.{i}.{part}", name, hidden)
            else:
                dense(f"layer.{i}.{part}", name, *sizes.get(part, (hidden, hidden)))

    if head.norm is None:
        dense("head.dense", head.dense, hidden, hidden)
        dense("head.output", head.output, len(config.labels), hidden)
    else:
        dense("head.dense", head.dense, width, hidden)
        norm("head.norm", head.norm, width)
        add("head.output.weight", (config.vocab_size, width), *(reversed(words) if is_tied else words[1:]))
        add("head.output.bias", (config.vocab_size,), f"{head.output}.bias", *head.older_output_bias)
    return specs


def _spellings(name: str) -> Iterator[str]:
    yield name
    if "LayerNorm." in name:  # as TensorFlow's first BERT checkpoints were converted
        yield name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def _find(spec: TensorSpec, weights: Weights) -> str | None:
    return next((name for name in spec.names if name in weights.tensors), None)


def _refuse_missing(checkpoint: str, task: Task, missing: Mapping[str, str]) -> None:
    if not missing:
        return
    names = list(missing.values())
    listed = ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")
    if any(part.startswith("head.") for part in missing):
        raise ExportError(
            f"{checkpoint} has no trained {_HEAD_NAMES[task]} head: it lacks {listed}. "
            "Fine-tune it for the task first, or choose another --task."
        )
    raise ExportError(f"{checkpoint} lacks the tensors {listed}. Save or download the checkpoint again, whole.")


def _setting(part: str) -> str:
    """Name the settings that decide the shape of a tensor."""
    if part.startswith("word_embeddings"):
        return "vocab_size"
    if part.startswith("position_embeddings"):
        return "max_position_embeddings"
    if part.startswith("token_type_embeddings"):
        return "type_vocab_size"
    return "id2label or vocab_size" if part.startswith("head.output") else "the sizes of the layers"


def _read(name: str, tensor: StoredTensor) -> FloatArray:
    try:
        return tensor.read()
    except Exception as error:
        raise ExportError(f"{name} cannot be read ({one_line(error)}). Download the checkpoint again.") from error
