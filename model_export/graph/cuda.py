"""The layers of a CUDA graph: one fused operator after each product, attention over packed tokens."""

from typing import ClassVar, Final

import numpy as np
from onnx import TensorProto

from app.bundle.manifest import Precision
from app.bundle.sequences import FloatArray
from model_export.checkpoint.families import Activation
from model_export.checkpoint.network import Network
from model_export.graph.builder import CONTRIB, GraphBuilder

HEAD_MULTIPLE: Final = 8
"""Attention's kernels take heads of multiples of this size. With others, ONNX Runtime copies the whole batch, padded to its
longest sequence, and multiplies that; so such heads get zeros here, which change no product and no sum."""


class CudaBuilder(GraphBuilder):
    """Builds graphs in fp16 or fp32. Inputs are int32: half the bytes to copy, and what PackedMultiHeadAttention takes."""

    index_type: ClassVar[int] = TensorProto.INT32

    def __init__(self, network: Network, precision: Precision) -> None:
        epsilon = network.config.norm_epsilon
        if precision == "fp16":
            # The smallest epsilons in use (1e-12) are 0 in fp16, and a constant row would be divided by zero.
            super().__init__(network, np.float16, max(epsilon, 1e-7))
        else:
            super().__init__(network, np.float32, epsilon)

    def _attention(self, x: str, layer: str) -> str:
        # A key's bias adds the same value to all scores of a query, so it cancels in the softmax.
        query, key = self._project(x, f"{layer}.query"), self._product(x, f"{layer}.key")
        # Three inputs, because a merged one is laid out head by head, unlike the weights. No biases, because with them the
        # operator copies all three inputs, into memory for a batch that is padded to its longest sequence.
        value = self._product(x, f"{layer}.value")
        return self._packed_attention(query, key, value, f"{layer}.attention", self._config.attention_heads)

    def _packed_attention(self, query: str, key: str, value: str, out: str, heads: int) -> str:
        inputs = [query, key, value, "", "token_offset", "cu_seqlens"]
        # The operator's own scale would be that of the padded heads.
        scale = {"scale": self._head_size**-0.5} if self._head_padding else {}
        return self._op("PackedMultiHeadAttention", inputs, out, CONTRIB, num_heads=heads, **scale)

    @property
    def _head_size(self) -> int:
        return self._config.hidden_size // self._config.attention_heads

    @property
    def _head_padding(self) -> int:
        return -self._head_size % HEAD_MULTIPLE

    def _with_padded_heads(self, module: str, tensor: FloatArray) -> FloatArray:
        """Return a weight or bias of a dense layer with zeros behind each head, if it makes or takes heads."""
        part, heads = module.rpartition(".")[2], self._config.attention_heads
        if not self._head_padding or part not in ("query", "key", "value", "attention_output"):
            return tensor
        axis = 1 if part == "attention_output" else 0
        shape = (*tensor.shape[:axis], heads, self._head_size, *tensor.shape[axis + 1 :])
        widths = [(0, self._head_padding if i == axis + 1 else 0) for i in range(len(shape))]
        padded = np.pad(tensor.reshape(shape), widths)
        return padded.reshape(*tensor.shape[:axis], -1, *tensor.shape[axis + 1 :])

    def _inner(self, x: str, module: str, activation: Activation) -> str:
        inputs, out = [self._product(x, module), self._weight(f"{module}.bias")], f"{module}.activated"
        if activation == "gelu":
            return self._op("BiasGelu", inputs, out, CONTRIB)
        if activation == "gelu_tanh":
            return self._op("FastGelu", inputs, out, CONTRIB)
        return self._activated(self._op("Add", inputs, f"{module}.biased"), activation)

    def _add_norm(self, x: str, inner: str, module: str, norm: str) -> str:
        return self._norm_of_sum(x, self._product(inner, module), norm, self._bias(module))

    def _norm_of_sum(self, x: str, y: str, norm: str, *biases: str) -> str:
        inputs = [x, y, self._weight(f"{norm}.weight"), self._weight(f"{norm}.bias"), *biases]
        return self._op("SkipLayerNormalization", inputs, norm, CONTRIB, epsilon=self._epsilon)

    def _mean(self, x: str) -> str:
        # Attention with all queries 0 gives each token the mean of its sequence, summed in fp32. It needs no padding and
        # memory in proportion to the tokens, and the layers use the same operator.
        size, heads = self._config.hidden_size, self._config.attention_heads
        surplus = -size % HEAD_MULTIPLE
        if self._head_padding:
            heads = (size + surplus) // HEAD_MULTIPLE
        if surplus:
            x = self._op(
                "MatMul", [x, self._constant("widening", np.eye(size, size + surplus, dtype=np.float32))], "wide"
            )
        nothing = self._op("Mul", [x, self._constant("zero", np.zeros((), np.float32))], "no_queries")
        means = self._packed_attention(nothing, x, x, "means", heads)
        mean = self._exact_hidden(self._op("Gather", [means, "cls_index"], "mean", axis=0))
        if surplus:
            self._initializers["narrowing"] = np.eye(size + surplus, size, dtype=np.float32)
            return self._op("MatMul", [mean, "narrowing"], "narrow_mean")
        return mean

    def _project(self, x: str, module: str) -> str:
        bias = self._with_padded_heads(module, self._network.tensors[f"{module}.bias"])
        return self._op("Add", [self._product(x, module), self._constant(f"{module}.bias", bias)], f"{module}.biased")

    def _product(self, x: str, module: str) -> str:
        weight = self._with_padded_heads(module, self._network.tensors[f"{module}.weight"])
        return self._op("MatMul", [x, self._constant(f"{module}.weight", weight.T)], f"{module}.product")
