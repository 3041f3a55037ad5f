"""Serialize a graph: weights inside the file, or beside it where they are too large for a protobuf message."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from model_export.graph import CONTRIB, OPSET, Graph

IR_VERSION: Final = 10
EXTERNAL_OVER_BYTES: Final = 1 << 30
"""A message may have 2 GiB; half of it leaves room for what reads the graph and writes it again."""
ALIGNMENT_BYTES: Final = 4096
"""A page, so that ONNX Runtime can map the tensors (onnx.proto on external data)."""


def write_onnx(graph: Graph, path: Path, *, external_over_bytes: int = EXTERNAL_OVER_BYTES) -> Path | None:
    """Write a graph to `path`, and return the file of its weights if that is one of its own."""
    total_bytes = sum(value.nbytes for value in graph.initializers.values())
    if total_bytes <= external_over_bytes:
        tensors = [_embedded(name, value) for name, value in graph.initializers.items()]
        _write(graph, tensors, path)
        return None
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as stream:
        tensors = [_external(name, value, stream, data.name) for name, value in graph.initializers.items()]
    _write(graph, tensors, path)
    return data


def _write(graph: Graph, tensors: list[TensorProto], path: Path) -> None:
    model = helper.make_model(
        helper.make_graph(graph.nodes, "bert", graph.inputs, graph.outputs, tensors),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        ir_version=IR_VERSION,
        producer_name="model_export",
    )
    onnx.save(model, path)


def _described(name: str, value: npt.NDArray[Any]) -> TensorProto:
    return TensorProto(name=name, dims=value.shape, data_type=helper.np_dtype_to_tensor_dtype(value.dtype))


def _embedded(name: str, value: npt.NDArray[Any]) -> TensorProto:
    tensor = _described(name, value)
    tensor.raw_data = value.tobytes()
    return tensor


def _external(name: str, value: npt.NDArray[Any], stream: Any, location: str) -> TensorProto:
    tensor = _described(name, value)
    stream.write(b"\0" * (-stream.tell() % ALIGNMENT_BYTES))
    entries = {"location": location, "offset": stream.tell(), "length": value.nbytes}
    stream.write(np.ascontiguousarray(value).data)
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in entries.items():
        tensor.external_data.add(key=key, value=str(entry))
    return tensor
