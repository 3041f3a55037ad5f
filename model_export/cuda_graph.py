"""The layers of a CUDA graph: one fused operator after each product, attention over packed tokens."""

from typing import ClassVar

import numpy as np
from onnx import TensorProto

from app.bundle import Precision
from model_export.builder import CONTRIB, GraphBuilder
from model_export.families import Activation
from model_export.network import Network


class CudaBuilder(GraphBuilder):
    """Builds graphs in fp16 or fp32. Inputs are int32: half the bytes to copy, and what PackedMultiHeadAttention takes."""

    index_type: ClassVar[int] = TensorProto.INT32

    def __init__(self, network: Network, precision: Precision) -> None:
        epsilon = network.config.norm_epsilon
        if precision == "fp16":
            # The smallest epsilons in use (1e-12) are 0 in fp16, and a constant row would divide by it.
            super().__init__(network, np.float16, max(epsilon, 1e-7))
        else:
            super().__init__(network, np.float32, epsilon)

    def _attention(self, x: str, layer: str) -> str:
        parts = [f"{layer}.{part}" for part in ("query", "key", "value")]
        biases = np.concatenate([self._network.tensors[f"{part}.bias"] for part in parts])
        # Three inputs, not one: a merged one is laid out head by head, as the weights are not.
        qkv = [self._product(x, part) for part in parts]
        inputs = [*qkv, self._constant(f"{layer}.query_key_value.bias", biases), "token_offset", "cu_seqlens"]
        heads = self._config.attention_heads
        return self._op("PackedMultiHeadAttention", inputs, f"{layer}.attention", CONTRIB, num_heads=heads)

    def _inner(self, x: str, module: str, activation: Activation) -> str:
        inputs, out = [self._product(x, module), self._weight(f"{module}.bias")], f"{module}.activated"
        if activation == "gelu":
            return self._op("BiasGelu", inputs, out, CONTRIB)
        if activation == "gelu_tanh":
            return self._op("FastGelu", inputs, out, CONTRIB)
        return self._activated(self._op("Add", inputs, f"{module}.biased"), activation)

    def _add_norm(self, x: str, inner: str, module: str, norm: str) -> str:
        return self._norm_of_sum(x, self._product(inner, module), norm, self._weight(f"{module}.bias"))

    def _norm_of_sum(self, x: str, y: str, norm: str, *biases: str) -> str:
        inputs = [x, y, self._weight(f"{norm}.weight"), self._weight(f"{norm}.bias"), *biases]
        return self._op("SkipLayerNormalization", inputs, norm, CONTRIB, epsilon=self._epsilon)

    def _mean(self, x: str) -> str:
        # A product with ones and zeros: sums of fp32, in an order that does not depend on how threads meet.
        x = self._exact_hidden(x)
        self._initializers |= {
            "zero": np.array(0, np.int64),
            "one": np.array(1, np.int64),
            "first": np.array([0], np.int64),
            "second": np.array([1], np.int64),
            "last": np.array([-1], np.int64),
            "end": np.array([np.iinfo(np.int64).max], np.int64),
        }
        tokens = self._op("Squeeze", [self._op("Shape", ["input_ids"], "tokens.shape")], "tokens")
        token = self._op(
            "Cast", [self._op("Range", ["zero", tokens, "one"], "token.int64")], "token", to=TensorProto.INT32
        )
        starts = self._op("Slice", ["cu_seqlens", "first", "last"], "starts.flat")
        starts = self._op("Unsqueeze", [starts, "second"], "starts")
        ends = self._op("Slice", ["cu_seqlens", "second", "end"], "ends.flat")
        ends = self._op("Unsqueeze", [ends, "second"], "ends")
        has_begun = self._op("GreaterOrEqual", [token, starts], "has_begun")
        has_not_ended = self._op("Less", [token, ends], "has_not_ended")
        is_own = self._op("And", [has_begun, has_not_ended], "is_own")
        total = self._op("MatMul", [self._op("Cast", [is_own], "own", to=TensorProto.FLOAT), x], "total")
        lengths = self._op("Sub", [ends, starts], "lengths.int32")
        return self._op("Div", [total, self._op("Cast", [lengths], "lengths", to=TensorProto.FLOAT)], "mean")

    def _project(self, x: str, module: str) -> str:
        return self._op("Add", [self._product(x, module), self._weight(f"{module}.bias")], f"{module}.biased")

    def _product(self, x: str, module: str) -> str:
        weight = self._constant(f"{module}.weight", self._network.tensors[f"{module}.weight"].T)
        return self._op("MatMul", [x, weight], f"{module}.product")
