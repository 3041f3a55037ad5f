"""What an ONNX file holds, as far as it must be known before ONNX Runtime opens it.

ONNX Runtime reads any file that a tensor names, and runs any loop, also one without an end or of 2^62 turns. Graphs of the export
read one file at most, and loop over the groups of a batch alone, in the main graph or in a branch of its Ifs: anything else is
damage. Only the fields that tell are read, out of protobuf's wire format; the weights are passed over.

Source: onnx.proto of the ONNX specification.
"""

import mmap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from app.bundle.regular_file import open_regular
from app.errors import BundleError

_DEEPEST: Final = 16
_OF_MAIN_GRAPH: Final = 2
"""The depth of the main graph's inputs and nodes."""
_OF_BRANCH: Final = _OF_MAIN_GRAPH + 3
"""The depth of the nodes in the graphs of a main graph's node: in its attribute, in that attribute's graph."""
_CONTROL_FLOW: Final = frozenset({b"Loop", b"Scan", b"If", b"SequenceMap"})
_GROUPS: Final = b"groups"
_GROUP_SHAPE: Final = b"group_shape"
# What is read of each message, by the field's number: other messages, and bytes.
_FIELDS: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "value", 15: "sparse"},
    "function": {},
    "node": {1: "input", 2: "output", 4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {8: "name", 13: "external"},
    "value": {1: "name"},
    "external": {1: "key", 2: "value of key"},
}
Range = tuple[int, int]


class _NotOnnx(Exception):
    """The bytes are not those of the message."""


def check_contents(path: Path, external_data: str | None) -> None:
    """Pass if a graph reads no file but its external data, and has no control flow but loops over groups, and branches.

    Args:
        path: The graph.
        external_data: The name of the file beside it that holds its weights, None if they are in the graph.

    Raises:
        BundleError: it does, or it is no ONNX file.
    """
    with open_regular(path) as stream, _mapped(path, stream.fileno()) as content:
        try:
            loops_within = False
            for message, values, depth in _walk(content, "model", (0, len(content)), 0):
                problem = _problem(message, values, depth, (external_data or "").encode())
                is_loop = values["operator"][-1:] == [b"Loop"]
                if is_loop and depth == _OF_MAIN_GRAPH and loops_within:
                    problem = "has a Loop within a Loop that no export writes"  # their turns are multiplied
                if problem is not None:
                    raise BundleError(f"{path} {problem}. Export the model again.")
                # A node is read after those within it.
                loops_within = depth != _OF_MAIN_GRAPH and (loops_within or is_loop)
        except _NotOnnx as error:
            raise BundleError(
                f"{path} cannot be loaded by ONNX Runtime, as it is not an ONNX file: {error}. Export the model again."
            ) from error


def _problem(message: str, values: Mapping[str, Sequence[bytes]], depth: int, external_data: bytes) -> str | None:
    """Return what no export writes, None if this message may be of one."""
    if message == "external":
        other = values["key"][-1:] == [b"location"] and values["value of key"][-1:] != [external_data]
        return "reads weights from a file that its manifest does not list" if other else None
    if message == "function":
        return "has a function that no export writes, and that may never end"
    [operator] = values["operator"][-1:] or [b""]
    inputs, is_main = values["input"], depth == _OF_MAIN_GRAPH
    # So often, and no condition.
    loops_over_groups = operator == b"Loop" and inputs[:2] == [_GROUPS, b""] and depth in {_OF_MAIN_GRAPH, _OF_BRANCH}
    branches = operator == b"If" and is_main
    if operator in _CONTROL_FLOW and not (loops_over_groups or branches):
        return f"has a {operator.decode()} that no export writes, and that may never end"
    counts_groups = operator == b"Shape" and inputs == [_GROUP_SHAPE] and is_main
    defined = [*values["output"], *values["name"]]
    if (_GROUPS in defined and not counts_groups) or (
        _GROUP_SHAPE in defined and (message, is_main) != ("value", True)
    ):
        return "has a Loop that does not count the groups of a batch, and that may never end"
    return None


def _mapped(path: Path, descriptor: int) -> mmap.mmap:
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # of no bytes
        raise BundleError(
            f"{path} cannot be loaded by ONNX Runtime, as it is empty. Export the model again."
        ) from error


def _walk(
    content: mmap.mmap, message: str, place: Range, depth: int
) -> Iterator[tuple[str, Mapping[str, Sequence[bytes]], int]]:
    """Yield each message that is read, with its bytes by field and how deep it is, after those within it."""
    if depth > _DEEPEST:
        raise _NotOnnx("its messages are nested too deep")
    values: dict[str, list[bytes]] = defaultdict(list)
    for number, field in _fields(content, place):
        inner = _FIELDS[message].get(number)
        if inner is None:
            continue
        if inner in _FIELDS:
            yield from _walk(content, inner, field, depth + 1)
        else:
            values[inner].append(content[slice(*field)])
    yield message, values, depth


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
