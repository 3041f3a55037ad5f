"""How a session is made: what it does not take, and what it says of a graph, of CUDA's libraries and of the CPU."""

import _ctypes
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from app.bundle.files import Bundle, load_bundle
from app.errors import BundleError, OutOfDeviceMemory
from app.runtime import session
from app.runtime.choice import open_runner
from app.runtime.session import open_on_cpu
from tests.app.runtime.machines import Gpu, graph_of, put


@pytest.mark.parametrize("told", ["a large node", "nothing"])
def test_large_nodes_on_the_cpu_are_logged(
    both: Bundle, gpu: Gpu, told: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(both.folder, "cuda-fp16.onnx", graph_of("input_ids", operator="Tanh"))
    gpu.install()
    if told == "nothing":
        monkeypatch.setattr("app.bundle.session.RECORDS_PLACEMENT", "session.no_such_entry")
    runner = open_runner(load_bundle(both.folder), device="cuda", precision="auto", threads=[1])
    [record] = caplog.records
    if told == "a large node":
        assert runner.nodes_on_cpu == ["Tanh last"]
        assert "runs 1 of its nodes on the CPU, the first Tanh last" in record.getMessage()
    else:
        assert "not known: [ONNXRuntimeError]" in record.getMessage()


def test_the_error_names_the_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "capi").mkdir()
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    assert "libonnxruntime_providers_cuda.so: cannot open" in str(session._missing_library())
    library.symlink_to(_ctypes.__file__)  # any that loads
    assert session._missing_library() is None


def test_a_graph_that_cannot_be_loaded_is_refused(folder: Path) -> None:
    put(folder, "cpu-fp32.onnx", (folder / "cpu-fp32.onnx").read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"cpu-fp32\.onnx cannot be loaded by ONNX Runtime.*Export the model again"):
        open_on_cpu(folder / "cpu-fp32.onnx", threads=[1], size_bytes=1)


def test_a_graph_that_does_not_fit_into_memory_is_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

    monkeypatch.setattr(session, "_session", without_memory)
    with pytest.raises(OutOfDeviceMemory, match="bad_alloc"):
        open_on_cpu(folder / "cpu-fp32.onnx", threads=[1], size_bytes=1)


def test_a_graph_of_another_release_is_refused(folder: Path) -> None:
    model = onnx.load(folder / "cpu-fp32.onnx")
    for node in model.graph.node:
        node.input[:] = ["pad_index" if name == "cls_index" else name for name in node.input]
    next(one for one in model.graph.input if one.name == "cls_index").name = "pad_index"
    put(folder, "cpu-fp32.onnx", model.SerializeToString())
    with pytest.raises(
        BundleError, match=r"another version of the export: it wants pad_index\. Export the model again"
    ):
        open_on_cpu(folder / "cpu-fp32.onnx", threads=[1], size_bytes=1)
