"""The layers of a CPU graph: no padding anywhere, and the operators that ONNX Runtime's CPU kernels are fastest in.

Which those are was measured (docs/performance.md), and is not what the optimizer would choose.
"""

from typing import Final

import numpy as np
from onnx import TensorProto, helper

from model_export.builder import CONTRIB, GraphBuilder
from model_export.families import Activation
from model_export.network import Network

EMPTY: Final = "no_groups"


class CpuBuilder(GraphBuilder):
    """Builds graphs in fp32."""

    def __init__(self, network: Network, *, shows_norms: bool = False) -> None:
        """Args: shows_norms: whether normalized activations are outputs of the graph, under their names."""
        super().__init__(network, np.float32, network.config.norm_epsilon)
        self._shows_norms = shows_norms

    def _attention(self, x: str, layer: str) -> str:
        # A key's bias adds the same to all scores of a query, and the softmax takes it away again.
        query, key = self._dense(x, f"{layer}.query"), self._product(x, f"{layer}.key")
        return self._attend(query, key, self._product(x, f"{layer}.value"), layer)

    def _attend(self, query: str, key: str, value: str, layer: str) -> str:
        """Attend within each group of sequences of one length: nothing is padded or masked, at one kernel call a group.

        The operator's kernel without a mask also is the faster one, and works on each sequence and head by itself.
        """
        body, out = f"{layer}.group", f"{layer}.attention"
        node, value_info = helper.make_node, helper.make_tensor_value_info
        nodes = [
            node("Gather", [f"group_{field}", f"{body}.index"], [f"{body}.{field}"], axis=0)
            for field in ("start", "end", "shape")
        ]
        parts = {"query": query, "key": key, "value": value}
        for part, packed in parts.items():
            nodes += [
                node("Slice", [packed, f"{body}.start", f"{body}.end"], [f"{body}.{part}.rows"]),
                node("Reshape", [f"{body}.{part}.rows", f"{body}.shape"], [f"{body}.{part}"]),
            ]
        attention = node(
            "MultiHeadAttention", [f"{body}.{part}" for part in parts], [f"{body}.attended"], domain=CONTRIB
        )
        attention.attribute.append(helper.make_attribute("num_heads", self._config.attention_heads))
        nodes += [
            attention,
            node("Reshape", [f"{body}.attended", self._row_shape()], [f"{body}.rows"]),
            node("SequenceInsert", [f"{body}.before", f"{body}.rows"], [f"{body}.after"]),
            node("Identity", [f"{body}.goes_on"], [f"{body}.still_goes_on"]),
        ]
        graph = helper.make_graph(
            nodes,
            body,
            [
                value_info(f"{body}.index", TensorProto.INT64, []),
                value_info(f"{body}.goes_on", TensorProto.BOOL, []),
                helper.make_tensor_sequence_value_info(f"{body}.before", TensorProto.FLOAT, None),
            ],
            [
                value_info(f"{body}.still_goes_on", TensorProto.BOOL, []),
                helper.make_tensor_sequence_value_info(f"{body}.after", TensorProto.FLOAT, None),
            ],
        )
        groups, empty = self._groups()
        self._node("Loop", [groups, "", empty], [f"{out}.groups"], body=graph)
        return self._op("ConcatFromSequence", [f"{out}.groups"], out, axis=0)

    def _groups(self) -> tuple[str, str]:
        """Return the number of groups, and the sequence that what they attend to is put into."""
        if EMPTY not in (node.name for node in self._nodes):
            self._op("Shape", ["group_shape"], "groups", end=1)
            self._op("SequenceEmpty", [], EMPTY, dtype=TensorProto.FLOAT)
        return "groups", EMPTY

    def _inner(self, x: str, module: str, activation: Activation) -> str:
        # Gelu after a biased product takes half the time of BiasGelu.
        return self._activated(self._dense(x, module), activation)

    def _add_norm(self, x: str, inner: str, module: str, norm: str) -> str:
        return self._norm_of_sum(x, self._dense(inner, module), norm)

    def _norm_of_sum(self, x: str, y: str, norm: str) -> str:
        # An Add would be fused into SkipLayerNormalization, whose CPU kernel takes six times as long as these two.
        total = self._op("Sum", [x, y], f"{norm}.sum")
        affine = [self._weight(f"{norm}.weight"), self._weight(f"{norm}.bias")]
        if self._shows_norms:
            self._output(norm, TensorProto.FLOAT, ["rows", len(self._network.tensors[f"{norm}.weight"])])
        return self._op("LayerNormalization", [total, *affine], norm, axis=-1, epsilon=self._epsilon)

    def _project(self, x: str, module: str) -> str:
        return self._dense(x, module)

    # --- products: the only nodes that another precision writes otherwise

    def _dense(self, x: str, module: str) -> str:
        """Return the product with a dense layer's weights plus its bias."""
        return self._op("Gemm", [x, self._weight(f"{module}.weight"), self._bias(module)], module, transB=1)

    def _product(self, x: str, module: str) -> str:
        """Return the product alone."""
        return self._op("Gemm", [x, self._weight(f"{module}.weight")], module, transB=1)

    def _row_shape(self) -> str:
        self._initializers["row_shape"] = np.array([-1, self._config.hidden_size], np.int64)
        return "row_shape"
