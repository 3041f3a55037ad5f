"""Damage of a bundle that is seen in its files alone: in any bit of its manifest, and in what stands in the place of a file."""

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper

from app.bundle.files import Bundle, load_bundle
from app.bundle.onnx_contents import check_contents
from app.errors import BundleError
from tests.conftest import BundleOf
from tests.support import change_manifest

EVERY: Final = 7
"""Of the bits of a manifest, one in so many is flipped: all take some seconds."""
HUGE_BYTES: Final = 2**40


@pytest.fixture
def folder(tmp_path: Path, bundle_of: BundleOf) -> Path:
    return shutil.copytree(bundle_of("bert-single-label"), tmp_path / "sentiment")


def test_no_bit_of_a_manifest_changes_unseen(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), EVERY):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"manifest\.json"):
            load_bundle(folder)


@pytest.mark.parametrize(
    "changes",
    [{"labels": ["C", "B", "A"]}, {"max_length": 12}, {"problem_type": "regression"}, {"name": "other"}],
)
def test_a_manifest_that_was_edited_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    sealed = path.read_text()
    change_manifest(folder, **changes)
    checksum = sealed.rpartition('"checksum"')[2]
    edited = path.read_text().rpartition('"checksum"')[0]
    path.write_text(f'{edited}"checksum"{checksum}')
    with pytest.raises(BundleError, match="does not match its checksum"):
        load_bundle(folder)


@pytest.mark.parametrize("changes", [{"schema_version": 2}, {"schema_version": 99}, {"colour": "red"}])
def test_a_bundle_of_a_newer_release_says_what_to_upgrade(folder: Path, changes: dict[str, Any]) -> None:
    change_manifest(folder, **changes)
    with pytest.raises(BundleError, match=r"newer.*Upgrade the server") as refused:
        load_bundle(folder)
    assert "damaged" not in str(refused.value)


def folder_of(path: Path) -> None:
    path.mkdir()


def device_of(path: Path) -> None:
    path.symlink_to("/dev/zero")


def socket_of(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # a Unix socket's path is short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def huge_file(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(HUGE_BYTES)


@pytest.mark.parametrize("replace", [os.mkfifo, folder_of, device_of, socket_of, huge_file])
@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "golden.json", "cpu-fp32.onnx"])
def test_what_is_no_file_of_its_size_is_refused_at_once(
    folder: Path, replace: Callable[[Path], object], name: str
) -> None:
    bundle = load_bundle(folder)
    (folder / name).unlink()
    replace(folder / name)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read_all(load_bundle(folder) if name == "manifest.json" else bundle)


def read_all(bundle: Bundle) -> None:
    bundle.read_file(bundle.manifest.tokenizer)
    assert bundle.golden.cases
    bundle.verify_file(bundle.manifest.variants[0].graph)


def weights(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def within(*nodes: NodeProto, tensors: Sequence[TensorProto] = (), inputs: Sequence[str] = ()) -> GraphProto:
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in inputs]
    return helper.make_graph(list(nodes), "graph", given, [], list(tensors))


def number(name: str) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [1], [2**62])


def write(path: Path, graph: GraphProto) -> Path:
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


LOOP: Final = helper.make_node("Loop", ["", "true"], ["out"], body=within())
COUNT: Final = helper.make_node("Shape", ["group_shape"], ["groups"], end=1)
OVER_GROUPS: Final = helper.make_node("Loop", ["groups", ""], ["out"], body=within())
NOTHING: Final = helper.make_node("Identity", ["x"], ["y"])
DATA: Final = "graph.onnx.data"


def branch(*nodes: NodeProto) -> NodeProto:
    return helper.make_node("If", ["c"], ["o"], then_branch=within(), else_branch=within(*nodes))


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (within(tensors=[weights("other.data")]), "a file that its manifest does not list"),
        (within(tensors=[weights("../graph.onnx.data")]), "a file that its manifest does not list"),
        (within(helper.make_node("Constant", [], ["c"], value=weights("/etc/passwd"))), "does not list"),
        (within(helper.make_node("If", ["c"], ["o"], then_branch=within(tensors=[weights("x")]))), "does not list"),
        (within(LOOP), "has a Loop"),
        (within(helper.make_node("Loop", ["count", ""], ["out"], body=within())), "has a Loop"),
        (within(helper.make_node("Loop", ["groups", "true"], ["out"], body=within())), "has a Loop"),
        (within(helper.make_node("Loop", ["groups", ""], ["out"], body=within(LOOP))), "has a Loop"),
        (within(helper.make_node("Loop", ["groups", ""], ["out"], body=within(OVER_GROUPS))), "has a Loop"),
        (within(COUNT, OVER_GROUPS, tensors=[number("groups")]), "has a Loop that does not count the groups"),
        (within(COUNT, OVER_GROUPS, tensors=[number("group_shape")]), "has a Loop that does not count the groups"),
        (
            within(helper.make_node("Constant", [], ["groups"], value=number("")), OVER_GROUPS),
            "has a Loop that does not count",
        ),
        (within(helper.make_node("Mul", ["a", "b"], ["groups"]), OVER_GROUPS), "has a Loop that does not count"),
        (within(helper.make_node("Shape", ["weights"], ["groups"]), OVER_GROUPS), "has a Loop that does not count"),
        (
            within(helper.make_node("Size", ["x"], ["group_shape"]), COUNT, OVER_GROUPS),
            "has a Loop that does not count",
        ),
        (within(OVER_GROUPS, inputs=["groups"]), "has a Loop that does not count"),
        (within(branch(helper.make_node("Loop", ["count", ""], ["out"], body=within()))), "has a Loop"),
        (
            within(COUNT, branch(helper.make_node("Loop", ["groups", ""], ["o"], body=within(OVER_GROUPS)))),
            "has a Loop",
        ),
        (within(branch(branch(NOTHING))), "has a If"),
        (within(COUNT, helper.make_node("Loop", ["groups", ""], ["out"], body=within(branch(NOTHING)))), "has a If"),
        (within(branch(COUNT)), "has a Loop that does not count the groups"),
        (within(helper.make_node("Scan", ["x"], ["out"], body=within(), num_scan_inputs=1)), "has a Scan"),
    ],
)
def test_a_graph_that_reads_other_files_or_loops_without_an_end_is_refused(
    tmp_path: Path, graph: GraphProto, says: str
) -> None:
    path = write(tmp_path / "graph.onnx", graph)
    with pytest.raises(BundleError, match=rf"graph\.onnx.*{says}"):
        check_contents(path, DATA)


@pytest.mark.parametrize("loop", [OVER_GROUPS, branch(OVER_GROUPS)])
def test_a_graph_loops_over_the_groups_of_a_batch(tmp_path: Path, loop: NodeProto) -> None:
    check_contents(write(tmp_path / "graph.onnx", within(COUNT, loop, loop, inputs=["group_shape"])), None)


def test_a_function_is_refused(tmp_path: Path) -> None:
    model = helper.make_model(within())
    imports = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("own", "F", ["groups"], ["out"], [OVER_GROUPS], imports))
    path = tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"graph\.onnx has a function"):
        check_contents(path, None)


def test_a_file_is_found_in_fields_of_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "graph.onnx", within(tensors=[weights("other.data")]))
    key, value = b"\x0a\x08location", b"\x12\x0aother.data"
    content = path.read_bytes()
    assert key + value in content
    path.write_bytes(content.replace(key + value, value + key))
    with pytest.raises(BundleError, match="does not list"):
        check_contents(path, DATA)


def test_a_graph_reads_the_weights_that_its_manifest_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "graph.onnx", within(tensors=[weights(DATA)]))
    check_contents(path, DATA)
    with pytest.raises(BundleError, match="does not list"):
        check_contents(path, None)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b", b"\x08"])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"graph\.onnx cannot be loaded by ONNX Runtime"):
        check_contents(path, None)
