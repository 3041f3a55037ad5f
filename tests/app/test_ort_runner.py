"""The runner on real graphs: no answer depends on its company, and what fails is told for what it is."""

import _ctypes
import hashlib
import json
import random
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from app import ort_runner
from app.bundle import Bundle, Target, load_bundle
from app.cuda import CudaError
from app.errors import BundleError, EngineLost, OutOfDeviceMemory, StartupError
from app.golden import golden_sequences
from app.messages import MaskScores, SequenceResult, TokenSequence
from app.ort_runner import Device, OrtRunner, choose_variant, open_runner
from tests.app.memory import HostMemory
from tests.conftest import BundleOf

MODELS = ["bert-single-label", "bert-fill-mask", "roberta-fill-mask", "xlm-roberta-multi-label", "electra-single-label"]


def load(bundle: Bundle) -> OrtRunner:
    return open_runner(bundle, device="auto", precision="auto", threads=1)


def same(one: SequenceResult, other: SequenceResult) -> bool:
    """Bit for bit."""
    if isinstance(one, MaskScores):
        assert isinstance(other, MaskScores)
        return np.array_equal(one.tokens, other.tokens) and one.scores.tobytes() == other.scores.tobytes()
    assert not isinstance(other, MaskScores)
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_no_answer_depends_on_its_company(bundle_of: BundleOf, name: str) -> None:
    bundle = load_bundle(bundle_of(name))
    runner = load(bundle)
    sequences = golden_sequences(bundle)
    alone = [runner.run([sequence])[0] for sequence in sequences]
    choice = random.Random(3)
    for size in (1, 2, 3, 7, 20, 60):
        chosen = [choice.randrange(len(sequences)) for _ in range(size)]
        for i, result in zip(chosen, runner.run([sequences[i] for i in chosen]), strict=True):
            assert same(result, alone[i])


def test_one_may_ask_for_more_than_another(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-fill-mask"))
    runner, [first, *_] = load(bundle), golden_sequences(bundle)

    def asking(top_k: int, targets: list[int] | None = None) -> TokenSequence:
        chosen = None if targets is None else np.array(targets)
        return TokenSequence(first.input_ids, first.token_type_ids, first.masks, top_k, chosen)

    asked = [asking(1), asking(400), asking(3), asking(2, [7, 9, 11]), asking(1, [7])]
    results = runner.run(asked)
    assert all(same(result, runner.run([one])[0]) for one, result in zip(asked, results, strict=True))
    shapes = [result.tokens.shape[1] for result in results if isinstance(result, MaskScores)]
    assert shapes == [1, 400, 3, 2, 1]


def test_threads_do_not_change_which_answer_is_given(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    sequences = golden_sequences(bundle)
    variant = bundle.manifest.variants[0]
    one, two = (OrtRunner(bundle, variant, threads=threads).run(sequences) for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)


def variant(target: Target, precision: str) -> dict[str, Any]:
    file = {"file": f"{target}-{precision}.onnx", "sha256": "", "size_bytes": 0}
    parity = {"reference_max_abs_diff": 0, "alone_max_abs_diff": 0, "tolerance": 1, "checked_with": "onnxruntime"}
    return {"target": target, "precision": precision, "graph": file, "parity": parity}


@pytest.fixture
def folder(tmp_path: Path, bundle_of: BundleOf) -> Path:
    return shutil.copytree(bundle_of("bert-single-label"), tmp_path / "sentiment")


def with_variants(folder: Path, *variants: tuple[Target, str]) -> Bundle:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    [exported] = manifest["variants"]
    held = [exported if one == ("cpu", "fp32") else variant(*one) for one in variants]
    path.write_text(json.dumps(manifest | {"variants": held}))
    return load_bundle(folder)


ALL: Sequence[tuple[Target, str]] = [("cuda", "fp32"), ("cpu", "int8"), ("cpu", "fp32"), ("cuda", "fp16")]


@pytest.mark.parametrize(
    ("target", "precision", "name"),
    [
        ("cpu", "auto", "cpu-fp32"),
        ("cuda", "auto", "cuda-fp16"),
        ("cpu", "int8", "cpu-int8"),
        ("cuda", "fp32", "cuda-fp32"),
    ],
)
def test_the_best_variant(folder: Path, target: Target, precision: Any, name: str) -> None:
    assert choose_variant(with_variants(folder, *ALL), target, precision).name == name


@pytest.mark.parametrize(("target", "precision"), [("cpu", "fp16"), ("cuda", "int8")])
def test_a_variant_that_was_not_exported(folder: Path, target: Target, precision: Any) -> None:
    with pytest.raises(
        BundleError, match=rf"sentiment has no variant {target}-{precision}; it has cuda-fp32, cpu-int8.*--variants"
    ):
        choose_variant(with_variants(folder, *ALL), target, precision)


class Gpu:
    """What a machine has of CUDA, behind stand-ins: the sessions are the CPU's, which say that they are on CUDA."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.fell_back = False
        self.printed = ""
        self.options: list[tuple[Any, dict[str, str] | None]] = []
        self.see(0)

    def see(self, gpus: int) -> None:
        self.monkeypatch.setattr(ort_runner, "count_gpus", lambda: gpus)

    def install(self, **broken: Exception) -> None:
        """Put onnxruntime-gpu there; of its steps, `libraries` or `session` may fail."""

        def step(name: str) -> None:
            if name in broken:
                raise broken[name]

        class Device(HostMemory):
            stream = 77

            def __init__(self, _: str) -> None:
                super().__init__()
                step("libraries")

        class Session:
            def __init__(self, session: Any, providers: list[str]) -> None:
                self.session, self.get_providers = session, lambda: providers

            def __getattr__(self, name: str) -> Any:
                return getattr(self.session, name)

        real = ort_runner._session

        def session(path: Path, options: Any, provider: str, provider_options: Any = None) -> Any:
            if provider == "CPUExecutionProvider":
                return real(path, options, provider)
            self.options.append((options, provider_options))
            step("session")
            made = real(path, options, "CPUExecutionProvider")
            return Session(made, ["CPUExecutionProvider"] if self.fell_back else [provider, "CPUExecutionProvider"])

        self.monkeypatch.setattr(ort, "get_available_providers", lambda: list(ort_runner.PROVIDERS.values()))
        self.monkeypatch.setattr(ort, "preload_dlls", lambda: sys.stdout.write(self.printed))
        self.monkeypatch.setattr(ort_runner, "Cuda", Device)
        self.monkeypatch.setattr(ort_runner, "_session", session)
        self.monkeypatch.setattr(ort_runner, "_missing_library", lambda: None)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    return Gpu(monkeypatch)


def put(folder: Path, file: str, graph: bytes) -> None:
    """Put another graph into a bundle, as if it had been exported so."""
    (folder / file).write_bytes(graph)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for held in manifest["variants"]:
        if held["graph"]["file"] == file:
            held["graph"] |= {"sha256": hashlib.sha256(graph).hexdigest(), "size_bytes": len(graph)}
    path.write_text(json.dumps(manifest))


def graph_of(*inputs: str, operator: str = "Neg") -> bytes:
    """A graph of CUDA's inputs that a CPU session can load."""
    values = [helper.make_tensor_value_info(name, TensorProto.INT32, ["tokens"]) for name in inputs]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["tokens"])
    cast = helper.make_node("Cast", [inputs[0]], ["wide"], to=TensorProto.FLOAT)
    last = helper.make_node(operator, ["wide"], ["logits"], name="last")
    graph = helper.make_graph([cast, last], "graph", values, [logits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.fixture
def both(folder: Path) -> Bundle:
    """A bundle for CPU and CUDA."""
    with_variants(folder, ("cpu", "fp32"), ("cuda", "fp16"))
    put(folder, "cuda-fp16.onnx", graph_of("input_ids", "cu_seqlens"))
    return load_bundle(folder)


def test_auto_takes_cuda_where_it_works(both: Bundle, gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    gpu.see(1)
    gpu.install()
    for device in ("auto", "cuda"):
        chosen = open_runner(both, device=device, precision="auto", threads=1, gpu_memory_bytes=1 << 30)  # type: ignore[arg-type]
        assert (chosen.variant_name, chosen.provider) == ("cuda-fp16", "CUDAExecutionProvider")
        assert chosen.launches_ahead
    for options, provider_options in gpu.options:
        assert provider_options is not None
        assert provider_options["user_compute_stream"] == "77"
        assert provider_options["gpu_mem_limit"] == str(1 << 30)
        assert not options.enable_mem_pattern
    assert not caplog.records


MISSING: dict[str, Any] = {
    "provider": (None, "no CUDAExecutionProvider.*install the gpu extra instead of the cpu extra"),
    "driver": ({"libraries": CudaError("CUDA failure 35: insufficient driver")}, "CUDA failure 35.*nvidia-smi"),
    "device": ({"session": RuntimeError("CUDA failure 100: no device")}, "no session could be made.*CUDA failure 100"),
    "library": (
        {"session": NoKernel("No kernel for PackedMultiHeadAttention")},
        r"libcublas\.so\.13.*install the gpu extra",
    ),
    "fallback": ({}, "fell back to the CPU"),
}


@pytest.mark.parametrize("missing", MISSING)
def test_cuda_is_never_replaced_silently(
    both: Bundle, gpu: Gpu, missing: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, message = MISSING[missing]
    gpu.see(1)
    gpu.fell_back = missing == "fallback"
    if broken is not None:
        gpu.install(**broken)
    if missing == "library":
        monkeypatch.setattr(
            ort_runner, "_missing_library", lambda: "libcublas.so.13: no such file; install the gpu extra"
        )
    with pytest.raises(StartupError, match=rf"BERT_DEVICE is cuda, but.*{message}.*BERT_DEVICE=cpu"):
        open_runner(both, device="cuda", precision="auto", threads=1)
    assert not caplog.records
    chosen = open_runner(both, device="auto", precision="auto", threads=1)
    assert (chosen.variant_name, chosen.provider) == ("cpu-fp32", "CPUExecutionProvider")
    [told] = caplog.records
    assert told.levelname == "WARNING"
    assert re.search(rf"does not run on CUDA, although this machine has 1 GPU: .*{message}.*=cpu", told.getMessage())


PRINTED = "Failed to load libcublasLt.so.13: no such file\nPlease follow https://onnxruntime.ai to install CUDA.\n"


@pytest.mark.parametrize("step", ["libraries", "session", "fallback", "none"])
def test_what_is_printed_of_libraries_goes_to_the_log(
    both: Bundle, gpu: Gpu, step: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    gpu.printed = PRINTED
    gpu.fell_back = step == "fallback"
    gpu.install(**{step: RuntimeError("it does not work")})
    chosen = open_runner(both, device="auto", precision="auto", threads=1)
    told = [(one.levelname, one.getMessage()) for one in caplog.records if "libcublasLt" in one.getMessage()]
    message = "ONNX Runtime looked for CUDA's libraries: " + PRINTED.strip().replace("\n", "; ")
    if step == "none":
        assert chosen.provider == "CUDAExecutionProvider"
        assert told == [("DEBUG", message)]
    else:
        assert chosen.provider == "CPUExecutionProvider"
        assert told == [("WARNING", message)]
    assert capfd.readouterr() == ("", "")


def test_a_bundle_for_the_cpu_on_a_gpu_is_told(folder: Path, gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    bundle = load_bundle(folder)
    gpu.install()
    assert open_runner(bundle, device="auto", precision="auto", threads=1).variant_name == "cpu-fp32"
    [told] = caplog.records
    assert re.search(
        r"although onnxruntime-gpu is installed: .*no variant cuda-fp16 or fp32; it has cpu-fp32.*--variants",
        told.getMessage(),
    )
    with pytest.raises(BundleError, match="no variant cuda-fp16 or fp32"):
        open_runner(bundle, device="cuda", precision="auto", threads=1)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_nothing_is_told(
    both: Bundle, gpu: Gpu, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    if device == "cpu":
        gpu.see(1)
        gpu.install()
    assert open_runner(both, device=device, precision="auto", threads=1).variant_name == "cpu-fp32"
    assert not caplog.records


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("damage", ["changed", "missing", "no graph", "unknown operator", "other inputs"])
def test_a_damaged_graph_is_no_reason_for_the_cpu(both: Bundle, gpu: Gpu, device: Device, damage: str) -> None:
    file = both.folder / "cuda-fp16.onnx"
    message = "Export the model again"
    if damage == "changed":
        file.write_bytes(file.read_bytes()[::-1])
        message = "not the file that was exported"
    elif damage == "missing":
        file.unlink()
        message = "is missing from the bundle"
    elif damage == "no graph":
        put(both.folder, file.name, b"no graph" * 10)
    elif damage == "unknown operator":
        put(both.folder, file.name, file.read_bytes().replace(b"Cast", b"Cost"))
    else:
        put(both.folder, file.name, graph_of("input_ids", "pad_index"))
        message = "another version of the export: it wants pad_index"
    gpu.see(1)
    gpu.install()
    with pytest.raises(BundleError, match=message):
        open_runner(load_bundle(both.folder), device=device, precision="auto", threads=1)


@pytest.mark.parametrize("told", ["a large node", "nothing"])
def test_work_that_stays_on_the_cpu_is_told(
    both: Bundle, gpu: Gpu, told: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(both.folder, "cuda-fp16.onnx", graph_of("input_ids", operator="Tanh"))
    gpu.install()
    if told == "nothing":
        monkeypatch.setattr(ort_runner, "RECORDS_PLACEMENT", "session.no_such_entry")
    runner = open_runner(load_bundle(both.folder), device="cuda", precision="auto", threads=1)
    [record] = caplog.records
    if told == "a large node":
        assert runner.nodes_on_cpu == ["Tanh last"]
        assert "runs 1 of its nodes on the CPU, the first Tanh last" in record.getMessage()
    else:
        assert "not known: [ONNXRuntimeError]" in record.getMessage()


def test_a_damaged_graph_that_nothing_can_run_is_not_read(both: Bundle, gpu: Gpu) -> None:
    (both.folder / "cuda-fp16.onnx").unlink()
    assert open_runner(both, device="auto", precision="auto", threads=1).variant_name == "cpu-fp32"


def test_the_loader_names_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "capi").mkdir()
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    assert "libonnxruntime_providers_cuda.so: cannot open" in str(ort_runner._missing_library())
    library.symlink_to(_ctypes.__file__)  # any that loads
    assert ort_runner._missing_library() is None


def test_a_graph_that_cannot_be_loaded(folder: Path) -> None:
    put(folder, "cpu-fp32.onnx", (folder / "cpu-fp32.onnx").read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"cpu-fp32\.onnx cannot be loaded by ONNX Runtime.*Export the model again"):
        load(load_bundle(folder))


def test_a_graph_for_which_there_is_no_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

    monkeypatch.setattr(ort_runner, "_session", without_memory)
    with pytest.raises(OutOfDeviceMemory, match="bad_alloc"):
        load(load_bundle(folder))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", EngineLost),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", EngineLost),
        ("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED", EngineLost),
        ("CUDA failure 209: no kernel image is available for execution on the device", StartupError),
        ("CUDA failure 2: out of memory", OutOfDeviceMemory),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", OutOfDeviceMemory),
        ("Failed to allocate memory for requested buffer of size 12884901888", OutOfDeviceMemory),
        ("Exception during initialization: std::bad_alloc", OutOfDeviceMemory),
        ("Available memory of 8380416 is smaller than requested bytes of 25600000", OutOfDeviceMemory),
        ("Got invalid dimensions for input: input_ids", RuntimeError),
    ],
)
@pytest.mark.parametrize("fails", ["launch", "finish"])
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_fault_of_the_device_is_told_from_one_of_the_batch(
    bundle_of: BundleOf,
    monkeypatch: pytest.MonkeyPatch,
    target: Target,
    fails: str,
    message: str,
    kind: type[Exception],
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner = load(bundle)
    fault = RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {message}")

    class Execution:
        def launch(self, *_: Any) -> Any:
            if fails == "launch":
                raise fault
            return self.finish

        def finish(self) -> None:
            raise fault

    monkeypatch.setattr(runner, "_execution", Execution())
    monkeypatch.setattr(runner, "variant", bundle.manifest.variants[0].model_copy(update={"target": target}))
    with pytest.raises(RuntimeError if kind is EngineLost and target == "cpu" else kind) as raised:
        runner.run(golden_sequences(bundle)[:1])
    assert fault in (raised.value, raised.value.__cause__)
    assert kind is not EngineLost or message not in str(raised.value) or raised.value is fault


def test_a_graph_of_another_version_of_the_export(folder: Path) -> None:
    model = onnx.load(folder / "cpu-fp32.onnx")
    for node in model.graph.node:
        node.input[:] = ["pad_index" if name == "cls_index" else name for name in node.input]
    next(one for one in model.graph.input if one.name == "cls_index").name = "pad_index"
    put(folder, "cpu-fp32.onnx", model.SerializeToString())
    with pytest.raises(
        BundleError, match=r"another version of the export: it wants pad_index\. Export the model again"
    ):
        load(load_bundle(folder))


def test_a_memory_limit_below_the_weights_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_variants(folder, ("cpu", "fp32"))
    [exported] = bundle.manifest.variants
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(StartupError, match=r"BERT_GPU_MEMORY_MIB is 0, but the weights of sentiment alone take 1"):
        OrtRunner(bundle, exported.model_copy(update={"target": "cuda"}), threads=1, gpu_memory_bytes=1000)


def test_both_extras_at_once_are_refused(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_runner, "version", lambda _: "1.31.1")
    with pytest.raises(StartupError, match=r"onnxruntime 1\.31\.1 and onnxruntime-gpu 1\.31\.1 are.*pip uninstall"):
        load(load_bundle(bundle_of("bert-single-label")))


def test_trimming_answers_as_running_does(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, sequences = load(bundle), golden_sequences(bundle)
    expected = runner.run(sequences)
    assert all(map(same, runner.trim(sequences), expected))
    assert all(map(same, runner.run(sequences), expected))


def test_an_arena_that_is_not_found_is_no_error(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, sequences = load(bundle), golden_sequences(bundle)
    expected = runner.run(sequences)
    monkeypatch.setattr(ort_runner, "ARENAS", {"cpu": "gpu:0"})
    assert all(map(same, runner.trim(sequences), expected))
    [told] = caplog.records
    assert re.search("memory that warm-up took is kept: .*arena", told.getMessage())


@pytest.mark.parametrize("kind", [EngineLost, OutOfDeviceMemory])
def test_trimming_hides_no_lost_device(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner = load(bundle)
    asked: list[Any] = []

    def launch(batch: Any, options: Any = None) -> Any:
        asked.append(options)
        raise kind("it broke")

    monkeypatch.setattr(runner, "_launch", launch)
    with pytest.raises(kind):
        runner.trim(golden_sequences(bundle))
    assert len(asked) == 1, "it is not run again"


def test_a_sequence_that_the_graph_cannot_take(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, good = load(bundle), golden_sequences(bundle)[0]
    expected = runner.run([good])[0]
    bad = TokenSequence(np.array([2, 10**6, 3]), np.zeros(3, np.int64), np.empty(0, np.int64))
    with pytest.raises(Exception, match="indices"):
        runner.run([good, bad])
    assert same(runner.run([good])[0], expected)
