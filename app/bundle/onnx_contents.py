"""What an ONNX file holds, as far as it must be known before ONNX Runtime opens it.

ONNX Runtime reads any file that a tensor names, and runs any loop, also one without an end. Graphs of the export read one file at
most, and loop over the groups of a batch alone: anything else is damage. Only the fields that tell are read, out of protobuf's
wire format; the weights are passed over.

Source: onnx.proto of the ONNX specification.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.bundle.regular_file import open_regular
from app.errors import BundleError

_DEEPEST: Final = 16
_CONTROL_FLOW: Final = frozenset({b"Loop", b"Scan", b"If", b"SequenceMap"})
_OVER_GROUPS: Final = [b"groups", b""]  # how often, and no condition
# The fields that lead from a message to tensors and nodes, by message.
_MODEL: Final = {7: "graph", 25: "function"}
_GRAPH: Final = {1: "node", 5: "tensor", 15: "sparse"}
_FUNCTION: Final = {7: "node"}
_NODE: Final = {1: "input", 4: "operator", 5: "attribute"}
_ATTRIBUTE: Final = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE: Final = {1: "tensor", 2: "tensor"}
_TENSOR: Final = {13: "external"}
_ENTRY: Final = {1: "key", 2: "value"}
_FIELDS: Final = {
    "model": _MODEL, "graph": _GRAPH, "function": _FUNCTION, "node": _NODE, "attribute": _ATTRIBUTE, "sparse": _SPARSE,
    "tensor": _TENSOR, "external": _ENTRY,
}  # fmt: skip
Range = tuple[int, int]


class _NotOnnx(Exception):
    """The bytes are not those of the message."""


def check_contents(path: Path, external_data: str | None) -> None:
    """Pass if a graph reads no file but its external data, and has no control flow.

    Args:
        path: The graph.
        external_data: The name of the file beside it that holds its weights, None if they are in the graph.

    Raises:
        BundleError: it does, or it is no ONNX file.
    """
    with open_regular(path) as stream, _mapped(path, stream.fileno()) as content:
        try:
            for kind, (begin, end) in _walk(content, "model", (0, len(content)), 0):
                value = content[begin:end]
                if kind == "operator":
                    raise BundleError(
                        f"{path} has a {value.decode()} that no export writes, and that may never end. Export the model again."
                    )
                if value != (external_data or "").encode():
                    raise BundleError(
                        f"{path} reads weights from a file that its manifest does not list. Export the model again."
                    )
        except _NotOnnx as error:
            raise BundleError(
                f"{path} cannot be loaded by ONNX Runtime, as it is not an ONNX file: {error}. Export the model again."
            ) from error


def _mapped(path: Path, descriptor: int) -> mmap.mmap:
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # of no bytes
        raise BundleError(
            f"{path} cannot be loaded by ONNX Runtime, as it is empty. Export the model again."
        ) from error


def _walk(content: mmap.mmap, kind: str, place: Range, depth: int) -> Iterator[tuple[str, Range]]:
    """Yield the places of all locations of files, and of the operators of control flow but for loops over the groups."""
    if depth > _DEEPEST:
        raise _NotOnnx("its messages are nested too deep")
    wanted = _FIELDS[kind]
    key, operator = b"", (0, 0)
    inputs = []
    for number, field in _fields(content, place):
        inner = wanted.get(number)
        if inner is None:
            continue
        if inner in _FIELDS:
            yield from _walk(content, inner, field, depth + 1)
        elif inner == "input":
            inputs.append(content[slice(*field)])
        elif inner == "operator":
            operator = field
        elif inner == "key":
            key = content[slice(*field)]
        elif key == b"location":
            yield "location", field
    name = content[slice(*operator)]
    if name in _CONTROL_FLOW and not (name == b"Loop" and inputs[:2] == _OVER_GROUPS):
        yield "operator", operator


def _fields(content: mmap.mmap, place: Range) -> Iterator[tuple[int, Range]]:
    """Yield the number and the place of each field that has bytes."""
    at, end = place
    while at < end:
        tag, at = _varint(content, at, end)
        match tag & 7:
            case 0:
                _, at = _varint(content, at, end)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                length, at = _varint(content, at, end)
                if at + length > end:
                    raise _NotOnnx("a field is longer than the file")
                yield tag >> 3, (at, at + length)
                at += length
            case _:
                raise _NotOnnx("a field is of no known kind")


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _NotOnnx("a number does not end")
