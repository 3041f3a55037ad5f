"""A graph on disk: streamed into one message, or with its weights beside it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from app.bundle.manifest import Precision, Target
from model_export.graph.build import build_graph
from model_export.graph.onnx_file import ALIGNMENT_BYTES, write_onnx
from tests.model_export.support import CHECKPOINTS, network_of, sequences_for, task_of, written

NAME = "bert-fill-mask"


def test_streamed_message_holds_every_weight_once(tmp_path: Path) -> None:
    graph = build_graph(network_of(CHECKPOINTS / NAME, "fill-mask"), target="cpu", precision="fp32")
    path = tmp_path / "graph.onnx"
    assert write_onnx(graph, path) is None
    model = onnx.load(path)
    assert [tensor.name for tensor in model.graph.initializer] == list(graph.initializers)
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), graph.initializers[tensor.name])
    assert len(model.graph.node) == len(graph.nodes)
    assert model.graph.name == "bert"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_weights_beside_the_graph(tmp_path: Path, target: Target) -> None:
    network = network_of(CHECKPOINTS / NAME, "fill-mask")
    sequences = sequences_for(CHECKPOINTS / NAME, network, 12)
    inside = written(network, tmp_path / "inside.onnx", target).answers(sequences)
    beside = written(network, tmp_path / "beside.onnx", target, external_over_bytes=1000).answers(sequences)
    for one, other in zip(inside, beside, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "beside.onnx").stat().st_size < (tmp_path / "beside.onnx.data").stat().st_size
    tensors = onnx.load(tmp_path / "beside.onnx", load_external_data=False).graph.initializer
    outside = {tensor.name: tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL}
    assert "word_embeddings.weight" in outside
    assert "embeddings_norm.bias" not in outside
    for tensor in outside.values():
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == "beside.onnx.data"
        assert int(entries["offset"]) % ALIGNMENT_BYTES == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["bert-multi-label", "roberta-fill-mask", "distilbert-fill-mask", "electra-fill-mask"])
def test_onnx_runtime_finds_nothing_wrong_with_a_cuda_graph(tmp_path: Path, name: str, precision: Precision) -> None:
    """Types and shapes resolve; all that it lacks on a CPU is the kernel of the packed attention."""
    network = network_of(CHECKPOINTS / name, "fill-mask" if "fill-mask" in name else "classify")
    path = tmp_path / "graph.onnx"
    write_onnx(build_graph(network, target="cuda", precision=precision), path)
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED .*PackedMultiHeadAttention.*'layer\.0\.attention'"):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["bert-single-label", "bert-fill-mask", "electra-single-label"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_cuda_graphs_are_what_onnx_runtime_takes(name: str, precision: Precision, tmp_path: Path) -> None:
    """Where there is no GPU it checks inputs, attributes and types of every node, and then has no kernel for one."""
    graph = build_graph(network_of(CHECKPOINTS / name, task_of(name)), target="cuda", precision=precision)
    write_onnx(graph, tmp_path / "graph.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(NoKernel, match="PackedMultiHeadAttention"):
        onnxruntime.InferenceSession(tmp_path / "graph.onnx", options, providers=["CPUExecutionProvider"])
