"""Write a network as an ONNX graph in ONNX Runtime's fused operators, on a batch without padding.

One builder for every family, task, target and precision. `app.packing` describes the inputs; a graph declares those it
uses. Outputs are float32 in every precision:

    logits        float32[batch, labels]   classification
    top_scores    float32[masks, k]        masked tokens: shares of the softmax over the vocabulary, best first
    top_tokens    int64[masks, k]
    scores        float32[masks, vocab]

Operators: ONNX opset 20 and the contrib operators of ONNX Runtime (docs/ContribOperators.md in its repository).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from app.bundle import Precision, Target
from model_export.errors import ExportError
from model_export.families import Activation
from model_export.network import FloatArray, Network

CONTRIB: Final = "com.microsoft"
OPSET: Final = 20

Array = npt.NDArray[Any]
Attribute = int | float | str

INPUTS: Final[Mapping[str, tuple[int, tuple[str | int, ...]]]] = {
    "input_ids": (TensorProto.INT64, ("tokens",)),
    "token_type_ids": (TensorProto.INT64, ("tokens",)),
    "position_ids": (TensorProto.INT64, ("tokens",)),
    "cls_index": (TensorProto.INT64, ("batch",)),
    "mask_index": (TensorProto.INT64, ("masks",)),
    "k": (TensorProto.INT64, (1,)),
    "pad_index": (TensorProto.INT64, ("batch", "seq")),
    "key_mask": (TensorProto.INT32, ("batch", "seq")),
    "token_index": (TensorProto.INT64, ("tokens",)),
    "token_offset": (TensorProto.INT32, ("batch", "seq")),
    "cu_seqlens": (TensorProto.INT32, ("batch_plus_1",)),
}


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph whose initializers are not serialized yet."""

    nodes: list[NodeProto]
    inputs: list[ValueInfoProto]
    outputs: list[ValueInfoProto]
    initializers: Mapping[str, Array]


def build_graph(network: Network, *, target: Target, precision: Precision) -> Graph:
    """Return the graph of a network.

    Args:
        network: The weights.
        target: `cpu` looks at a padded view of the batch in the attention product; `cuda` never does.
        precision: `fp32` or `fp16`.

    Raises:
        ExportError: the weights do not fit into the precision.
    """
    return _Builder(network, target, precision).build()


class _Builder:
    def __init__(self, network: Network, target: Target, precision: Precision) -> None:
        self._network = network
        self._config = network.config
        self._target = target
        self._dtype: type[np.float16 | np.float32] = np.float16 if precision == "fp16" else np.float32
        # The smallest epsilons in use (1e-12) are 0 in fp16, and a constant row would divide by it.
        epsilon = network.config.norm_epsilon
        self._epsilon = max(epsilon, 1e-7) if precision == "fp16" else epsilon
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, Array] = {}
        self._outputs: list[ValueInfoProto] = []

    def build(self) -> Graph:
        if self._network.task == "classify":
            self._classification(self._encoder("cls_index"))
        else:
            self._masked_tokens(self._encoder("mask_index"))
        used = {name for node in self._nodes for name in node.input}
        inputs = [
            helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in INPUTS.items() if name in used
        ]
        return Graph(self._nodes, inputs, self._outputs, self._initializers)

    # --- the network

    def _encoder(self, answered: str) -> str:
        """Return the last hidden states of the tokens that the input `answered` points at.

        The last layer needs the others' keys and values, but nothing else of them.
        """
        x = self._embeddings()
        last = self._config.layers - 1
        for i in range(self._config.layers):
            layer = f"layer.{i}"
            attended = self._attention(x, layer)
            if i == last:
                attended = self._op("Gather", [attended, answered], f"{layer}.answered_attention", axis=0)
                x = self._op("Gather", [x, answered], f"{layer}.answered", axis=0)
            x = self._skip_norm(
                x,
                self._linear(attended, f"{layer}.attention_output"),
                f"{layer}.attention_norm",
                bias=f"{layer}.attention_output.bias",
            )
            inner = self._activate(
                self._linear(x, f"{layer}.intermediate"), f"{layer}.intermediate", self._config.activation
            )
            x = self._skip_norm(
                x, self._linear(inner, f"{layer}.output"), f"{layer}.output_norm", bias=f"{layer}.output.bias"
            )
        return x

    def _embeddings(self) -> str:
        tensors = self._network.tensors
        places = tensors["position_embeddings.weight"]
        words = self._op("Gather", [self._weight("word_embeddings.weight"), "input_ids"], "words")
        if self._network.uses_token_types:
            kinds = self._op("Gather", [self._weight("token_type_embeddings.weight"), "token_type_ids"], "types")
            words = self._op("Add", [words, kinds], "typed_words")
        elif "token_type_embeddings.weight" in tensors:
            # The one type in use is added to every position, not to the words: a decoder may be tied to those.
            places = places + tensors["token_type_embeddings.weight"][0]
        position_table = self._constant("position_embeddings.weight", places)
        x = self._skip_norm(words, self._op("Gather", [position_table, "position_ids"], "positions"), "embeddings_norm")
        if "embeddings_projection.weight" in tensors:
            projected = self._linear(x, "embeddings_projection")
            x = self._op("Add", [projected, self._weight("embeddings_projection.bias")], "projected_embeddings")
        return x

    def _attention(self, x: str, layer: str) -> str:
        parts = [f"{layer}.{part}" for part in ("query", "key", "value")]
        bias = self._constant(
            f"{layer}.query_key_value.bias",
            np.concatenate([self._network.tensors[f"{part}.bias"] for part in parts]),
        )
        heads, out = self._config.attention_heads, f"{layer}.attention"
        if self._target == "cuda":
            # Three inputs, not one: a merged one is laid out head by head, as the weights are not.
            qkv = [self._linear(x, part) for part in parts]
            inputs = [*qkv, bias, "token_offset", "cu_seqlens"]
            return self._op("PackedMultiHeadAttention", inputs, out, CONTRIB, num_heads=heads)
        merged = self._linear(x, *parts)
        padded = self._op("Gather", [merged, "pad_index"], f"{layer}.padded", axis=0)
        qkv = [f"{part}.padded" for part in parts]
        self._node("Split", [padded], qkv, axis=2, num_outputs=3)
        attended = self._op("MultiHeadAttention", [*qkv, bias, "key_mask"], out, CONTRIB, num_heads=heads)
        rows = self._op("Reshape", [attended, self._row_shape()], f"{out}.rows")
        return self._op("Gather", [rows, "token_index"], f"{out}.packed", axis=0)

    def _classification(self, hidden: str) -> None:
        x = self._head_dense(hidden)
        logits = self._head_product(x, "logits")
        self._output(logits, TensorProto.FLOAT, ["batch", len(self._config.labels)])

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

    # Heads are fp32 in every precision: they see one row an answer, and fp16 would round the very logits.

    def _head_dense(self, hidden: str) -> str:
        if self._dtype is np.float16:
            hidden = self._op("Cast", [hidden], "head.hidden", to=TensorProto.FLOAT)
        inputs = [hidden, self._exact("head.dense.weight"), self._exact("head.dense.bias")]
        return self._activated(self._op("Gemm", inputs, "head.dense", transB=1), self._network.head_activation)

    def _head_product(self, x: str, out: str) -> str:
        weight = self._weight("word_embeddings.weight" if self._network.is_tied else "head.output.weight")
        if self._dtype is np.float16:
            # Half the file; ONNX Runtime folds the cast when it loads the graph.
            weight = self._op("Cast", [weight], "head.output.weight.fp32", to=TensorProto.FLOAT)
        return self._op("Gemm", [x, weight, self._exact("head.output.bias")], out, transB=1)

    # --- layers

    def _linear(self, x: str, *modules: str) -> str:
        """Multiply by the weights of dense layers, side by side where there are several; the caller adds the biases.

        The one place where the encoder's products are written, for precisions that write them otherwise.
        """
        weights = [self._network.tensors[f"{module}.weight"].T for module in modules]
        weight = weights[0] if len(weights) == 1 else np.concatenate(weights, axis=1)
        name = modules[0] if len(modules) == 1 else f"{modules[0]}_key_value"
        return self._op("MatMul", [x, self._constant(f"{name}.weight", weight)], f"{name}.product")

    def _skip_norm(self, x: str, skip: str, norm: str, bias: str | None = None) -> str:
        inputs = [x, skip, self._weight(f"{norm}.weight"), self._weight(f"{norm}.bias")]
        if bias is not None:
            inputs.append(self._weight(bias))
        return self._op("SkipLayerNormalization", inputs, norm, CONTRIB, epsilon=self._epsilon)

    def _activate(self, x: str, module: str, activation: Activation) -> str:
        """Add the bias of a dense layer and apply the activation, in one operator where there is one."""
        bias, out = self._weight(f"{module}.bias"), f"{module}.activated"
        if activation == "gelu":
            return self._op("BiasGelu", [x, bias], out, CONTRIB)
        if activation == "gelu_tanh":
            return self._op("FastGelu", [x, bias], out, CONTRIB)
        return self._activated(self._op("Add", [x, bias], f"{module}.biased"), activation)

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

    def _exact(self, name: str) -> str:
        """A tensor of the checkpoint in fp32."""
        self._initializers[name] = self._network.tensors[name]
        return name

    def _constant(self, name: str, value: FloatArray) -> str:
        if name not in self._initializers:
            with np.errstate(over="ignore"):
                stored = value.astype(self._dtype, copy=False)
            if stored.dtype == np.float16 and not np.isfinite(stored).all():
                raise ExportError(
                    f"{name} has weights beyond 65504, the largest number of fp16. Leave cuda-fp16 out of --variants."
                )
            self._initializers[name] = stored
        return name

    def _row_shape(self) -> str:
        self._initializers["row_shape"] = np.array([-1, self._config.hidden_size], np.int64)
        return "row_shape"
