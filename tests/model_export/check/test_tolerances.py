"""The checks of an export find what is wrong, and only that."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.bundle.manifest import Parity, Target
from model_export.check.reference import reference_answers, softmax
from model_export.check.tolerances import Batch, ReferenceBatches, check, check_scores, largest_difference
from model_export.checkpoint.network import Network
from model_export.errors import ExportError
from tests.model_export.support import CHECKPOINTS, network_of, sequences_for, written


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
    sequences = sequences_for(CHECKPOINTS / name[network.config.model_type], network, 12)
    batch = Batch(sequences, reference_answers(network, sequences))
    batches = ReferenceBatches(lengths=batch, texts=batch)
    unnoticed = []
    for part, tensor in network.tensors.items():
        if part == "head.output.weight" and network.task.name == "fill-mask" and network.is_tied:
            continue
        changed = {
            key: tensor * np.float32(1.5) if value is tensor else value for key, value in network.tensors.items()
        }
        graph = written(replace(network, tensors=changed), tmp_path / "graph.onnx", target)
        if batches.parity(graph, 1e-4).reference_max_abs_diff <= 1e-4:
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
def test_answers_that_depend_on_the_batch_are_refused(target: Target, difference: float) -> None:
    with pytest.raises(ExportError, match="depend on the other sequences of the batch"):
        check("x", target, parity(alone_max_abs_diff=difference))


def test_largest_difference_of_what_is_not_a_number_is_infinite() -> None:
    one, bad = np.ones(2, np.float32), np.array([1, np.nan], np.float32)
    assert largest_difference([one, one], [one, one + 2]) == 2
    assert largest_difference([one, bad], [one, one]) == np.inf


def test_tolerance_grows_with_the_answers() -> None:
    def batches(answer: float) -> ReferenceBatches:
        batch = Batch([], [np.array([answer], np.float32)])
        return ReferenceBatches(lengths=batch, texts=batch)

    assert batches(0.5).tolerance("fp16") == 5e-3
    assert batches(-20.0).tolerance("fp16") == pytest.approx(0.1)
    assert batches(-8.0).tolerance("fp32") == 1e-4
    assert batches(-80.0).tolerance("fp32") == pytest.approx(8e-4)


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
    monkeypatch.setattr("model_export.check.tolerances.MOST_SCORE_DIFFERENCE", 1.0)
    answers = [np.array([-0.03, 0.0], np.float32)]
    check_scores("cuda-fp16", Batch([], [np.array([0.015, 0.0], np.float32)]), answers, softmax)
    with pytest.raises(ExportError, match="1 of 1"):
        check_scores("cuda-fp16", Batch([], [np.array([0.03, 0.0], np.float32)]), answers, softmax)
