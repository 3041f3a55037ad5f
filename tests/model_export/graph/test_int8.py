"""8-bit products: what is rounded how, what that costs, and that a bundle tells."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from app.bundle.files import Bundle
from app.bundle.manifest import Agreement, Task
from model_export.check.comparison import MOST_CHANGED, Comparison, check_agreement, choices, observe
from model_export.check.parity import RunnableGraph, largest_difference, verify_bundle
from model_export.check.samples import random_samples
from model_export.check.sentences import SENTENCES, questions, sentences
from model_export.checkpoint.network import FloatArray
from model_export.checkpoint.tokenizer import read_tokenizer
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from model_export.graph.build import build_graph
from model_export.graph.int8 import quantize_weight, smoothing
from model_export.graph.onnx_file import write_onnx
from tests.model_export.support import CHECKPOINTS, NAMES, loaded, network_of, reference_answers, task_of
from tests.support import DEMO_CHECKPOINT

TASKS: tuple[Task, ...] = ("classify", "fill-mask", "embed")


def quantized(folder: Path, task: Task, path: Path, ranges: Mapping[str, FloatArray]) -> RunnableGraph:
    network = network_of(folder, task)
    write_onnx(build_graph(network, target="cpu", precision="int8", ranges=ranges), path)
    return RunnableGraph(path, target="cpu", task=task, position_offset=network.config.position_offset)


def test_weights_are_rounded_to_the_steps_of_their_output() -> None:
    weight = np.array([[1, -127, 63.6], [0.5, 0.25, 0.1], [0, 0, 0]], np.float32)
    rounded, scale = quantize_weight(weight)
    assert rounded.T.tolist() == [[1, -127, 64], [127, 64, 25], [0, 0, 0]]
    assert (np.abs(rounded.T * scale[:, None] - weight) <= scale[:, None] / 2).all()


def test_smoothing_leaves_channels_up_to_the_median_alone() -> None:
    assert smoothing(np.array([1, 2, 2, 18], np.float32)).tolist() == [1, 1, 1, 3]
    assert smoothing(np.zeros(3, np.float32)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_near_the_reference_and_independent_of_company(name: str, tmp_path: Path) -> None:
    """Sums of integers are exact: nothing is tolerated between alone and in company."""
    folder, task = CHECKPOINTS / name, task_of(name)
    network, tokenizer = network_of(folder, task), read_tokenizer(folder)
    mask = tokenizer.special_tokens.mask
    graph = quantized(folder, task, tmp_path / "graph.onnx", {})
    samples = random_samples(max_length=40, vocab_size=network.config.vocab_size, mask=mask, task=task)
    together = graph.answers(samples)
    expected = reference_answers(network, samples)
    assert 1e-5 < largest_difference(together, expected) < 0.1 * max(1, *(np.abs(e).max(initial=0) for e in expected))
    alone = [graph.answers([sample])[0] for sample in samples]
    assert largest_difference(together, alone) == 0
    assert largest_difference(graph.answers(samples[::-1])[::-1], alone) == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_bundle_tells_how_many_answers_change(task: Task, rounded_bundles: Mapping[str, Bundle]) -> None:
    demo = rounded_bundles[f"demo-{task}"]
    by_name = {variant.name: variant for variant in demo.manifest.variants}
    agreement = by_name["cpu-int8"].agreement
    assert by_name["cpu-fp32"].agreement is None
    assert agreement is not None
    assert agreement.answers > 0.8 * SENTENCES
    assert agreement.changed <= MOST_CHANGED[task] * agreement.answers
    assert by_name["cpu-int8"].graph.size_bytes < 0.6 * by_name["cpu-fp32"].graph.size_bytes
    verify_bundle(demo, lambda _: None)


@pytest.mark.slow
def test_smoothing_brings_answers_nearer_to_fp32(rounded_bundles: Mapping[str, Bundle], tmp_path: Path) -> None:
    """Else it would not be worth its sentences: the demo checkpoint has a channel ten times the others."""
    network = network_of(DEMO_CHECKPOINT, "classify")
    comparison = observe(network, read_tokenizer(DEMO_CHECKPOINT).fast, max_length=128, mask=None)
    plain = quantized(DEMO_CHECKPOINT, "classify", tmp_path / "plain.onnx", {})
    smooth = loaded(rounded_bundles["demo-classify"], "cpu-int8")
    samples = comparison.samples[:64]

    def error(graph: RunnableGraph) -> float:
        answers = [graph.answers(samples[start : start + 16]) for start in range(0, 64, 16)]
        return float(np.std(np.concatenate(answers) - np.stack(comparison.answers[:64])))

    assert error(smooth) < 0.8 * error(plain)


def test_largest_magnitudes_are_those_of_the_reference_encoder() -> None:
    network = network_of(CHECKPOINTS / "bert-single-label", "classify")
    tokenizer = read_tokenizer(CHECKPOINTS / "bert-single-label")
    ranges = observe(network, tokenizer.fast, max_length=32, mask=None).ranges
    norms = {"embeddings_norm"} | {
        f"layer.{i}.{norm}" for i in range(network.config.layers) for norm in ("attention_norm", "output_norm")
    }
    assert set(ranges) == norms
    for norm in norms:
        gain, shift = network.tensors[f"{norm}.weight"], network.tensors[f"{norm}.bias"]
        bound = np.abs(gain) * np.sqrt(network.config.hidden_size) + np.abs(shift)  # of anything normalized
        assert ((ranges[norm] > 0) & (ranges[norm] <= bound)).all()


def test_single_label_changes_when_it_moves_by_more_than_a_twentieth_of_the_range() -> None:
    class Moved(RunnableGraph):
        def __init__(self, by: float) -> None:
            self._by = by

        def answers(self, _: object) -> list[FloatArray]:
            return [np.array([value + self._by], np.float32) for value in (0.0, 1.0, 10.0)]

    expected = [np.array([value], np.float32) for value in (0.0, 1.0, 10.0)]
    comparison = Comparison("classify", [None], expected, {})  # type: ignore[list-item]
    assert comparison.agreement(Moved(0.4)) == Agreement(answers=3, changed=0)
    assert comparison.agreement(Moved(0.6)) == Agreement(answers=3, changed=3)


def test_best_answers_of_each_task() -> None:
    rows = np.array([[9, 0, 0], [0, 1, 2], [3, 0, 0], [0, 9, 0]], np.float32)
    assert [best.argmax() for best in choices("entities", [rows])] == [2, 0]
    assert [best.argmax() for best in choices("answer", [rows, rows[:3]])] == [0, 3, 1, 0, 1, 1]
    assert [best.argmax() for best in choices("fill-mask", [rows[:1], rows[1:]])] == [0, 2, 0, 1]
    assert [best.argmax() for best in choices("next-sentence", list(rows))] == [0, 2, 0, 1]
    # By direction, and to itself nothing is nearest.
    assert [best.argmax() for best in choices("embed", list(rows))] == [2, 3, 0, 1]


def test_too_many_changed_answers_are_refused() -> None:
    check_agreement("cpu-int8", "classify", Agreement(answers=400, changed=4))
    with pytest.raises(ExportError, match=r"5 of 400 best answers \(1\.2%\); 1% .* --keep-inaccurate"):
        check_agreement("cpu-int8", "classify", Agreement(answers=400, changed=5))


def test_inaccurate_variant_stops_the_export_unless_it_is_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "agreement", lambda *_: Agreement(answers=100, changed=50))
    options = ExportOptions(str(CHECKPOINTS / "bert-single-label"), tmp_path / "model", variants=["cpu-int8"])
    with pytest.raises(ExportError, match="cpu-int8 changes 50 of 100 best answers"):
        export(options, lambda _: None)
    assert not (tmp_path / "model").exists()
    kept = ExportOptions(**{name: getattr(options, name) for name in options.__slots__} | {"keeps_inaccurate": True})
    [variant] = export(kept, lambda _: None).variants
    assert variant.agreement == Agreement(answers=100, changed=50)


def test_questions_are_many_and_have_their_answer() -> None:
    asked = questions()
    assert len(set(asked)) == len(asked) == SENTENCES
    assert all(question.removeprefix("What ").rstrip("?") in text for question, text in asked)


def test_sentences_are_many_and_different() -> None:
    texts = sentences()
    assert len(set(texts)) == len(texts) == SENTENCES
    assert sum(pair is not None for _, pair in texts) == SENTENCES // 10
    words = [len(text.split()) for text, _ in texts]
    assert min(words) == 1
    assert max(words) > 25
