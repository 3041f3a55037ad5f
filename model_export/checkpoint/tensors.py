"""Read the tensors that a network needs: which these are, under which names and in which shapes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.bundle.sequences import FloatArray
from model_export.checkpoint.config import CONFIG_FILE, Config
from model_export.checkpoint.families import HeadTensors
from model_export.checkpoint.network import DenseLayer, Network
from model_export.checkpoint.sentence_transformers import EmbeddingSettings
from model_export.checkpoint.weights import StoredTensor, Weights
from model_export.errors import ExportError, few, one_line
from model_export.tasks import HeadKind, TaskSpec


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that a checkpoint must have, under the first of `names` that exists."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


def read_network(
    name: str,
    config: Config,
    task: TaskSpec,
    weights: Weights,
    *,
    tokenizer_tells_types: bool,
    embedding: EmbeddingSettings | None = None,
) -> Network:
    """Read the tensors that a task needs, in fp32.

    Args:
        name: The checkpoint, for messages.
        config: Its config.
        task: The task, which decides the head.
        weights: Its weights.
        tokenizer_tells_types: Whether its tokenizer gives token types to the model; if not, all are 0.
        embedding: How an embedding is made of the hidden states; None if the result is none.

    Raises:
        ExportError: the head or other tensors are missing, or their sizes are not those of the config.
    """
    head = config.family.head(task.head)
    if task.head and head is None:
        raise ExportError(
            f"{name} is of the family {config.model_type}, which has no {task.head} head. Choose another --task."
        )
    specs = tensor_specs(config, head)
    stored = {part: _find(spec, weights) for part, spec in specs.items()}
    _refuse_missing(name, task.head, {part: specs[part].names[0] for part, found in stored.items() if found is None})
    names = {part: found for part, found in stored.items() if found is not None}
    for part, found in names.items():
        shape = weights.tensors[found].shape
        if shape != specs[part].shape:
            raise ExportError(
                f"{found} in {name} has the shape {shape}, but by {CONFIG_FILE} it should be {specs[part].shape}. "
                f"Correct {_setting(part)}, or use the config that belongs to these weights."
            )
    arrays = {found: _read(found, weights.tensors[found]) for found in dict.fromkeys(names.values())}
    tensors = {part: arrays[found] for part, found in names.items()}
    # In the output's bias, -infinity forbids an answer; NaN there shows in the reference's answers.
    _refuse_damaged(name, {names[part]: tensor for part, tensor in tensors.items() if part != "head.output.bias"})
    decoder, words = tensors.get("head.output.weight"), tensors["word_embeddings.weight"]
    if decoder is not None and decoder.shape == words.shape and (decoder == words).all():
        tensors["head.output.weight"] = words  # many files hold it twice, and the graph should not
    uses_token_types = config.token_types > 1 and tokenizer_tells_types
    if embedding is None:
        return Network(config, task, uses_token_types, tensors)
    after_pooling = _read_after_pooling(name, config, embedding, tensors)
    return Network(config, task, uses_token_types, tensors, embedding.pooling, after_pooling)


def _read_after_pooling(
    name: str, config: Config, embedding: EmbeddingSettings, tensors: dict[str, FloatArray]
) -> tuple[DenseLayer | Literal["normalize"], ...]:
    """Return what follows the pooling, and add its tensors."""
    layers: list[DenseLayer | Literal["normalize"]] = []
    inputs = config.hidden_size
    for i, module in enumerate(embedding.after_pooling):
        if module == "normalize":
            layers.append(module)
            continue
        layer = DenseLayer(f"dense.{i}", module.activation)
        read = {part: _read(part, tensor) for part, tensor in module.weights.tensors.items()}
        weight = read["linear.weight"]
        bias = read.get("linear.bias", np.zeros(len(weight), np.float32))
        where = module.weights.files[0].parent
        if weight.ndim != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
            raise ExportError(
                f"{where} has a dense layer of the shape {weight.shape}, but gets {inputs} numbers from the module before "
                "it: they belong to different models. Download the checkpoint again."
            )
        _refuse_damaged(name, {f"{where.name}/{part}": tensor for part, tensor in read.items()})
        tensors |= {f"{layer.name}.weight": weight, f"{layer.name}.bias": bias}
        layers.append(layer)
        inputs = len(weight)
    return tuple(layers)


def trained_heads(config: Config, weights: Weights) -> set[HeadKind]:
    """Return the heads whose tensors are among the weights; the config may not name them."""
    return {
        kind
        for kind, head in config.family.heads.items()
        if all(_find(spec, weights) for part, spec in tensor_specs(config, head).items() if part.startswith("head."))
    }


def tensor_specs(config: Config, head: HeadTensors | None) -> dict[str, TensorSpec]:
    """Return the tensors of the encoder and of a head, under the names of `network`."""
    specs = _Specs(config.family.prefix)
    words = f"{config.family.embeddings}word_embeddings.weight"
    # A tied matrix is stored under either name or under both; if both exist and differ, they are not tied.
    tied = [f"{head.output}.weight"] if head and head.norm and config.is_tied else []
    specs.add("word_embeddings.weight", (config.vocab_size, config.embedding_size), words, *tied)
    _add_encoder(specs, config)
    if head and head.norm:
        specs.dense("head.dense", str(head.dense), config.embedding_size, config.hidden_size)
        specs.norm("head.norm", head.norm, config.embedding_size)
        names = [f"{head.output}.weight", *([words] if tied else [])]
        specs.add("head.output.weight", (config.vocab_size, config.embedding_size), *names)
        specs.add("head.output.bias", (config.vocab_size,), f"{head.output}.bias", *head.older_output_bias)
    elif head:
        if head.dense:
            specs.dense("head.dense", head.dense, config.hidden_size, config.hidden_size)
        specs.dense("head.output", head.output, head.outputs or len(config.labels), config.hidden_size)
    return specs.by_part


class _Specs:
    """Collects tensors by part of the network."""

    def __init__(self, prefix: str) -> None:
        """Args: prefix: the part of the names that is missing in a model that was saved without a head."""
        self._prefix = prefix
        self.by_part: dict[str, TensorSpec] = {}

    def add(self, part: str, shape: tuple[int, ...], *names: str) -> None:
        self.by_part[part] = TensorSpec(tuple(spelling for name in names for spelling in self._spellings(name)), shape)

    def norm(self, part: str, name: str, size: int) -> None:
        self.add(f"{part}.weight", (size,), f"{name}.weight")
        self.add(f"{part}.bias", (size,), f"{name}.bias")

    def dense(self, part: str, name: str, outputs: int, inputs: int) -> None:
        self.add(f"{part}.weight", (outputs, inputs), f"{name}.weight")
        self.add(f"{part}.bias", (outputs,), f"{name}.bias")

    def _spellings(self, name: str) -> Iterator[str]:
        for spelling in dict.fromkeys((name, name.removeprefix(self._prefix))):
            yield spelling
            if "LayerNorm." in name:  # as TensorFlow's first BERT checkpoints were converted
                yield spelling.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                    "LayerNorm.bias", "LayerNorm.beta"
                )


def _add_encoder(specs: _Specs, config: Config) -> None:
    family, hidden, width = config.family, config.hidden_size, config.embedding_size
    specs.add("position_embeddings.weight", (config.positions, width), f"{family.embeddings}position_embeddings.weight")
    if config.token_types:
        types = f"{family.embeddings}token_type_embeddings.weight"
        specs.add("token_type_embeddings.weight", (config.token_types, width), types)
    specs.norm("embeddings_norm", f"{family.embeddings}LayerNorm", width)
    if family.embeddings_projection and width != hidden:
        specs.dense("embeddings_projection", family.embeddings_projection, hidden, width)
    sizes = {"intermediate": (config.intermediate_size, hidden), "output": (hidden, config.intermediate_size)}
    for i in range(config.layers):
        for part, module in family.layer.items():
            name = family.layer_prefix.format(i=i) + module
            if part.endswith("_norm"):
                specs.norm(f"layer.{i}.{part}", name, hidden)
            else:
                specs.dense(f"layer.{i}.{part}", name, *sizes.get(part, (hidden, hidden)))


def _find(spec: TensorSpec, weights: Weights) -> str | None:
    return next((name for name in spec.names if name in weights.tensors), None)


def _refuse_missing(checkpoint: str, head: HeadKind | None, missing: Mapping[str, str]) -> None:
    if not missing:
        return
    listed = few(list(missing.values()))
    if any(part.startswith("head.") for part in missing):
        raise ExportError(
            f"{checkpoint} has no trained {head} head: it lacks {listed}. "
            "Fine-tune it for the task first, or choose another --task."
        )
    raise ExportError(f"{checkpoint} lacks the tensors {listed}. Save or download the complete checkpoint again.")


def _refuse_damaged(checkpoint: str, tensors: Mapping[str, FloatArray]) -> None:
    damaged = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if damaged:
        raise ExportError(
            f"{checkpoint} has infinity or NaN in {few(damaged)}: its weights are damaged. Train or download it again."
        )


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
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{name} cannot be read ({one_line(error)}). Download the checkpoint again.") from error
