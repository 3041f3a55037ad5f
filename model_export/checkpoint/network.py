"""A checkpoint as the graph and the reference see it: its architecture, and its tensors under one set of names.

The names are the same for every family:

    word_embeddings.weight, position_embeddings.weight, token_type_embeddings.weight
    embeddings_norm.{weight,bias}, embeddings_projection.{weight,bias}
    layer.<i>.<query|key|value|attention_output|attention_norm|intermediate|output|output_norm>.{weight,bias}
    head.dense.{weight,bias}, head.norm.{weight,bias}, head.output.{weight,bias}
    dense.<i>.{weight,bias}, after the pooling

Weights of dense layers are [outputs, inputs], as in the state dict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from app.bundle.manifest import Pooling
from app.bundle.sequences import FloatArray
from model_export.checkpoint.config import Config
from model_export.checkpoint.families import Activation
from model_export.tasks import TaskSpec


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A dense layer after the pooling: the name of its tensors, and its activation, None for none."""

    name: str
    activation: Activation | None


@dataclass(frozen=True, slots=True)
class Network:
    """One encoder with one head, or with pooling and what follows it if the result is an embedding.

    `uses_token_types` is false if every token has type 0: the family has no types, the checkpoint has only one, or its
    tokenizer does not return them. A decoder that is tied to the word embeddings is the same array.
    """

    config: Config
    task: TaskSpec
    uses_token_types: bool
    tensors: Mapping[str, FloatArray]
    pooling: Pooling | None = None
    after_pooling: tuple[DenseLayer | Literal["normalize"], ...] = ()

    @property
    def head_activation(self) -> Activation:
        head = self.config.family.head(self.task.head)
        return (head and head.activation) or self.config.activation

    @property
    def is_tied(self) -> bool:
        return self.tensors["head.output.weight"] is self.tensors["word_embeddings.weight"]

    @property
    def embedding_size(self) -> int:
        """How many numbers an embedding has."""
        names = [layer.name for layer in self.after_pooling if layer != "normalize"]
        return len(self.tensors[f"{names[-1]}.bias"]) if names else self.config.hidden_size

    @property
    def parameters(self) -> int:
        """Number of weights that this task uses, each counted once."""
        return sum(tensor.size for tensor in {id(tensor): tensor for tensor in self.tensors.values()}.values())
