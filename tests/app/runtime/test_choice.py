"""Which variant serves on which device, and what is said if it is not the one that was hoped for."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Target
from app.errors import BundleError, OutOfDeviceMemory, StartupError
from app.runtime import choice, session
from app.runtime.choice import Device, Wanted, choose_precisions, choose_variant, open_runner
from app.runtime.cuda import CudaError
from tests.app.runtime.machines import Gpu, graph_of, put, with_variants
from tests.conftest import BundleOf
from tests.support import change_manifest

ALL: Sequence[tuple[Target, str]] = [("cuda", "fp32"), ("cpu", "int8"), ("cpu", "fp32"), ("cuda", "fp16")]


@pytest.mark.parametrize(
    ("target", "precision", "name"),
    [
        ("cpu", "auto", "cpu-fp32"),
        ("cuda", "auto", "cuda-fp16"),
        ("cpu", "int8", "cpu-int8"),
        ("cpu", "bf16", "cpu-bf16"),
        ("cuda", "fp32", "cuda-fp32"),
    ],
)
def test_auto_prefers_the_best_variant(folder: Path, target: Target, precision: Any, name: str) -> None:
    assert choose_variant(with_variants(folder, *ALL), target, precision).name == name


@pytest.mark.parametrize(
    ("target", "precision", "remedy"),
    [
        ("cpu", "fp16", "Set BERT_PRECISION to auto, fp32, int8 or bf16, or serve fp16 on a machine with a GPU"),
        (
            "cuda",
            "bf16",
            "bf16 does not run on CUDA. Set BERT_PRECISION to auto, fp16 or fp32, or serve bf16 with BERT_DEVICE=cpu",
        ),
        ("cuda", "int8", "Set BERT_PRECISION to auto, fp16 or fp32, or serve int8 with BERT_DEVICE=cpu"),
        ("cpu", "int8", "Export it again with --variants"),
    ],
)
def test_a_missing_variant_is_refused_with_what_can_be_done(
    folder: Path, target: Target, precision: Any, remedy: str
) -> None:
    with pytest.raises(
        BundleError, match=rf"sentiment has no variant {target}-{precision}; it has cuda-fp32, .*{remedy}"
    ):
        choose_variant(with_variants(folder, ("cuda", "fp32"), ("cpu", "fp32")), target, precision)


def test_a_variant_that_the_export_left_out_is_refused_with_its_reason(folder: Path) -> None:
    with_variants(folder, ("cpu", "fp32"))
    reason = "cuda-fp16 differs from the reference by 0.3; 0.005 is allowed."
    change_manifest(folder, left_out={"cuda-fp16": reason})
    with pytest.raises(BundleError, match=rf"no variant cuda-fp16; .*left it out: {reason} .*--tolerance"):
        choose_variant(load_bundle(folder), "cuda", "fp16")


@pytest.fixture
def reviews_and_topics(bundle_of: BundleOf, tmp_path: Path) -> list[Bundle]:
    """Two bundles, of which the first alone has int8."""
    bundles = []
    for name, variants in (("reviews", ALL), ("topics", ALL[2:])):
        folder = Path(shutil.copytree(bundle_of("bert-single-label"), tmp_path / name))
        bundles.append(with_variants(folder, *variants))
    return bundles


def test_a_model_without_the_precision_of_all_is_served_and_warned_of(
    reviews_and_topics: list[Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    chosen = choose_precisions(reviews_and_topics, "cpu", {"": "int8"})
    assert chosen == {"reviews": "int8", "topics": "auto"}
    [told] = caplog.records
    assert told.levelname == "WARNING"
    assert "topics has no variant cpu-int8; it has cpu-fp32, cuda-fp16" in told.getMessage()
    assert "BERT_PRECISION=int8,topics=auto" in told.getMessage()


def test_a_models_own_precision_counts_before_that_of_all(
    reviews_and_topics: list[Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    settings: list[Mapping[str, Wanted]] = [{"": "int8", "topics": "fp32"}, {"": "fp32", "reviews": "int8"}]
    for wanted in settings:
        chosen = choose_precisions(reviews_and_topics, "auto", wanted)
        assert chosen == {"reviews": "int8", "topics": "fp32"}
    assert not caplog.records


def test_a_model_that_is_served_without_the_precision_of_all_stops_nothing_and_is_not_warned_of_again(
    reviews_and_topics: list[Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    [reviews, topics] = reviews_and_topics
    assert choose_precisions([topics], "cpu", {"": "int8"}, may_lack=["topics"]) == {"topics": "auto"}
    assert choose_precisions([reviews, topics], "cpu", {"": "int8"}, may_lack=["topics"])["reviews"] == "int8"
    assert not caplog.records
    other = Bundle(topics.folder, topics.manifest, name="other")
    with pytest.raises(BundleError, match="Bundle other has no variant cpu-int8"):
        choose_precisions([topics, other], "cpu", {"": "int8"}, may_lack=["topics"])


@pytest.mark.parametrize(
    ("device", "wanted", "error", "says"),
    [
        ("cpu", {"": "auto", "topics": "int8"}, BundleError, "topics has no variant cpu-int8"),
        ("cpu", {"": "int8", "reviews": "fp32"}, BundleError, "topics has no variant cpu-int8"),
        ("cuda", {"": "int8"}, BundleError, "reviews has no variant cuda-int8"),
        ("cpu", {"": "auto", "topic": "int8"}, StartupError, "topic is not served. Models are: reviews, topics"),
    ],
)
def test_a_precision_that_nothing_can_run_in_stops_the_start(
    reviews_and_topics: list[Bundle], device: Device, wanted: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        choose_precisions(reviews_and_topics, device, wanted)


def test_auto_takes_cuda_where_it_works(both: Bundle, gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    gpu.see(1)
    gpu.install()
    devices: Sequence[Device] = ("auto", "cuda")
    for device in devices:
        chosen = open_runner(both, device=device, precision="auto", threads=[1], gpu_memory_bytes=1 << 30)
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
    "code": (
        {"run": RuntimeError("CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available for execution")},
        r"has no code for this GPU, Host of compute capability 0\.0; docs/deploy\.md lists the cards that can be used",
    ),
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
        monkeypatch.setattr(session, "_missing_library", lambda: "libcublas.so.13: no such file; install the gpu extra")
    with pytest.raises(StartupError, match=rf"BERT_DEVICE is cuda, but.*{message}.*BERT_DEVICE=cpu"):
        open_runner(both, device="cuda", precision="auto", threads=[1])
    assert not caplog.records
    chosen = open_runner(both, device="auto", precision="auto", threads=[1])
    assert (chosen.variant_name, chosen.provider) == ("cpu-fp32", "CPUExecutionProvider")
    [told] = caplog.records
    assert told.levelname == "WARNING"
    assert re.search(rf"does not run on CUDA, although this machine has 1 GPU: .*{message}.*=cpu", told.getMessage())


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("step", ["session", "inputs"])
def test_a_model_that_finds_no_memory_on_the_gpu_does_not_run_on_the_cpu(
    both: Bundle, gpu: Gpu, device: Device, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = CudaError("CUDA failure 2: out of memory")

    def no_room(*_: object) -> NoReturn:
        raise full

    gpu.see(1)
    gpu.install(**({"session": full} if step == "session" else {}))
    monkeypatch.setattr("app.runtime.execution.StagingBuffers", no_room)
    with pytest.raises(OutOfDeviceMemory, match="CUDA failure 2: out of memory"):
        open_runner(both, device=device, precision="auto", threads=[1])


PRINTED = "Failed to load libcublasLt.so.13: no such file\nPlease follow https://onnxruntime.ai to install CUDA.\n"


@pytest.mark.parametrize("step", ["libraries", "session", "fallback", "none"])
def test_printed_library_errors_go_to_the_log(
    both: Bundle, gpu: Gpu, step: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    gpu.printed = PRINTED
    gpu.fell_back = step == "fallback"
    gpu.install(**{step: RuntimeError("it does not work")})
    chosen = open_runner(both, device="auto", precision="auto", threads=[1])
    told = [(one.levelname, one.getMessage()) for one in caplog.records if "libcublasLt" in one.getMessage()]
    message = "ONNX Runtime looked for CUDA's libraries: " + PRINTED.strip().replace("\n", "; ")
    if step == "none":
        assert chosen.provider == "CUDAExecutionProvider"
        assert told == [("DEBUG", message)]
    else:
        assert chosen.provider == "CPUExecutionProvider"
        assert told == [("WARNING", message)]
    assert capfd.readouterr() == ("", "")


def test_a_cpu_bundle_on_a_gpu_machine_is_logged(folder: Path, gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    bundle = load_bundle(folder)
    gpu.install()
    assert open_runner(bundle, device="auto", precision="auto", threads=[1]).variant_name == "cpu-fp32"
    [told] = caplog.records
    assert re.search(
        r"although onnxruntime-gpu is installed: .*no variant cuda-fp16 or fp32; it has cpu-fp32.*--variants",
        told.getMessage(),
    )
    with pytest.raises(BundleError, match="no variant cuda-fp16 or fp32"):
        open_runner(bundle, device="cuda", precision="auto", threads=[1])


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_nothing_is_logged(
    both: Bundle, gpu: Gpu, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    if device == "cpu":
        gpu.see(1)
        gpu.install()
    assert open_runner(both, device=device, precision="auto", threads=[1]).variant_name == "cpu-fp32"
    assert not caplog.records


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("damage", ["changed", "missing", "no graph", "unknown operator", "other inputs"])
def test_a_damaged_cuda_graph_does_not_fall_back_to_the_cpu(
    both: Bundle, gpu: Gpu, device: Device, damage: str
) -> None:
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
        open_runner(load_bundle(both.folder), device=device, precision="auto", threads=[1])


def test_a_damaged_graph_that_nothing_can_run_is_not_read(both: Bundle, gpu: Gpu) -> None:
    (both.folder / "cuda-fp16.onnx").unlink()
    assert open_runner(both, device="auto", precision="auto", threads=[1]).variant_name == "cpu-fp32"


def test_both_extras_at_once_are_refused(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "version", lambda _: "1.31.1")
    with pytest.raises(StartupError, match=r"onnxruntime 1\.31\.1 and onnxruntime-gpu 1\.31\.1 are.*pip uninstall"):
        open_runner(load_bundle(bundle_of("bert-single-label")), device="auto", precision="auto", threads=[1])
