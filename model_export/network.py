"""A checkpoint as the graph and the reference see it: the numbers of the architecture and its tensors by one set of names.

The names are the same for every family:

    word_embeddings.weight, position_embeddings.weight, token_type_embeddings.weight
    embeddings_norm.{weight,bias}, embeddings_projection.{weight,bias}
    layer.<i>.<query|key|value|attention_output|attention_norm|intermediate|output|output_norm>.{weight,bias}
    head.dense.{weight,bias}, head.norm.{weight,bias}, head.output.{weight,bias}

Weights of dense layers lie as in the state dict: [outputs, inputs].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from app.bundle import Task

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

Activation = Literal["gelu", "gelu_tanh", "relu", "tanh"]


@dataclass(frozen=True, slots=True)
class Network:
    """One encoder with one head.

    `uses_token_types` is false where every token has type 0: the family has none, knows one only, or its tokenizer does not
    tell. `position_offset` is the position id of the first token.
    """

    family: str
    task: Task
    layers: int
    hidden_size: int
    attention_heads: int
    vocab_size: int
    norm_epsilon: float
    activation: Activation
    head_activation: Activation
    uses_token_types: bool
    position_offset: int
    tensors: Mapping[str, FloatArray]

    @property
    def outputs(self) -> int:
        """Labels, or the size of the vocabulary."""
        return len(self.tensors["head.output.bias"])

    @property
    def parameters(self) -> int:
        """Weights that this task uses; a decoder tied to the word embeddings counts once."""
        return sum(tensor.size for tensor in {id(tensor): tensor for tensor in self.tensors.values()}.values())
