"""The layers of a CPU graph: without padding, in the operators for which ONNX Runtime has the fastest CPU kernels.

These were measured (docs/performance.md); the optimizer would choose others.
"""

from typing import Final

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from model_export.checkpoint.families import Activation
from model_export.checkpoint.network import Network
from model_export.graph.builder import CONTRIB, GraphBuilder

ONE_GROUP: Final = "is_one_group"


class CpuBuilder(GraphBuilder):
    """Builds graphs in fp32."""

    def __init__(self, network: Network, *, shows_norms: bool = False) -> None:
        """Args: shows_norms: whether normalized activations are outputs of the graph, by name."""
        super().__init__(network, np.float32, network.config.norm_epsilon)
        self._shows_norms = shows_norms

    def _attention(self, x: str, layer: str) -> str:
        # A key's bias adds the same value to all scores of a query, so it cancels in the softmax.
        query, key = self._dense(x, f"{layer}.query"), self._product(x, f"{layer}.key")
        return self._attend(query, key, self._product(x, f"{layer}.value"), layer)

    def _attend(self, query: str, key: str, value: str, layer: str) -> str:
        """Attend within each group of sequences of equal length: no padding, no mask, one kernel call per group.

        The operator's kernel without a mask is also faster, and computes each sequence and head separately.
        """
        body, out = f"{layer}.group", f"{layer}.attention"
        parts = {f"{body}.query": query, f"{body}.key": key, f"{body}.value": value}
        attention = helper.make_node("MultiHeadAttention", [*parts], [f"{body}.attended"], domain=CONTRIB)
        attention.attribute.append(helper.make_attribute("num_heads", self._config.attention_heads))
        rows = helper.make_node("Reshape", [f"{body}.attended", self._row_shape()], [f"{body}.rows"])
        return self._by_group(parts, [attention, rows], body, out)

    def _mean(self, x: str) -> str:
        # A product with a row of 1/length: ReduceMean sums in another order if a group is a single sequence.
        body = "mean.group"
        self._initializers |= {"mean.second": np.array([1], np.int64), "mean.third": np.array([2], np.int64)}
        node = helper.make_node
        nodes = [
            node("Slice", [f"{body}.shape", "mean.second", "mean.third"], [f"{body}.length"]),
            node("Cast", [f"{body}.length"], [f"{body}.tokens"], to=TensorProto.FLOAT),
            node("Reciprocal", [f"{body}.tokens"], [f"{body}.share"]),
            node("Expand", [f"{body}.share", f"{body}.length"], [f"{body}.shares"]),
            node("MatMul", [f"{body}.shares", f"{body}.hidden"], [f"{body}.rows"]),
        ]
        means = self._by_group({f"{body}.hidden": x}, nodes, body, "means")
        # They are in the order of the packed sequences. Sorting cls_index gives the requested order.
        batch = self._op("Shape", ["cls_index"], "batch")
        self._node("TopK", ["cls_index", batch], ["sorted_starts", "sequences"], axis=0, largest=0)
        sequences = self._op("Unsqueeze", ["sequences", "mean.second"], "sequence_rows")
        return self._op("ScatterND", [means, sequences, means], "ordered_means")

    def _by_group(self, parts: dict[str, str], nodes: list[NodeProto], body: str, out: str) -> str:
        """Run nodes on each group of sequences of equal length, and return their rows, group after group.

        A single group is the whole batch, whose rows need no copy: a branch of its own, with the same nodes.

        Args:
            parts: The tensors that the nodes read, with a row per token. The keys are the names of a group's part, which is
                float32[sequences, length, hidden].
            nodes: Write `{body}.rows`, and may read the group's shape, three numbers, as `{body}.shape`.
            body: The name of the loop's body, and the prefix of the names in it.
            out: The result's name.
        """
        self._count_groups()
        # An If, not a Loop of one turn, whose slices and sequence take up to a twentieth of the run.
        branches = {
            "then_branch": self._whole_batch(parts, nodes, body),
            "else_branch": self._loop_over_groups(parts, nodes, body),
        }
        self._node("If", [ONE_GROUP], [out], **branches)
        return out

    def _whole_batch(self, parts: dict[str, str], nodes: list[NodeProto], body: str) -> GraphProto:
        node = helper.make_node
        before = [node("Gather", ["group_shape", "first_group"], [f"{body}.shape"], axis=0)]
        before += [node("Reshape", [packed, f"{body}.shape"], [part]) for part, packed in parts.items()]
        rows = helper.make_tensor_value_info(f"{body}.rows", TensorProto.FLOAT, None)
        return helper.make_graph([*before, *nodes], f"{body}.whole_batch", [], [rows])

    def _loop_over_groups(self, parts: dict[str, str], nodes: list[NodeProto], body: str) -> GraphProto:
        node, value_info = helper.make_node, helper.make_tensor_value_info
        before = [
            node("Gather", [f"group_{field}", f"{body}.index"], [f"{body}.{field}"], axis=0)
            for field in ("start", "end", "shape")
        ]
        for part, packed in parts.items():
            before += [
                node("Slice", [packed, f"{body}.start", f"{body}.end"], [f"{part}.rows"]),
                node("Reshape", [f"{part}.rows", f"{body}.shape"], [part]),
            ]
        after = [
            node("SequenceInsert", [f"{body}.before", f"{body}.rows"], [f"{body}.after"]),
            node("Identity", [f"{body}.goes_on"], [f"{body}.still_goes_on"]),
        ]
        graph = helper.make_graph(
            [*before, *nodes, *after],
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
        loop = [
            node("SequenceEmpty", [], [f"{body}s.none"], dtype=TensorProto.FLOAT),
            node("Loop", ["groups", "", f"{body}s.none"], [f"{body}s.parts"], body=graph),
            node("ConcatFromSequence", [f"{body}s.parts"], [f"{body}s.rows"], axis=0),
        ]
        return helper.make_graph(loop, f"{body}s", [], [value_info(f"{body}s.rows", TensorProto.FLOAT, None)])

    def _count_groups(self) -> None:
        if ONE_GROUP not in (node.name for node in self._nodes):
            self._initializers |= {"one_group": np.array([1], np.int64), "first_group": np.array(0, np.int64)}
            self._op("Shape", ["group_shape"], "groups", end=1)
            self._op("Equal", ["groups", "one_group"], ONE_GROUP)

    def _inner(self, x: str, module: str, activation: Activation) -> str:
        # A Gelu after a product with bias takes half the time of BiasGelu.
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

    # --- products: the only nodes that differ in another precision

    def _dense(self, x: str, module: str) -> str:
        """Return the product with a dense layer's weights plus its bias."""
        return self._op("Gemm", [x, self._weight(f"{module}.weight"), self._bias(module)], module, transB=1)

    def _product(self, x: str, module: str) -> str:
        """Return the product alone."""
        return self._op("Gemm", [x, self._weight(f"{module}.weight")], module, transB=1)

    def _row_shape(self) -> str:
        self._initializers["row_shape"] = np.array([-1, self._config.hidden_size], np.int64)
        return "row_shape"
