"""The checks of an export find what is wrong, and only that."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.bundle.files import Bundle, describe_file, load_bundle
from app.bundle.manifest import Golden, Manifest, Parity, Target
from app.errors import BundleError
from model_export.check.parity import Batch, Examination, check, check_scores, largest_difference, verify_bundle
from model_export.check.reference import softmax
from model_export.checkpoint.network import Network
from model_export.errors import ExportError
from tests.model_export.support import CHECKPOINTS, network_of, reference_answers, samples_for, written


def networks() -> list[Network]:
    """One of each kind of embedding and head."""
    return [
        network_of(CHECKPOINTS / "bert-single-label", "classify"),
        network_of(CHECKPOINTS / "roberta-fill-mask", "fill-mask"),
        network_of(CHECKPOINTS / "electra-single-label", "classify"),
        network_of(CHECKPOINTS / "xlm-roberta-entities", "entities"),
        network_of(CHECKPOINTS / "distilbert-embed-cls", "embed", "mean"),
    ]


@pytest.mark.parametrize("network", networks(), ids=lambda network: network.config.model_type)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_every_tensor_reaches_the_answer(network: Network, target: Target, tmp_path: Path) -> None:
    """A graph with one tensor changed differs from the reference by more than the tolerance, whichever it is."""
    name = {
        "bert": "bert-single-label",
        "roberta": "roberta-fill-mask",
        "electra": "electra-single-label",
        "xlm-roberta": "xlm-roberta-entities",
        "distilbert": "distilbert-embed-cls",
    }
    samples = samples_for(CHECKPOINTS / name[network.config.model_type], network, 12)
    batch = Batch(samples, reference_answers(network, samples))
    examination = Examination(lengths=batch, texts=batch)
    unnoticed = []
    for part, tensor in network.tensors.items():
        if part == "head.output.weight" and network.task == "fill-mask" and network.is_tied:
            continue
        changed = {
            key: tensor * np.float32(1.5) if value is tensor else value for key, value in network.tensors.items()
        }
        graph = written(replace(network, tensors=changed), tmp_path / "graph.onnx", target)
        if examination.measure(graph, 1e-4).reference_max_abs_diff <= 1e-4:
            unnoticed.append(part)
    # A key's bias adds the same to all scores of a query, which the softmax takes away again.
    assert unnoticed == [f"layer.{i}.key.bias" for i in range(network.config.layers)]


def parity(**values: float) -> Parity:
    defaults = {"reference_max_abs_diff": 1e-6, "alone_max_abs_diff": 0.0, "tolerance": 1e-4}
    return Parity(**(defaults | values), checked_with="onnxruntime")


def test_difference_at_the_tolerance_is_allowed() -> None:
    check("cpu-fp32", "cpu", parity(reference_max_abs_diff=1e-4))
    check("cuda-fp32", "cuda", parity(alone_max_abs_diff=1e-4))


@pytest.mark.parametrize("difference", [1.01e-4, float("inf"), float("nan")])
def test_difference_from_the_reference(difference: float) -> None:
    with pytest.raises(ExportError, match="cpu-fp32 differs from the reference by"):
        check("cpu-fp32", "cpu", parity(reference_max_abs_diff=difference))


@pytest.mark.parametrize(("target", "difference"), [("cpu", 1e-9), ("cuda", 1.01e-4)])
def test_answers_that_depend_on_the_company(target: Target, difference: float) -> None:
    with pytest.raises(ExportError, match="depend on the other sequences of the batch"):
        check("x", target, parity(alone_max_abs_diff=difference))


def test_largest_difference_of_what_is_not_a_number_is_infinite() -> None:
    one, bad = np.ones(2, np.float32), np.array([1, np.nan], np.float32)
    assert largest_difference([one, one], [one, one + 2]) == 2
    assert largest_difference([one, bad], [one, one]) == np.inf


def test_tolerance_of_half_precision_grows_with_the_answers() -> None:
    def examination(answer: float) -> Examination:
        batch = Batch([], [np.array([answer], np.float32)])
        return Examination(lengths=batch, texts=batch)

    assert examination(0.5).tolerance("fp16") == 5e-3
    assert examination(-20.0).tolerance("fp16") == pytest.approx(0.1)
    assert examination(-20.0).tolerance("fp32") == 1e-4


@pytest.mark.parametrize(
    ("expected", "answer", "refused"),
    [
        ([0.0, 0.0, 0.0], [0.008, 0.0, 0.0], None),  # 2/9 of that in the score
        ([0.0, 0.0, 0.0], [0.01, 0.0, 0.0], r"differ from the reference by 0\.0022.*0 of 1 texts"),
        ([8.0, 0.0, 0.0], [8.5, 0.0, 0.0], None),  # the logits are off by half, the score by 3e-4
        ([0.03, 0.0, -9.0], [-0.03, 0.0, -9.0], r"1 of 1 texts get another label"),
        ([0.0, np.nan, 0.0], [0.0, 0.0, 0.0], "by inf"),
    ],
)
def test_scores_of_half_precision(expected: list[float], answer: list[float], refused: str | None) -> None:
    batch = Batch([], [np.array(expected, np.float32)])
    answers = [np.array(answer, np.float32)]
    if refused is None:
        check_scores("cuda-fp16", batch, answers, softmax)
    else:
        with pytest.raises(ExportError, match=f"The scores of cuda-fp16 .*{refused}"):
            check_scores("cuda-fp16", batch, answers, softmax)


def test_an_unsure_label_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.check.parity.MOST_SCORE_DIFFERENCE", 1.0)
    answers = [np.array([-0.03, 0.0], np.float32)]
    check_scores("cuda-fp16", Batch([], [np.array([0.015, 0.0], np.float32)]), answers, softmax)
    with pytest.raises(ExportError, match="1 of 1"):
        check_scores("cuda-fp16", Batch([], [np.array([0.03, 0.0], np.float32)]), answers, softmax)


# --- of a bundle, without its checkpoint


@pytest.fixture(params=["bert-single-label", "roberta-fill-mask", "bert-answer", "bert-embed"])
def bundle(request: pytest.FixtureRequest, bundles: Mapping[str, Bundle], tmp_path: Path) -> Bundle:
    """A copy of a bundle to damage."""
    return load_bundle(shutil.copytree(bundles[request.param].folder, tmp_path / request.param))


def rewrite_manifest(bundle: Bundle) -> Bundle:
    """Give a manifest the hashes of the files as they are now."""
    manifest = bundle.manifest
    updated = manifest.model_copy(
        update={
            "golden": describe_file(bundle.path(manifest.golden)),
            "tokenizer": describe_file(bundle.path(manifest.tokenizer)),
            "variants": tuple(
                variant.model_copy(update={"graph": describe_file(bundle.path(variant.graph))})
                for variant in manifest.variants
            ),
        }
    )
    assert isinstance(updated, Manifest)
    (bundle.folder / "manifest.json").write_text(updated.model_dump_json(exclude_none=True))
    return load_bundle(bundle.folder)


def test_whole_bundle(bundle: Bundle) -> None:
    steps: list[str] = []
    measured = verify_bundle(bundle, steps.append)
    assert list(measured) == ["cpu-fp32", "cuda-fp16", "cuda-fp32"]
    assert measured["cpu-fp32"].alone_max_abs_diff == 0.0
    assert 0 < measured["cpu-fp32"].reference_max_abs_diff < 5e-5
    assert steps[-1] == "Checking cuda-fp32"


@pytest.mark.parametrize("file", ["cpu-fp32.onnx", "cuda-fp16.onnx", "cuda-fp32.onnx", "tokenizer.json", "golden.json"])
def test_flipped_bit(bundle: Bundle, file: str) -> None:
    content = bytearray((bundle.folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.folder / file).write_bytes(content)
    with pytest.raises(BundleError, match=f"{file} is not the file that was exported"):
        verify_bundle(bundle, lambda _: None)


def test_golden_answer_that_is_not_the_graphs(bundle: Bundle) -> None:
    golden = json.loads((bundle.folder / "golden.json").read_text())
    case = golden["cases"][3]
    [told] = [case[name] for name in ("logits", "masks", "token_logits", "embedding") if name in case]
    row = told[0]["scores"] if "masks" in case else told[-1] if "token_logits" in case else told
    row[0] += 1e-3
    (bundle.folder / "golden.json").write_text(Golden.model_validate(golden).model_dump_json(exclude_none=True))
    with pytest.raises(ExportError, match=r"cpu-fp32 differs from the reference by 0\.001"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)


def test_tokenizer_that_cuts_otherwise(bundle: Bundle) -> None:
    path = bundle.folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = None
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ExportError, match="tokenizes the golden texts differently"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)


@pytest.mark.parametrize("variant", ["cpu-fp32", "cuda-fp16"])
def test_graph_that_is_no_graph(bundle: Bundle, variant: str) -> None:
    path = bundle.folder / f"{variant}.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ExportError, match=f"{variant}.onnx cannot be loaded"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)
