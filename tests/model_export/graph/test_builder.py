"""What a graph declares and which operators it is made of."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from app.bundle.manifest import Precision, Target
from model_export.check.reference import reference_answers
from model_export.check.tolerances import largest_difference
from model_export.graph.build import build_graph
from model_export.graph.builder import Graph
from tests.model_export.support import CHECKPOINTS, narrowed, network_of, sequences_for, task_of, written

CPU = {"group_start", "group_end", "group_shape"}
CUDA = {"token_offset", "cu_seqlens"}


def graph_of(name: str, target: Target = "cpu", precision: Precision = "fp32", task: str | None = None) -> Graph:
    return build_graph(network_of(CHECKPOINTS / name, task or task_of(name)), target=target, precision=precision)


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("bert-single-label", "cpu", {"token_type_ids", "cls_index"} | CPU),
        ("bert-single-label", "cuda", {"token_type_ids", "cls_index"} | CUDA),
        ("bert-fill-mask", "cpu", {"token_type_ids", "mask_index", "k"} | CPU),
        ("roberta-single-label", "cpu", {"cls_index"} | CPU),
        ("xlm-roberta-fill-mask", "cuda", {"mask_index", "k"} | CUDA),
        ("distilbert-two-labels", "cpu", {"cls_index"} | CPU),
        ("electra-fill-mask", "cpu", {"token_type_ids", "mask_index", "k"} | CPU),
        ("bert-next-sentence", "cpu", {"token_type_ids", "cls_index"} | CPU),
        ("roberta-entities", "cpu", CPU),
        ("bert-answer", "cuda", {"token_type_ids"} | CUDA),
        ("bert-embed", "cpu", {"token_type_ids", "cls_index"} | CPU),
        ("bert-embed", "cuda", {"token_type_ids", "cls_index"} | CUDA),
        ("distilbert-embed-cls", "cuda", {"cls_index"} | CUDA),
    ],
)
def test_inputs_are_those_in_use(name: str, target: Target, expected: set[str]) -> None:
    assert {node.name for node in graph_of(name, target).inputs} == {"input_ids", "position_ids"} | expected


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_outputs_are_fp32_in_every_precision(precision: Precision) -> None:
    names = ("bert-single-label", "bert-fill-mask", "bert-entities", "bert-embed", "distilbert-embed-cls")
    graphs = [graph_of(name, "cuda", precision) for name in names]
    types = {node.name: node.type.tensor_type.elem_type for graph in graphs for node in graph.outputs}
    assert types == {
        "logits": TensorProto.FLOAT,
        "top_scores": TensorProto.FLOAT,
        "top_tokens": TensorProto.INT64,
        "scores": TensorProto.FLOAT,
        "token_logits": TensorProto.FLOAT,
        "embeddings": TensorProto.FLOAT,
    }


def test_encoder_is_fp16_and_head_is_fp32() -> None:
    types = {name: value.dtype for name, value in graph_of("bert-fill-mask", "cuda", "fp16").initializers.items()}
    wide = {name for name, dtype in types.items() if dtype == np.float32}
    assert wide == {
        "head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias", "head.output.bias"
    }  # fmt: skip


def test_epsilon_is_not_zero_in_fp16() -> None:
    graph = graph_of("bert-single-label", "cuda", "fp16")
    epsilons = {
        helper.get_attribute_value(attribute)
        for node in graph.nodes
        for attribute in node.attribute
        if attribute.name == "epsilon"
    }
    assert all(np.float16(epsilon) > 0 for epsilon in epsilons)


def test_tied_decoder_is_stored_once() -> None:
    graph = graph_of("bert-fill-mask")
    assert "head.output.weight" not in graph.initializers
    assert [node.op_type for node in graph.nodes if "word_embeddings.weight" in node.input] == ["Gather", "Gemm"]


def test_cuda_layer_is_made_of_fused_operators() -> None:
    kinds = Counter(node.op_type for node in graph_of("bert-fill-mask", "cuda").nodes)
    assert kinds["MatMul"] == 2 * 6
    assert kinds["PackedMultiHeadAttention"] == 2
    assert kinds["BiasGelu"] == 2
    assert kinds["SkipLayerNormalization"] == 1 + 2 * 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_attention_on_cuda_copies_nothing(precision: Precision) -> None:
    """Biases would have it copy queries, keys and values into memory for the padded batch."""
    nodes = graph_of("bert-fill-mask", "cuda", precision).nodes
    for node in nodes:
        if node.op_type == "PackedMultiHeadAttention":
            assert list(node.input[3:]) == ["", "token_offset", "cu_seqlens"]


ODD_HEADS = [(32, 16), (30, 3), (26, 1)]
"""Hidden sizes and heads: heads of 2, 10 and 26."""


@pytest.mark.parametrize("name", ["bert-entities", "bert-embed"])
@pytest.mark.parametrize(("hidden", "heads"), ODD_HEADS)
def test_heads_on_cuda_are_padded_to_what_its_kernels_take_and_answers_stay(
    name: str, hidden: int, heads: int, tmp_path: Path
) -> None:
    """Of other heads, attention would copy the whole batch, padded to its longest sequence."""
    folder = narrowed(name, tmp_path / name, hidden=hidden, heads=heads)
    network = network_of(folder, task_of(name))
    graph = build_graph(network, target="cuda", precision="fp32")
    made_by = {node.output[0]: node for node in graph.nodes}
    widths = []
    for node in graph.nodes:
        if node.op_type == "PackedMultiHeadAttention":
            product = made_by[node.input[1]]
            widths.append(graph.initializers[product.input[1]].shape[1] if product.op_type == "MatMul" else hidden)
            assert widths[-1] % (8 * helper.get_node_attr_value(node, "num_heads")) == 0
    assert len(widths) == 2 + (name == "bert-embed")
    sequences = sequences_for(folder, network, 30)
    answers = written(network, tmp_path / "graph.onnx", "cuda").answers(sequences)
    # Rounding was at most 1.9e-6 when this was written.
    assert largest_difference(answers, reference_answers(network, sequences)) < 1e-5


def test_cpu_layer_has_six_products_and_attends_to_the_whole_batch_or_group_by_group() -> None:
    nodes = graph_of("bert-fill-mask").nodes
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["Gemm"] == 2 * 6 + 2
    assert kinds["Gelu"] == 2 + 1
    assert kinds["LayerNormalization"] == 1 + 2 * 2 + 1
    branches = [
        [helper.get_node_attr_value(node, f"{name}_branch").node for name in ("then", "else")]
        for node in nodes
        if node.op_type == "If"
    ]
    assert len(branches) == 2
    for whole, groups in branches:
        [body] = [helper.get_node_attr_value(node, "body").node for node in groups if node.op_type == "Loop"]
        assert [sum(node.op_type == "MultiHeadAttention" for node in nodes) for nodes in (whole, body)] == [1, 1]
        assert not {node.op_type for node in whole} & {"Slice", "SequenceInsert", "ConcatFromSequence"}


@pytest.mark.parametrize("name", ["bert-single-label", "distilbert-embed-cls"])
def test_last_layer_computes_only_the_tokens_that_are_answered(name: str) -> None:
    """After the last attention the other tokens are not needed."""
    nodes = graph_of(name).nodes
    picked = [node.name for node in nodes if "cls_index" in node.input]
    assert picked == ["layer.1.answered_attention", "layer.1.answered"]
