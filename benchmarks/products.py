"""Write a graph of matrix products, each of the result of the one before.

    python -m benchmarks.products FILE PRECISION COUNT

Runs in the environment of the export, which has `onnx`.
"""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto, helper

_TYPES: Final = {"fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}


def main(path: Path, precision: str, count: int) -> None:
    """Write the graph."""
    kind = _TYPES[precision]
    values = ["x", *(f"x{i}" for i in range(1, count)), "y"]
    nodes = [helper.make_node("MatMul", [before, "w"], [after]) for before, after in pairwise(values)]
    matrix = ["side", "side"]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info(name, kind, matrix) for name in ("x", "w")],
        [helper.make_tensor_value_info("y", kind, matrix)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
