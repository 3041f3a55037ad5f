"""The table of families: the state-dict names of each part of a network, and how families differ.

The names are those that transformers writes. They have not changed since 2019, except for `LayerNorm.gamma` and
`LayerNorm.beta` in the first BERT checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from model_export.tasks import HeadKind

Activation = Literal["gelu", "gelu_tanh", "relu", "tanh"]

# Some functions have several names: gelu_fast and gelu_accurate are gelu_new, factored differently.
ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class HeadTensors:
    """The names of a head's tensors: dense, activation, output, norm if there is one.

    `activation` is None if it is the encoder's, `dense` if the output reads the hidden states directly. A head with a norm
    has an output for each token of the vocabulary.
    """

    dense: str | None
    activation: Activation | None
    output: str
    norm: str | None = None
    older_output_bias: tuple[str, ...] = ()
    """Name of the output's bias in checkpoints that store it apart from the tied weight."""
    outputs: int | None = None
    """None if they are the labels of the config, or the vocabulary."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family's names. `layer` maps those of `network` to those after `layer_prefix`, in which {i} is the layer."""

    embeddings: str
    layer_prefix: str
    layer: Mapping[str, str]
    heads: Mapping[HeadKind, HeadTensors]
    intermediate_size: str = "intermediate_size"
    activation: str = "hidden_act"
    norm_epsilon: float | None = None
    """A constant in the family's code; None if the config has it."""
    embeddings_projection: str | None = None
    has_token_types: bool = True
    positions_follow_padding: bool = False
    """Positions count from the pad token's id plus one, as fairseq does."""

    @property
    def prefix(self) -> str:
        """The prefix of the encoder's names, which is missing in a model that was saved without a head."""
        return self.embeddings.removesuffix("embeddings.")

    def head(self, kind: HeadKind | None) -> HeadTensors | None:
        """Return the head of a kind; None if the family has none, or `kind` is None."""
        return self.heads.get(kind) if kind else None


_BERT_LAYER: Final = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}

_TOKEN_HEADS: Final[Mapping[HeadKind, HeadTensors]] = {
    "token-classification": HeadTensors(None, None, "classifier"),
    "question-answering": HeadTensors(None, None, "qa_outputs", outputs=2),
}

_BERT: Final = Family(
    embeddings="bert.embeddings.",
    layer_prefix="bert.encoder.layer.{i}.",
    layer=_BERT_LAYER,
    heads={
        "sequence-classification": HeadTensors("bert.pooler.dense", "tanh", "classifier"),
        "masked-token": HeadTensors(
            "cls.predictions.transform.dense",
            None,
            "cls.predictions.decoder",
            norm="cls.predictions.transform.LayerNorm",
            older_output_bias=("cls.predictions.bias",),
        ),
        "next-sentence": HeadTensors("bert.pooler.dense", "tanh", "cls.seq_relationship", outputs=2),
        **_TOKEN_HEADS,
    },
)

_ROBERTA: Final = Family(
    embeddings="roberta.embeddings.",
    layer_prefix="roberta.encoder.layer.{i}.",
    layer=_BERT_LAYER,
    heads={
        "sequence-classification": HeadTensors("classifier.dense", "tanh", "classifier.out_proj"),
        "masked-token": HeadTensors(
            "lm_head.dense",
            "gelu",
            "lm_head.decoder",
            norm="lm_head.layer_norm",
            older_output_bias=("lm_head.bias",),
        ),
        **_TOKEN_HEADS,
    },
    positions_follow_padding=True,
)

_DISTILBERT: Final = Family(
    embeddings="distilbert.embeddings.",
    layer_prefix="distilbert.transformer.layer.{i}.",
    layer={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    heads={
        "sequence-classification": HeadTensors("pre_classifier", "relu", "classifier"),
        "masked-token": HeadTensors("vocab_transform", None, "vocab_projector", norm="vocab_layer_norm"),
        **_TOKEN_HEADS,
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
        "sequence-classification": HeadTensors("classifier.dense", "gelu", "classifier.out_proj"),
        "masked-token": HeadTensors(
            "generator_predictions.dense", "gelu", "generator_lm_head", norm="generator_predictions.LayerNorm"
        ),
        **_TOKEN_HEADS,
    },
    embeddings_projection="electra.embeddings_project",
)

FAMILIES: Final[Mapping[str, Family]] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "electra": _ELECTRA,
}
