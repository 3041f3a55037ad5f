"""Write a network as an ONNX graph in ONNX Runtime's operators, for batches without padding: what all targets share.

One builder for every family and kind of result; the operators of a layer depend on the target (`cpu`, `cuda`).
`app.bundle.graph_inputs` describes the inputs; a graph declares those it uses. Outputs are float32 in every precision:

    logits        float32[batch, labels]   labels
    token_logits  float32[tokens, labels]  token labels; of a span, start and end
    embeddings    float32[batch, size]     embedding, not normalized
    top_scores    float32[masks, k]        masked tokens: softmax over the vocabulary, best first
    top_tokens    int64[masks, k]
    scores        float32[masks, vocab]

Operators: ONNX opset 20 and the contrib operators of ONNX Runtime (docs/ContribOperators.md in its repository).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from app.bundle.sequences import FloatArray
from model_export.checkpoint.families import Activation
from model_export.checkpoint.network import Network
from model_export.errors import InaccurateVariant

CONTRIB: Final = "com.microsoft"
OPSET: Final = 20
LEAST_NORM: Final = 1e-12
"""The norm of a row of zeros, so that it is divided by something."""

Array = npt.NDArray[Any]
Attribute = int | float | str | GraphProto

INPUTS: Final[Mapping[str, tuple[str | int, ...]]] = {
    "input_ids": ("tokens",),
    "token_type_ids": ("tokens",),
    "position_ids": ("tokens",),
    "cls_index": ("batch",),
    "mask_index": ("masks",),
    "k": (1,),
    "group_start": ("groups", 1),
    "group_end": ("groups", 1),
    "group_shape": ("groups", 3),
    "token_offset": ("batch", "seq"),
    "cu_seqlens": ("batch_plus_1",),
}


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph whose initializers have not been serialized."""

    nodes: list[NodeProto]
    inputs: list[ValueInfoProto]
    outputs: list[ValueInfoProto]
    initializers: Mapping[str, Array]


class GraphBuilder(ABC):
    """Builds one graph. `dtype` and `epsilon` are those of the encoder and its normalizations."""

    index_type: ClassVar[int] = TensorProto.INT64
    """Type of every input except `k`, which must be int64 for TopK."""

    def __init__(self, network: Network, dtype: type[np.float16 | np.float32], epsilon: float) -> None:
        self._network = network
        self._config = network.config
        self._dtype = dtype
        self._epsilon = epsilon
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, Array] = {}
        self._outputs: list[ValueInfoProto] = []

    def build(self) -> Graph:
        """Return the graph.

        Raises:
            InaccurateVariant: the weights do not fit into the precision.
        """
        match self._network.task.result:
            case "labels":
                self._labels(self._encoder("cls_index"))
            case "masked-tokens":
                self._masked_tokens(self._encoder("mask_index"))
            case "token-labels" | "span":
                self._token_labels(self._encoder())
            case "embedding":
                by_first_token = self._network.pooling == "cls"
                self._embedding(self._encoder("cls_index") if by_first_token else self._mean(self._encoder()))
        used = set(_inputs(self._nodes))
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "k" else self.index_type, axes)
            for name, axes in INPUTS.items()
            if name in used
        ]
        return Graph(self._nodes, inputs, self._outputs, self._initializers)

    # --- the network

    def _encoder(self, answered: str | None = None) -> str:
        """Return the last hidden states of the tokens that the input `answered` points at, or of all tokens.

        The last layer needs only the keys and values of the other tokens.
        """
        x = self._embeddings()
        last = self._config.layers - 1
        for i in range(self._config.layers):
            layer = f"layer.{i}"
            attended = self._attention(x, layer)
            if i == last and answered:
                attended = self._op("Gather", [attended, answered], f"{layer}.answered_attention", axis=0)
                x = self._op("Gather", [x, answered], f"{layer}.answered", axis=0)
            x = self._add_norm(x, attended, f"{layer}.attention_output", f"{layer}.attention_norm")
            inner = self._inner(x, f"{layer}.intermediate", self._config.activation)
            x = self._add_norm(x, inner, f"{layer}.output", f"{layer}.output_norm")
        return x

    def _embeddings(self) -> str:
        tensors = self._network.tensors
        places = tensors["position_embeddings.weight"]
        words = self._op("Gather", [self._weight("word_embeddings.weight"), "input_ids"], "words")
        if self._network.uses_token_types:
            kinds = self._op("Gather", [self._weight("token_type_embeddings.weight"), "token_type_ids"], "types")
            words = self._op("Add", [words, kinds], "typed_words")
        elif "token_type_embeddings.weight" in tensors:
            # The only type in use is added to the positions, not to the words, as a decoder may be tied to the words.
            places = places + tensors["token_type_embeddings.weight"][0]
        position_table = self._constant("position_embeddings.weight", places)
        positions = self._op("Gather", [position_table, "position_ids"], "positions")
        x = self._norm_of_sum(words, positions, "embeddings_norm")
        return self._project(x, "embeddings_projection") if "embeddings_projection.weight" in tensors else x

    def _labels(self, hidden: str) -> None:
        x = self._head_dense(hidden)
        logits = self._head_product(x, "logits")
        self._output(logits, TensorProto.FLOAT, ["batch", self._head_outputs])

    def _token_labels(self, hidden: str) -> None:
        logits = self._head_product(self._exact_hidden(hidden), "token_logits")
        self._output(logits, TensorProto.FLOAT, ["tokens", self._head_outputs])

    def _embedding(self, pooled: str) -> None:
        x, size = pooled, self._config.hidden_size
        if self._network.after_pooling:
            x = self._op("Cast", [x], "pooled", to=TensorProto.FLOAT)
        for i, layer in enumerate(self._network.after_pooling):
            if layer == "normalize":
                x = self._unit_length(x, size, f"normalize.{i}")
            else:
                x = self._exact_dense(x, layer.name, layer.activation)
                size = len(self._network.tensors[f"{layer.name}.bias"])
        embeddings = self._op("Cast", [x], "embeddings", to=TensorProto.FLOAT)
        self._output(embeddings, TensorProto.FLOAT, ["batch", size])

    def _unit_length(self, x: str, size: int, out: str) -> str:
        """Return the rows of `x`, which are float32[batch, size], scaled to unit length."""
        squares = self._op("Mul", [x, x], f"{out}.squares")
        # A product sums each row in the same order in every batch, and gives the sum to every number of the row, so that
        # nothing is broadcast.
        self._initializers |= {
            f"{out}.ones": np.ones((size, size), np.float32),
            f"{out}.least": np.full(size, LEAST_NORM**2, np.float32),
        }
        sums = self._op("Gemm", [squares, f"{out}.ones", f"{out}.least"], f"{out}.sums")
        return self._op("Div", [x, self._op("Sqrt", [sums], f"{out}.norms")], out)

    def _masked_tokens(self, hidden: str) -> None:
        norm = [self._exact("head.norm.weight"), self._exact("head.norm.bias")]
        x = self._head_dense(hidden)
        epsilon = self._config.norm_epsilon
        x = self._op("LayerNormalization", [x, *norm], "head.normed", axis=-1, epsilon=epsilon)
        scores = self._op("Softmax", [self._head_product(x, "vocabulary_logits")], "scores", axis=-1)
        self._node("TopK", [scores, "k"], ["top_scores", "top_tokens"], axis=-1)
        self._output("top_scores", TensorProto.FLOAT, ["masks", "k"])
        self._output("top_tokens", TensorProto.INT64, ["masks", "k"])
        self._output(scores, TensorProto.FLOAT, ["masks", self._config.vocab_size])

    # Heads and what follows the pooling are fp32 in every precision: they process one row per result, and fp16 would round
    # the logits themselves.

    @property
    def _head_outputs(self) -> int:
        return len(self._network.tensors["head.output.bias"])

    def _exact_hidden(self, hidden: str) -> str:
        if self._dtype is np.float16:
            return self._op("Cast", [hidden], "head.hidden", to=TensorProto.FLOAT)
        return hidden

    def _head_dense(self, hidden: str) -> str:
        return self._exact_dense(self._exact_hidden(hidden), "head.dense", self._network.head_activation)

    def _exact_dense(self, x: str, module: str, activation: Activation | None) -> str:
        """Return a dense layer in fp32, with its activation if it has one."""
        inputs = [x, self._exact(f"{module}.weight"), self._exact(f"{module}.bias")]
        out = self._op("Gemm", inputs, module, transB=1)
        return self._activated(out, activation) if activation else out

    def _head_product(self, x: str, out: str) -> str:
        if self._dtype is np.float16 and self._network.task.result == "masked-tokens":
            # A row for each token of the vocabulary: half the file. ONNX Runtime folds the cast when it loads the graph.
            weight = self._weight("word_embeddings.weight" if self._network.is_tied else "head.output.weight")
            weight = self._op("Cast", [weight], "head.output.weight.fp32", to=TensorProto.FLOAT)
        else:
            weight = self._exact("word_embeddings.weight" if self._network.is_tied else "head.output.weight")
        return self._op("Gemm", [x, weight, self._exact("head.output.bias")], out, transB=1)

    # --- what a layer is made of

    @abstractmethod
    def _attention(self, x: str, layer: str) -> str:
        """Return what each token attends to, all heads side by side, before the output's dense layer."""

    @abstractmethod
    def _inner(self, x: str, module: str, activation: Activation) -> str:
        """Return the activation of a dense layer."""

    @abstractmethod
    def _add_norm(self, x: str, inner: str, module: str, norm: str) -> str:
        """Return the normalized sum of `x` and a dense layer of `inner`."""

    @abstractmethod
    def _norm_of_sum(self, x: str, y: str, norm: str) -> str:
        """Return the normalized sum of two tensors."""

    @abstractmethod
    def _mean(self, x: str) -> str:
        """Return the mean of each sequence's rows in fp32, in the order of `cls_index`."""

    @abstractmethod
    def _project(self, x: str, module: str) -> str:
        """Return a dense layer of the embeddings, where these are narrower than the layers."""

    def _activated(self, x: str, activation: Activation) -> str:
        out = f"{x}.activated"
        if activation in ("gelu", "gelu_tanh"):
            return self._op("Gelu", [x], out, approximate="tanh" if activation == "gelu_tanh" else "none")
        return self._op("Relu" if activation == "relu" else "Tanh", [x], out)

    # --- nodes and constants

    def _op(self, kind: str, inputs: list[str], out: str, domain: str = "", **attributes: Attribute) -> str:
        self._node(kind, inputs, [out], domain, **attributes)
        return out

    def _node(
        self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Attribute
    ) -> None:
        node = helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.append(node)

    def _output(self, name: str, kind: int, axes: list[str | int]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, kind, axes))

    def _weight(self, name: str) -> str:
        """A tensor of the checkpoint in the precision of the graph."""
        return self._constant(name, self._network.tensors[name])

    def _bias(self, module: str) -> str:
        """The bias of a dense layer in the precision of the graph; the attention output's includes that of the values."""
        tensors = self._network.tensors
        bias: FloatArray = tensors[f"{module}.bias"]
        layer, _, part = module.rpartition(".")
        if part == "attention_output":
            # Attention weights sum to 1, so the bias of the values passes through attention unchanged.
            bias = bias + tensors[f"{module}.weight"] @ tensors[f"{layer}.value.bias"]
        return self._constant(f"{module}.bias", bias)

    def _exact(self, name: str) -> str:
        """A tensor of the checkpoint in fp32."""
        self._initializers[name] = self._network.tensors[name]
        return name

    def _constant(self, name: str, value: FloatArray) -> str:
        if name not in self._initializers:
            with np.errstate(over="ignore"):
                stored = value.astype(self._dtype, copy=False)
            if stored.dtype == np.float16 and not np.isfinite(stored).all():
                raise InaccurateVariant(
                    f"{name} has weights beyond 65504, the largest number of fp16.",
                    "Leave cuda-fp16 out of --variants.",
                )
            self._initializers[name] = stored
        return name


def _inputs(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield the names that nodes read, including those in branches and the bodies of loops."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _inputs(attribute.g.node)
