"""A GPU that fails, is too small or is not there: what ONNX Runtime says of it, and what the service makes of that."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cuda.conftest import Gpu, GpuBundleOf, capabilities
from tests.support import eventually, run_app, serving

pytestmark = pytest.mark.cuda

ILLEGAL_ADDRESS = 700
ENGINE_LOST, CANNOT_START = 70, 1
ON_CUDA = ("--device", "cuda", "--batch-tokens", "2048")
QUESTION = {"inputs": ["The cat sat on the mat.", "It is late."]}


@pytest.fixture
def models(tmp_path: Path, gpu_bundle_of: GpuBundleOf) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "sentiment").symlink_to(gpu_bundle_of("bert-single-label"))
    return folder


def complaints(text: str) -> list[str]:
    """The messages that somebody should see, of a log in which every line is a record."""
    records = [json.loads(line) for line in text.splitlines()]
    return [record["message"] for record in records if record["level"] not in ("debug", "info")]


def test_a_device_that_fails_for_good_ends_the_process(models: Path, gpu: Gpu) -> None:
    with serving(models, *ON_CUDA, **gpu.environment) as server:
        assert server.post("/v1/classify", QUESTION).status == 200
        gpu.fail(ILLEGAL_ADDRESS)
        reply = server.post("/v1/classify", QUESTION)
        assert (reply.status, reply.json["error_type"]) == (503, "engine_lost")
        assert server.process.wait(20) == ENGINE_LOST
        told = "\n".join(complaints(server.log))
    assert "the device failed" in told
    assert "illegal memory access" in told


def test_an_engine_process_that_lost_its_device_is_replaced(models: Path, gpu: Gpu) -> None:
    with serving(models, *ON_CUDA, "--workers", "2", **gpu.environment) as server:
        expected = server.post("/v1/classify", QUESTION).json
        gpu.fail(ILLEGAL_ADDRESS)
        assert server.post("/v1/classify", QUESTION).json["error_type"] == "engine_lost"
        eventually(lambda: server.post("/v1/classify", QUESTION).json == expected)
        assert server.metric("bert_engine_restarts_total") == 1
        assert server.stop() == 0


def test_a_batch_that_does_not_fit_is_answered_all_the_same(gpu_bundle_of: GpuBundleOf, gpu: Gpu) -> None:
    """The memory is what warm-up needs; a vocabulary's scores for this many masks need more."""
    texts = [" ".join(["[MASK]"] * 36)] * 48
    bundle = gpu_bundle_of("bert-fill-mask")
    with serving(bundle, *ON_CUDA, **gpu.environment, SIMULATED_CUDA_MEMORY_MIB="6") as server:
        assert complaints(server.log) == []
        [alone] = server.post("/v1/fill-mask", {"inputs": texts[:1]}).json["predictions"]
        reply = server.post("/v1/fill-mask", {"inputs": texts})
        assert reply.status == 200, server.log
        assert all(answer == alone for answer in reply.json["predictions"])
        assert "Failed to allocate memory" in server.log


def test_a_device_that_is_too_small_ends_the_start_in_one_line(models: Path) -> None:
    ended = run_app("--models", str(models), "--port", "0", *ON_CUDA, SIMULATED_CUDA_MEMORY_MIB="0")
    assert ended.returncode == CANNOT_START, ended.stderr
    [complaint] = complaints(ended.stderr)
    assert "memory" in complaint


@pytest.mark.parametrize("capability", capabilities("no"))
def test_a_card_that_the_build_has_no_code_for_is_named(models: Path, capability: str) -> None:
    ended = run_app("--models", str(models), "--port", "0", *ON_CUDA, SIMULATED_CUDA_CAPABILITY=capability)
    assert ended.returncode == CANNOT_START, ended.stderr
    [complaint] = complaints(ended.stderr)
    assert f"has no code for this GPU, Simulated GPU of compute capability {capability}; docs/deploy.md" in complaint


def test_cuda_without_a_driver_ends_the_start(models: Path) -> None:
    ended = run_app("--models", str(models), "--port", "0", *ON_CUDA, LD_LIBRARY_PATH="")
    assert ended.returncode == CANNOT_START, ended.stderr
    [complaint] = complaints(ended.stderr)
    assert "libcuda.so.1" in complaint
    assert "BERT_DEVICE=cpu" in complaint


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"LD_LIBRARY_PATH": ""}, ["libcuda.so.1"]),
        ({"SIMULATED_CUDA_CAPABILITY": "10.0"}, ["although this machine has 1 GPU", "of compute capability 10.0"]),
    ],
    ids=["no driver", "a card that the build has no code for"],
)
def test_auto_serves_from_the_cpu_where_cuda_cannot_be_used_and_says_so(
    models: Path, environment: dict[str, str], told: list[str]
) -> None:
    with serving(models, "--device", "auto", **environment) as server:
        assert server.post("/v1/classify", QUESTION).status == 200
        assert server.metric("bert_model_info", provider="CPUExecutionProvider") == 1
        [complaint] = complaints(server.log)
    assert all(part in complaint for part in ("does not run on CUDA", *told)), complaint


def test_auto_takes_the_gpu(models: Path) -> None:
    with serving(models, "--batch-tokens", "512") as server:
        assert server.metric("bert_model_info", provider="CUDAExecutionProvider", variant="cuda-fp16") == 1
        assert server.metric("bert_gpu_memory_total_bytes") > 0
        assert complaints(server.log) == []


def test_damage_is_told_and_not_hidden_behind_the_cpu(models: Path) -> None:
    bundle = (models / "sentiment").resolve()
    (models / "sentiment").unlink()
    shutil.copytree(bundle, models / "sentiment")
    graph = models / "sentiment" / "cuda-fp16.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    ended = run_app("--models", str(models), "--port", "0", "--device", "auto")
    assert ended.returncode == CANNOT_START, ended.stderr
    [complaint] = complaints(ended.stderr)
    assert "cuda-fp16.onnx" in complaint
