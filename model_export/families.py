"""The table of families: which state-dict names stand for which part of the network, and where families differ.

Names as in the checkpoints that transformers writes; they have not changed since 2019, but for `LayerNorm.gamma` and
`LayerNorm.beta` of the first BERT checkpoints.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from app.bundle import Task
from model_export.network import Activation

# Formulas of one function under several names: gelu_fast and gelu_accurate are gelu_new factored otherwise.
ACTIVATIONS: Final[Mapping[str, Activation]] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_python_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_accurate": "gelu_tanh",
        "relu": "relu",
    }
)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a head's tensors are. `activation` is None where it is the encoder's own."""

    dense: str
    activation: Activation | None
    output: str
    norm: str | None = None
    output_bias: str | None = None
    """An older name of the output's bias, of checkpoints that keep it apart from the tied weight."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family's names. `layer` maps our names to those after `layer_prefix`, in which {i} is the layer."""

    embeddings: str
    layer_prefix: str
    layer: Mapping[str, str]
    heads: Mapping[Task, Head]
    intermediate_size: str = "intermediate_size"
    activation: str = "hidden_act"
    norm_epsilon: float | None = None
    """A constant of the family's code; None where the config says."""
    embeddings_projection: str | None = None
    has_token_types: bool = True
    positions_follow_padding: bool = False
    """Positions count from the pad token's id plus one, as fairseq does."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that a checkpoint must have, under the first of `names` that is there."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


_BERT_LAYER: Final = MappingProxyType(
    {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    }
)

_BERT: Final = Family(
    embeddings="bert.embeddings.",
    layer_prefix="bert.encoder.layer.{i}.",
    layer=_BERT_LAYER,
    heads={
        "classify": Head("bert.pooler.dense", "tanh", "classifier"),
        "fill-mask": Head(
            "cls.predictions.transform.dense",
            None,
            "cls.predictions.decoder",
            norm="cls.predictions.transform.LayerNorm",
            output_bias="cls.predictions.bias",
        ),
    },
)

_ROBERTA: Final = Family(
    embeddings="roberta.embeddings.",
    layer_prefix="roberta.encoder.layer.{i}.",
    layer=_BERT_LAYER,
    heads={
        "classify": Head("classifier.dense", "tanh", "classifier.out_proj"),
        "fill-mask": Head(
            "lm_head.dense", "gelu", "lm_head.decoder", norm="lm_head.layer_norm", output_bias="lm_head.bias"
        ),
    },
    positions_follow_padding=True,
)

_DISTILBERT: Final = Family(
    embeddings="distilbert.embeddings.",
    layer_prefix="distilbert.transformer.layer.{i}.",
    layer=MappingProxyType(
        {
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_output": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "intermediate": "ffn.lin1",
            "output": "ffn.lin2",
            "output_norm": "output_layer_norm",
        }
    ),
    heads={
        "classify": Head("pre_classifier", "relu", "classifier"),
        "fill-mask": Head("vocab_transform", None, "vocab_projector", norm="vocab_layer_norm"),
    },
    intermediate_size="hidden_dim",
    activation="activation",
    norm_epsilon=1e-12,
    has_token_types=False,
)

_ELECTRA: Final = Family(
    embeddings="electra.embeddings.",
    layer_prefix="electra.encoder.layer.{i}.",
    layer=_BERT_LAYER,
    heads={
        "classify": Head("classifier.dense", "gelu", "classifier.out_proj"),
        "fill-mask": Head(
            "generator_predictions.dense", "gelu", "generator_lm_head", norm="generator_predictions.LayerNorm"
        ),
    },
    embeddings_projection="electra.embeddings_project",
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "bert": _BERT,
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
        "camembert": _ROBERTA,
        "distilbert": _DISTILBERT,
        "electra": _ELECTRA,
    }
)


def tensor_specs(family: Family, config: Any, task: Task) -> dict[str, TensorSpec]:
    """Return the tensors that a task needs, under the names of `network`.

    Args:
        family: The row of the table.
        config: The checkpoint's transformers config.
        task: Which head.
    """
    specs: dict[str, TensorSpec] = {}

    def add(part: str, shape: tuple[int, ...], *names: str) -> None:
        specs[part] = TensorSpec(tuple(spelling for name in names for spelling in _spellings(name)), shape)

    def dense(part: str, name: str, outputs: int, inputs: int) -> None:
        add(f"{part}.weight", (outputs, inputs), f"{name}.weight")
        add(f"{part}.bias", (outputs,), f"{name}.bias")

    def norm(part: str, name: str, size: int) -> None:
        add(f"{part}.weight", (size,), f"{name}.weight")
        add(f"{part}.bias", (size,), f"{name}.bias")

    hidden, intermediate = config.hidden_size, getattr(config, family.intermediate_size)
    width = config.embedding_size if family.embeddings_projection else hidden
    head = family.heads[task]
    is_tied = task == "fill-mask" and getattr(config, "tie_word_embeddings", True)

    words = (f"{family.embeddings}word_embeddings.weight", f"{head.output}.weight")
    # A tied matrix is stored under either name or both; where both differ, each is used where it stands.
    add("word_embeddings.weight", (config.vocab_size, width), *(words if is_tied else words[:1]))
    places = config.max_position_embeddings
    add("position_embeddings.weight", (places, width), f"{family.embeddings}position_embeddings.weight")
    if family.has_token_types:
        kinds = config.type_vocab_size
        add("token_type_embeddings.weight", (kinds, width), f"{family.embeddings}token_type_embeddings.weight")
    norm("embeddings_norm", f"{family.embeddings}LayerNorm", width)
    if family.embeddings_projection and width != hidden:
        dense("embeddings_projection", family.embeddings_projection, hidden, width)

    sizes = {"intermediate": (intermediate, hidden), "output": (hidden, intermediate)}
    for i in range(config.num_hidden_layers):
        for part, name in family.layer.items():
            full_name = family.layer_prefix.format(i=i) + name
            if part.endswith("_norm"):
                norm(f"layer.{i}.{part}", full_name, hidden)
            else:
                dense(f"layer.{i}.{part}", full_name, *sizes.get(part, (hidden, hidden)))

    if task == "classify":
        dense("head.dense", head.dense, hidden, hidden)
        dense("head.output", head.output, config.num_labels, hidden)
    else:
        dense("head.dense", head.dense, width, hidden)
        norm("head.norm", str(head.norm), width)
        add("head.output.weight", (config.vocab_size, width), *(reversed(words) if is_tied else words[1:]))
        biases = [f"{head.output}.bias", *([head.output_bias] if head.output_bias else [])]
        add("head.output.bias", (config.vocab_size,), *biases)
    return specs


def _spellings(name: str) -> Iterator[str]:
    yield name
    if "LayerNorm." in name:
        yield name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
