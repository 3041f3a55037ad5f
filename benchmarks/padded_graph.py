"""Write the graph that the peers serve: the same weights on a padded batch.

It is what ONNX Runtime's transformer optimizer makes of an exported BERT: EmbedLayerNormalization, Attention with merged
query, key and value, SkipLayerNormalization and BiasGelu. Input names are those of transformers.

    python -m benchmarks.padded_graph FILE CHECKPOINT fp32|int8

int8 is what ONNX Runtime's dynamic quantization makes of it. Runs in the environment of the export.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

_CONTRIB = "com.microsoft"


def write_padded_graph(path: Path, checkpoint: Path) -> None:
    """Write the classifier in `checkpoint`, a BERT, as an ONNX graph."""
    config = json.loads((checkpoint / "config.json").read_text())
    weights = {name: tensor.astype(np.float32) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    graph = _Graph(weights, heads=config["num_attention_heads"], epsilon=config["layer_norm_eps"])
    graph.classifier(layers=config["num_hidden_layers"])
    batch, seq = "batch", "seq"
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "padded",
            [
                helper.make_tensor_value_info(name, TensorProto.INT32, [batch, seq])
                for name in ("input_ids", "token_type_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(config["id2label"])])],
            [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(_CONTRIB, 1)],
        ir_version=10,
    )
    onnx.save(model, path)


def quantize_padded_graph(path: Path, checkpoint: Path) -> None:
    """Write the classifier in `checkpoint` as an ONNX graph, with its matrix products in int8."""
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        write_padded_graph(exact, checkpoint)
        # It does not know what types the fused operators answer with.
        types = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(exact, path, per_channel=True, weight_type=QuantType.QInt8, extra_options=types)


class _Graph:
    def __init__(self, weights: dict[str, np.ndarray], *, heads: int, epsilon: float) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._weights = weights
        self._heads = heads
        self._epsilon = epsilon

    def classifier(self, layers: int) -> None:
        x = self._embeddings()
        for i in range(layers):
            x = self._layer(x, f"bert.encoder.layer.{i}")
        first = self._op("Gather", [x, self._constant("zero", np.array(0))], "first", axis=1)
        pooled = self._op("Tanh", [self._gemm(first, "bert.pooler.dense", "pooled")], "pooled.tanh")
        self._gemm(pooled, "classifier", "logits")

    def _embeddings(self) -> str:
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        tables = [self._weight(f"bert.embeddings.{name}.weight") for name in names]
        inputs = ["input_ids", "token_type_ids", *tables, *self._norm("bert.embeddings.LayerNorm")]
        outputs = ["embedded", "mask_index"]
        node = helper.make_node(
            "EmbedLayerNormalization", [*inputs, "attention_mask"], outputs, domain=_CONTRIB, epsilon=self._epsilon
        )
        self.nodes.append(node)
        return outputs[0]

    def _layer(self, x: str, layer: str) -> str:
        parts = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self._weights[f"{part}.weight"].T for part in parts], axis=1)
        bias = np.concatenate([self._weights[f"{part}.bias"] for part in parts])
        merged = [self._constant(f"{layer}.qkv.weight", weight), self._constant(f"{layer}.qkv.bias", bias)]
        attended = self._op(
            "Attention", [x, *merged, "attention_mask"], f"{layer}.attended", _CONTRIB, num_heads=self._heads
        )
        x = self._skip_norm(x, attended, f"{layer}.attention.output")
        inner = self._matmul(x, f"{layer}.intermediate.dense")
        bias_of_inner = self._weight(f"{layer}.intermediate.dense.bias")
        inner = self._op("BiasGelu", [inner, bias_of_inner], f"{layer}.activated", _CONTRIB)
        return self._skip_norm(x, inner, f"{layer}.output")

    def _skip_norm(self, x: str, inner: str, module: str) -> str:
        inputs = [self._matmul(inner, f"{module}.dense"), x, *self._norm(f"{module}.LayerNorm")]
        inputs.append(self._weight(f"{module}.dense.bias"))
        return self._op("SkipLayerNormalization", inputs, f"{module}.normed", _CONTRIB, epsilon=self._epsilon)

    def _norm(self, module: str) -> list[str]:
        return [self._weight(f"{module}.weight"), self._weight(f"{module}.bias")]

    def _matmul(self, x: str, module: str) -> str:
        weight = self._constant(f"{module}.weight", self._weights[f"{module}.weight"].T)
        return self._op("MatMul", [x, weight], f"{module}.product")

    def _gemm(self, x: str, module: str, out: str) -> str:
        inputs = [x, self._weight(f"{module}.weight"), self._weight(f"{module}.bias")]
        return self._op("Gemm", inputs, out, transB=1)

    def _op(self, kind: str, inputs: list[str], out: str, domain: str = "", **attributes: Any) -> str:  # noqa: ANN401
        self.nodes.append(helper.make_node(kind, inputs, [out], name=out, domain=domain, **attributes))
        return out

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = value
        return name


if __name__ == "__main__":
    write = {"fp32": write_padded_graph, "int8": quantize_padded_graph}[sys.argv[3]]
    write(Path(sys.argv[1]), Path(sys.argv[2]))
