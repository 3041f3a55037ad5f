"""The layers of a CUDA graph: one fused operator after each product, attention over packed tokens."""

from typing import ClassVar

import numpy as np
from onnx import TensorProto

from app.bundle.manifest import Precision
from model_export.checkpoint.families import Activation
from model_export.checkpoint.network import Network
from model_export.graph.builder import CONTRIB, GraphBuilder


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
        return self._packed_attention(query, key, self._product(x, f"{layer}.value"), f"{layer}.attention")

    def _packed_attention(self, query: str, key: str, value: str, out: str) -> str:
        inputs = [query, key, value, "", "token_offset", "cu_seqlens"]
        heads = self._config.attention_heads
        return self._op("PackedMultiHeadAttention", inputs, out, CONTRIB, num_heads=heads)

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
        nothing = self._op("Mul", [x, self._constant("zero", np.zeros((), np.float32))], "no_queries")
        means = self._packed_attention(nothing, x, x, "means")
        return self._exact_hidden(self._op("Gather", [means, "cls_index"], "mean", axis=0))

    def _project(self, x: str, module: str) -> str:
        return self._op("Add", [self._product(x, module), self._weight(f"{module}.bias")], f"{module}.biased")

    def _product(self, x: str, module: str) -> str:
        weight = self._constant(f"{module}.weight", self._network.tensors[f"{module}.weight"].T)
        return self._op("MatMul", [x, weight], f"{module}.product")
