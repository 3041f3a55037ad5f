"""The runner on real graphs: no answer depends on its company, and what fails is told for what it is."""

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from app import ort_runner
from app.bundle import Bundle, Target, load_bundle
from app.errors import BundleError, EngineLost, OutOfDeviceMemory, StartupError
from app.messages import MaskScores, SequenceResult, TokenSequence
from app.ort_runner import OrtRunner, choose_variant, open_runner
from app.warmup import golden_sequences
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
    parity = {"reference_max_abs_diff": 0, "company_max_abs_diff": 0, "tolerance": 1, "checked_with": "onnxruntime"}
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


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_is_never_replaced_silently(folder: Path) -> None:
    bundle = with_variants(folder, ("cpu", "fp32"), ("cuda", "fp16"))
    graph = bundle.manifest.variants[1].graph
    (folder / graph.file).write_bytes(b"")
    digest = hashlib.sha256(b"").hexdigest()
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"sha256": ""', f'"sha256": "{digest}"'))
    bundle = load_bundle(folder)
    with pytest.raises(StartupError, match=r"BERT_DEVICE is cuda, but.*no CUDAExecutionProvider.*BERT_DEVICE=cpu"):
        open_runner(bundle, device="cuda", precision="auto", threads=1)
    chosen = open_runner(bundle, device="auto", precision="auto", threads=1)
    assert (chosen.variant_name, chosen.provider) == ("cpu-fp32", "CPUExecutionProvider")


def rewrite(folder: Path, graph: bytes) -> None:
    """Put another graph into a bundle, as if it had been exported so."""
    (folder / "cpu-fp32.onnx").write_bytes(graph)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["variants"][0]["graph"] |= {"sha256": hashlib.sha256(graph).hexdigest(), "size_bytes": len(graph)}
    path.write_text(json.dumps(manifest))


def test_a_graph_that_cannot_be_loaded(folder: Path) -> None:
    rewrite(folder, (folder / "cpu-fp32.onnx").read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"cpu-fp32\.onnx cannot be loaded by ONNX Runtime.*Export the model again"):
        load(load_bundle(folder))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", EngineLost),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", EngineLost),
        ("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED", EngineLost),
        ("CUDA failure 2: out of memory", OutOfDeviceMemory),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", OutOfDeviceMemory),
        ("Failed to allocate memory for requested buffer of size 12884901888", OutOfDeviceMemory),
        ("Available memory of 8380416 is smaller than requested bytes of 25600000", OutOfDeviceMemory),
        ("Got invalid dimensions for input: input_ids", RuntimeError),
    ],
)
@pytest.mark.parametrize("fails", ["prepare", "execute"])
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
        def prepare(self, *_: Any) -> Any:
            if fails == "prepare":
                raise fault
            return self.execute

        def execute(self) -> None:
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
    rewrite(folder, model.SerializeToString())
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


def test_a_sequence_that_the_graph_cannot_take(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, good = load(bundle), golden_sequences(bundle)[0]
    expected = runner.run([good])[0]
    bad = TokenSequence(np.array([2, 10**6, 3]), np.zeros(3, np.int64), np.empty(0, np.int64))
    with pytest.raises(Exception, match="indices"):
        runner.run([good, bad])
    assert same(runner.run([good])[0], expected)
