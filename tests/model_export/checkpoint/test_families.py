"""Every family and head: transformers, the NumPy reference and the exported graphs give the same answers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from app.bundle.files import Bundle
from app.bundle.sequences import TokenSequence
from model_export.check.reference import reference_answers, softmax
from model_export.check.sequences import checked_sequence
from model_export.export import ExportOptions, export
from model_export.tasks import TASKS
from tests.model_export.support import CHECKPOINTS, NAMES, answered_cases, loaded, network_of, task_of

LOGIT_TOLERANCE = 5e-5
"""Of logits up to 25 in fp32."""

every_checkpoint = pytest.mark.parametrize("name", NAMES)


@every_checkpoint
def test_three_implementations_agree(bundles: Mapping[str, Bundle], name: str) -> None:
    sequences, logits = answered_cases(bundles[name])
    expected = [softmax(rows) for rows in logits] if task_of(name) == "fill-mask" else logits
    reference = reference_answers(network_of(CHECKPOINTS / name, task_of(name)), sequences)
    graph = loaded(bundles[name], "cpu-fp32").answers(sequences)
    for transformers_says, reference_says, graph_says in zip(expected, reference, graph, strict=True):
        np.testing.assert_allclose(reference_says, transformers_says, rtol=0, atol=LOGIT_TOLERANCE)
        np.testing.assert_allclose(graph_says, transformers_says, rtol=0, atol=LOGIT_TOLERANCE)


@every_checkpoint
def test_half_precision_agrees_with_transformers_as_far_as_it_can(bundles: Mapping[str, Bundle], name: str) -> None:
    sequences, logits = answered_cases(bundles[name])
    expected = [softmax(rows) for rows in logits] if task_of(name) == "fill-mask" else logits
    largest = max(1.0, *(float(np.abs(answer).max()) for answer in expected))
    for graph_says, transformers_says in zip(
        loaded(bundles[name], "cuda-fp16").answers(sequences), expected, strict=True
    ):
        np.testing.assert_allclose(graph_says, transformers_says, rtol=0, atol=5e-3 * largest)


@every_checkpoint
def test_every_length_alone_and_in_a_batch_is_the_same_bit_for_bit(bundles: Mapping[str, Bundle], name: str) -> None:
    manifest = bundles[name].manifest
    generator = np.random.default_rng(3)
    mask = TASKS[manifest.task].mask(manifest.special_tokens)
    sequences: list[TokenSequence] = []
    for length in generator.permutation(np.arange(1, manifest.max_length + 1)):
        ids = generator.integers(0, manifest.architecture.vocab_size, length)
        if mask is not None:
            ids[length // 2] = mask.id
        sequences.append(checked_sequence(ids, generator.integers(0, 2, length), mask))
    graph = loaded(bundles[name], "cpu-fp32")
    together = graph.answers(sequences)
    for sequence, answer in zip(sequences, together, strict=True):
        np.testing.assert_array_equal(graph.answers([sequence])[0], answer)


@every_checkpoint
def test_manifest_has_what_was_measured(bundles: Mapping[str, Bundle], name: str) -> None:
    manifest = bundles[name].manifest
    answers = json.loads((CHECKPOINTS / name / "answers.json").read_text())
    assert manifest.task == task_of(name)
    assert answers["task"] in (manifest.task, "zero-shot")
    assert manifest.max_length == answers["max_length"]
    assert [variant.name for variant in manifest.variants] == ["cpu-fp32", "cuda-fp16", "cuda-fp32"]
    cpu, half, cuda = (variant.parity for variant in manifest.variants)
    assert cpu.alone_max_abs_diff == 0.0
    assert 0 < cpu.reference_max_abs_diff < 5e-5
    assert 0 < cuda.reference_max_abs_diff < 5e-5
    assert cpu.tolerance == cuda.tolerance == 1e-4
    assert 1e-4 < half.reference_max_abs_diff <= half.tolerance
    assert cpu.checked_with == "onnxruntime"
    assert half.checked_with == cuda.checked_with == "onnx.reference"


@every_checkpoint
def test_golden_answers_are_varied(bundles: Mapping[str, Bundle], name: str) -> None:
    manifest, cases = bundles[name].manifest, bundles[name].golden.cases
    assert len(cases) >= 10
    assert len({len(case.input_ids) for case in cases}) >= 5
    assert all(len(case.token_type_ids) == len(case.input_ids) <= manifest.max_length for case in cases)
    match task_of(name):
        case "classify" | "next-sentence" | "rerank" as task:
            assert all(len(case.logits or ()) == len(manifest.labels) for case in cases)
            paired = {case.text_pair is not None for case in cases}
            assert paired == ({True, False} if task == "classify" else {True})
        case "fill-mask":
            assert {len(case.masks or ()) for case in cases} == {1, 2}
            best = [mask for case in cases for mask in case.masks or ()]
            assert all(
                len(mask.tokens) == 5 and list(mask.scores) == sorted(mask.scores, reverse=True) for mask in best
            )
        case "entities" | "answer" as task:
            rows = [(len(case.token_logits or ()), {len(row) for row in case.token_logits or ()}) for case in cases]
            assert rows == [(len(case.input_ids), {2 if task == "answer" else len(manifest.labels)}) for case in cases]
            assert {case.text_pair is not None for case in cases} == {task == "answer"}
        case "embed":
            assert {len(case.embedding or ()) for case in cases} == {manifest.dimensions}


@pytest.mark.parametrize(
    ("name", "labels", "problem_type", "position_offset"),
    [
        ("bert-single-label", ("négatif", "neutral", "positive"), "single_label_classification", 0),
        ("xlm-roberta-multi-label", ("toxic", "insult", "threat ⚠", "other"), "multi_label_classification", 2),
        ("camembert-regression", ("LABEL_0",), "regression", 2),
        ("distilbert-two-labels", ("NEGATIVE", "POSITIVE"), "single_label_classification", 0),
        ("distilbert-one-label", ("LABEL_0",), None, 0),
        ("electra-fill-mask", (), None, 0),
        ("bert-next-sentence", ("IS_NEXT", "NOT_NEXT"), None, 0),
        ("roberta-entities", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), None, 2),
        ("roberta-answer", (), None, 2),
        ("bert-embed", (), None, 0),
        ("roberta-rerank", ("LABEL_0",), None, 2),
        ("bert-nli", ("contradiction", "entailment", "neutral"), "single_label_classification", 0),
    ],
)
def test_manifest_describes_the_head(
    bundles: Mapping[str, Bundle], name: str, labels: tuple[str, ...], problem_type: str | None, position_offset: int
) -> None:
    manifest = bundles[name].manifest
    assert (manifest.labels, manifest.problem_type, manifest.position_offset) == (labels, problem_type, position_offset)


@pytest.mark.parametrize(
    ("name", "pooling", "normalizes"),
    [("bert-embed", "mean", True), ("distilbert-embed-cls", "cls", False), ("bert-answer", None, None)],
)
def test_manifest_has_the_settings_of_sentence_transformers(
    bundles: Mapping[str, Bundle], name: str, pooling: str | None, normalizes: bool | None
) -> None:
    manifest = bundles[name].manifest
    assert (manifest.pooling, manifest.normalizes) == (pooling, normalizes)


@pytest.mark.parametrize(
    ("label2id", "entailment"),
    [
        ({"contradiction": 0, "neutral": 1, "entailment": 2}, 2),
        ({"Entailed": 1, "other": 0}, 1),
        ({"entailment": 9}, None),
        ({"positive": 2}, None),
        (None, None),
    ],
)
def test_manifest_has_the_label_that_means_entailment_if_its_name_does_not_tell(
    copy_of: Callable[..., Path], tmp_path: Path, label2id: dict[str, int] | None, entailment: int | None
) -> None:
    folder = copy_of("bert-single-label", label2id=label2id)
    manifest = export(ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"]), lambda _: None)
    assert manifest.entailment == entailment


def test_manifest_has_what_the_server_must_know_of_the_tokenizer(copy_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    stored = json.loads((folder / "tokenizer_config.json").read_text())
    changed = stored | {"truncation_side": "left", "split_special_tokens": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(changed))
    manifest = export(ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"]), lambda _: None)
    assert (manifest.truncation_side, manifest.splits_special_tokens) == ("left", True)
    assert manifest.tokenizer_origin == "tokenizer.json"


def test_manifest_names_special_tokens(bundles: Mapping[str, Bundle]) -> None:
    special = bundles["roberta-fill-mask"].manifest.special_tokens
    assert special.mask is not None
    assert (special.pad.text, special.unknown.text, special.mask.text) == ("<pad>", "<unk>", "<mask>")
    assert (special.pad.id, special.unknown.id, special.mask.id) == (1, 3, 4)
