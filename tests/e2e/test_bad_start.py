"""What keeps a server from starting is told once, with what to do about it, and without a traceback."""

import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BundleOf
from tests.support import change_manifest, run_app

Break = Callable[[Path], None]


@pytest.fixture
def models(tmp_path: Path, bundle_of: BundleOf) -> Path:
    """A folder with one bundle, to break."""
    shutil.copytree(bundle_of("bert-single-label"), tmp_path / "models" / "sentiment")
    return tmp_path / "models"


def refusal(*arguments: str, status: int = 1, **environment: str) -> str:
    """Start the server, which must end, and return its one complaint."""
    ended = run_app(*arguments, **{"BERT_PORT": "0"} | environment)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    if status == 2:  # there is no log before there are settings
        return ended.stderr
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    [complaint] = [record["message"] for record in told if record["level"] in ("warning", "error", "critical")]
    return complaint


def entry(path: Path) -> dict[str, Any]:
    """The manifest's entry of a file as it is now."""
    content = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def truncate_graph(bundle: Path) -> None:
    graph = bundle / "cpu-fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1000])


def truncate_graph_and_hash_it(bundle: Path) -> None:
    truncate_graph(bundle)
    [variant] = json.loads((bundle / "manifest.json").read_text())["variants"]
    change_manifest(bundle, variants=[variant | {"graph": entry(bundle / "cpu-fp32.onnx")}])


def flip_a_bit(bundle: Path) -> None:
    content = bytearray((bundle / "cpu-fp32.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "cpu-fp32.onnx").write_bytes(content)


def change_the_vocabulary(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] = {word: 399 - i for word, i in tokenizer["model"]["vocab"].items()}
    path.write_text(json.dumps(tokenizer))
    change_manifest(bundle, tokenizer=entry(path))


def change_a_golden_answer(bundle: Path) -> None:
    path = bundle / "golden.json"
    golden = json.loads(path.read_text())
    case = golden["cases"][-1]
    case["logits"][0] += 0.01
    del case["labels"]  # which would show it sooner
    path.write_text(json.dumps(golden))
    change_manifest(bundle, golden=entry(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (shutil.rmtree, ["No bundle in", "model_export export"]),
        (truncate_graph, ["cpu-fp32.onnx", "the copy is incomplete", "Copy the bundle again"]),
        (truncate_graph_and_hash_it, ["cpu-fp32.onnx", "cannot be loaded by ONNX Runtime", "Export the model again"]),
        (flip_a_bit, ["cpu-fp32.onnx", "sha256 differs", "Copy the bundle again"]),
        (
            lambda bundle: change_manifest(bundle, schema_version=2),
            ["schema version 2", "reads 1", "Upgrade the server"],
        ),
        (change_the_vocabulary, ["golden case 0", "Export the model again"]),
        (change_a_golden_answer, ["does not give the golden answers", "0.01"]),
    ],
    ids=[
        "no bundle",
        "short graph",
        "broken graph",
        "bit of the graph",
        "schema version",
        "vocabulary",
        "golden answer",
    ],
)
def test_a_broken_bundle_ends_the_start(models: Path, change: Break, says: list[str]) -> None:
    change(models / "sentiment")
    complaint = refusal("--models", str(models))
    assert all(said in complaint for said in says), complaint


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bundle_for_an_unknown_task_ends_the_start(models: Path, workers: str) -> None:
    change_manifest(models / "sentiment", task="summarize")
    complaint = refusal("--models", str(models), "--workers", workers)
    assert "sentiment is for the task summarize" in complaint


def test_a_missing_models_folder_ends_the_start(tmp_path: Path) -> None:
    complaint = refusal("--models", str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in complaint
    assert "--models" in complaint


def test_a_file_instead_of_a_models_folder_ends_the_start(models: Path) -> None:
    complaint = refusal("--models", str(models / "sentiment" / "cpu-fp32.onnx"))
    assert "cpu-fp32.onnx is a file. Set --models to the folder of a bundle" in complaint


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_ends_the_start(models: Path, host: str) -> None:
    complaint = refusal("--models", str(models), "--host", host)
    assert "Set --host to an address of this machine" in complaint
    assert "--port" not in complaint


def test_a_port_in_use_ends_the_start(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        complaint = refusal("--models", str(models), BERT_PORT=port)
    assert "cannot start" in complaint
    assert f"127.0.0.1:{port}" in complaint
    assert "set another port" in complaint


def test_a_missing_device_ends_the_start(models: Path) -> None:
    complaint = refusal("--models", str(models), "--device", "cuda")
    assert "no variant cuda" in complaint
    assert "BERT_DEVICE" in complaint


def test_a_missing_precision_ends_the_start(models: Path) -> None:
    complaint = refusal("--models", str(models), BERT_PRECISION="fp16")
    assert "it has cpu-fp32. fp16 does not run on a CPU. Set BERT_PRECISION to auto, fp32, int8 or bf16" in complaint


def test_a_bad_setting_ends_the_start() -> None:
    complaint = refusal("--workers", "0", status=2, BERT_MAX_QUEUE_S="soon")
    assert complaint.splitlines() == [
        "--workers (BERT_WORKERS): Input should be greater than or equal to 1",
        "--max-queue-s (BERT_MAX_QUEUE_S): Input should be a valid number, unable to parse string as a number",
    ]


def test_a_misspelt_setting() -> None:
    complaint = refusal(status=2, BERT_MAX_QUEUES="3")
    assert complaint.startswith("BERT_MAX_QUEUES: there is no such setting. Did you mean BERT_MAX_QUEUE_S? Rename it")


def test_an_unknown_variable_is_logged_and_ignored(tmp_path: Path) -> None:
    ended = run_app("--models", str(tmp_path), BERT_PORT="0", BERT_BASE_DIR="/bert", BERT_SERVICE_HOST="10.0.0.1")
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [record["message"] for record in told if record["level"] == "warning"] == [
        "not a setting of this server, and ignored: BERT_BASE_DIR, BERT_SERVICE_HOST"
    ]
    assert "No bundle in" in told[-1]["message"]  # it went on, to what a start needs


def test_an_address_of_ipv6_is_logged_as_a_url(tmp_path: Path) -> None:
    ended = run_app("--models", str(tmp_path), "--host", "::1", BERT_PORT="0")
    assert "listening on http://[::1]:" in ended.stderr


def test_what_requests_without_a_name_miss_is_logged(shared_models: Path) -> None:
    # It ends for want of a device, after that.
    ended = run_app("--models", str(shared_models), "--device", "cuda", BERT_PORT="0", BERT_DEFAULT_MODELS="reviews")
    told = [(record["level"], record["message"]) for record in map(json.loads, ended.stderr.splitlines())]
    assert ("warning", "BERT_DEFAULT_MODELS: reviews is not served. Models are: masked, sentiment, toxicity.") in told
    assert (
        "info",
        "requests for classify must name one of its models, sentiment, toxicity: there is no default (BERT_DEFAULT_MODELS)",
    ) in told


def test_a_key_file_without_a_key(models: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\n")
    complaint = refusal("--models", str(models), "--api-key-file", str(tmp_path / "key"))
    assert "BERT_API_KEY_FILE is empty" in complaint


def test_a_temporary_folder_too_deep_for_a_socket_ends_the_start(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    complaint = refusal("--models", str(models), "--workers", "2", TMPDIR=str(folder))
    assert "too long a path for a Unix socket. Set TMPDIR to a shorter one" in complaint
