"""8-bit products: how they are rounded, what that costs, and what the bundle says of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from app.bundle.files import Bundle
from app.bundle.manifest import Agreement
from app.bundle.sequences import FloatArray
from model_export.check.agreement import Comparison, observe
from model_export.check.reference import reference_answers
from model_export.check.runnable_graph import RunnableGraph
from model_export.check.tolerances import largest_difference
from model_export.checkpoint.load import load_checkpoint
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from model_export.graph.build import build_graph
from model_export.graph.int8 import quantize_weight, smoothing
from model_export.graph.onnx_file import write_onnx
from model_export.tasks import TASKS
from model_export.verify import verify_bundle
from tests.model_export.support import CHECKPOINTS, NAMES, loaded, network_of, sequences_for, task_of
from tests.support import DEMO_CHECKPOINT

DEMO_TASKS = ("classify", "fill-mask", "next-sentence", "embed")


def quantized(folder: Path, task: str, path: Path, ranges: Mapping[str, FloatArray]) -> RunnableGraph:
    network = network_of(folder, task)
    write_onnx(build_graph(network, target="cpu", precision="int8", ranges=ranges), path)
    return RunnableGraph(path, target="cpu", position_offset=network.config.position_offset)


def test_weights_are_rounded_to_the_steps_of_their_output() -> None:
    weight = np.array([[1, -127, 63.6], [0.5, 0.25, 0.1], [0, 0, 0]], np.float32)
    rounded, scale = quantize_weight(weight)
    assert rounded.T.tolist() == [[1, -127, 64], [127, 64, 25], [0, 0, 0]]
    assert (np.abs(rounded.T * scale[:, None] - weight) <= scale[:, None] / 2).all()


def test_smoothing_leaves_channels_up_to_the_median_alone() -> None:
    assert smoothing(np.array([1, 2, 2, 18], np.float32)).tolist() == [1, 1, 1, 3]
    assert smoothing(np.zeros(3, np.float32)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_near_the_reference_and_the_same_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    """Sums of integers are exact: no difference is allowed between alone and in a batch."""
    folder, task = CHECKPOINTS / name, task_of(name)
    network = network_of(folder, task)
    graph = quantized(folder, task, tmp_path / "graph.onnx", {})
    sequences = sequences_for(folder, network, 40)
    together = graph.answers(sequences)
    expected = reference_answers(network, sequences)
    assert 1e-5 < largest_difference(together, expected) < 0.1 * max(1, *(np.abs(e).max(initial=0) for e in expected))
    alone = [graph.answers([sequence])[0] for sequence in sequences]
    assert largest_difference(together, alone) == 0
    assert largest_difference(graph.answers(sequences[::-1])[::-1], alone) == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", DEMO_TASKS)
def test_manifest_has_how_many_answers_change(task: str, rounded_bundles: Mapping[str, Bundle]) -> None:
    demo = rounded_bundles[f"demo-{task}"]
    by_name = {variant.name: variant for variant in demo.manifest.variants}
    agreement = by_name["cpu-int8"].agreement
    assert by_name["cpu-fp32"].agreement is None
    assert agreement is not None
    assert agreement.answers > 360
    assert agreement.changed <= TASKS[task].most_changed * agreement.answers
    assert by_name["cpu-int8"].graph.size_bytes < 0.6 * by_name["cpu-fp32"].graph.size_bytes
    verify_bundle(demo, lambda _: None)


@pytest.mark.slow
def test_smoothing_brings_answers_nearer_to_fp32(rounded_bundles: Mapping[str, Bundle], tmp_path: Path) -> None:
    """The demo checkpoint has a channel ten times as large as the others."""
    checkpoint = load_checkpoint(
        str(DEMO_CHECKPOINT), None, task="classify", pooling="auto", max_length=128, warn=print
    )
    comparison = observe(checkpoint)
    plain = quantized(DEMO_CHECKPOINT, "classify", tmp_path / "plain.onnx", {})
    smooth = loaded(rounded_bundles["demo-classify"], "cpu-int8")
    starts = range(0, len(comparison.batch), 16)

    def error(graph: RunnableGraph) -> float:
        answers = [graph.answers(comparison.batch[start : start + 16]) for start in starts]
        return float(np.std(np.concatenate(answers) - np.stack(comparison.answers)))

    assert error(smooth) < 0.9 * error(plain)  # 0.83 times; of the first 64 sentences alone it is 1.05 times


def test_inaccurate_variant_stops_the_export_unless_it_is_kept_on_request(
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
