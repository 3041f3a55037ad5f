"""Serialize a graph: with its weights in the file, or in a second file if they are too large for a protobuf message."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, TensorProto, helper

from model_export.graph.builder import CONTRIB, OPSET, Graph

IR_VERSION: Final = 10
EXTERNAL_OVER_BYTES: Final = 1 << 30
"""A message may have 2 GiB; half of it leaves room for programs that read the graph and write it again."""
ALIGNMENT_BYTES: Final = 4096
"""A page, so that ONNX Runtime can map the tensors (onnx.proto on external data). Smaller tensors stay in the message,
where shape inference needs those that are used as shapes."""


def write_onnx(graph: Graph, path: Path, *, external_over_bytes: int = EXTERNAL_OVER_BYTES) -> Path | None:
    """Write a graph to `path`, and return the file of its weights if there is a separate one.

    Protobuf merges serialized messages that follow each other into one (protobuf's encoding specification). Therefore
    each weight is written separately, and there are never two copies of the network in memory.
    """
    total_bytes = sum(value.nbytes for value in graph.initializers.values())
    data = path.with_name(f"{path.name}.data") if total_bytes > external_over_bytes else None
    with path.open("wb") as stream, data.open("wb") if data else nullcontext() as data_stream:
        stream.write(_without_weights(graph).SerializeToString())
        for name, value in graph.initializers.items():
            tensor = TensorProto(name=name, dims=value.shape, data_type=helper.np_dtype_to_tensor_dtype(value.dtype))
            if data_stream is None or value.nbytes < ALIGNMENT_BYTES:
                tensor.raw_data = value.tobytes()
            else:
                _write_beside(tensor, value, data_stream)
            stream.write(ModelProto(graph=GraphProto(initializer=[tensor])).SerializeToString())
    return data


def _without_weights(graph: Graph) -> ModelProto:
    return helper.make_model(
        helper.make_graph(graph.nodes, "bert", graph.inputs, graph.outputs),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        ir_version=IR_VERSION,
        producer_name="model_export",
    )


def _write_beside(tensor: TensorProto, value: npt.NDArray[Any], stream: BinaryIO) -> None:
    stream.write(b"\0" * (-stream.tell() % ALIGNMENT_BYTES))
    entries = {"location": Path(stream.name).name, "offset": stream.tell(), "length": value.nbytes}
    stream.write(np.ascontiguousarray(value).data)
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in entries.items():
        tensor.external_data.add(key=key, value=str(entry))
