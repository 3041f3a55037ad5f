"""The graph for the CPU in OpenVINO: the same answers, by the same network, whatever shares a batch. `make openvino-test` runs it."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import pytest

pytest.importorskip("openvino", reason="openvino is not installed: make openvino-test installs it")

from app.bundle.cpus import has_bf16_products
from app.bundle.files import Bundle, load_bundle
from app.bundle.graph_inputs import pack
from app.bundle.sequences import MaskScores, SequenceResult
from app.engine.golden import BF16_TOLERANCE, golden_sequences, replay_golden
from app.runtime import openvino, session
from app.runtime.choice import open_runner
from app.runtime.openvino import bins
from app.runtime.runner import OrtRunner
from benchmarks.batches import sequence
from tests.conftest import BundleOf

MODELS: Final = [
    *(
        "bert-single-label",
        "xlm-roberta-multi-label",
        "electra-single-label",
        "bert-regression",
        "distilbert-embed-cls",
    ),
    *("bert-embed", "bert-embed-dense", "bert-entities", "roberta-answer", "bert-fill-mask", "demo-classify"),
]
needs_bf16 = pytest.mark.skipif(not has_bf16_products(), reason="this processor has no products in bf16")


def values(result: SequenceResult) -> Any:
    return result.scores if isinstance(result, MaskScores) else result


@pytest.fixture
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in fp32, in which a wrong graph shows, on any processor."""
    monkeypatch.setattr(openvino, "PRECISION", "f32")
    monkeypatch.setattr(session, "has_bf16_products", lambda: True)


def both(bundle: Bundle) -> tuple[OrtRunner, OrtRunner]:
    one, other = (open_runner(bundle, device="cpu", precision=precision, threads=[1]) for precision in ("bf16", "fp32"))
    assert (one.variant_name, one.provider.partition(" ")[0]) == ("cpu-bf16", "OpenVINO")
    return one, other


@pytest.mark.usefixtures("in_fp32")
@pytest.mark.parametrize("name", MODELS)
def test_in_fp32_it_answers_as_onnx_runtime_does_in_any_batch(bundle_of: BundleOf, name: str) -> None:
    bundle = load_bundle(bundle_of(name))
    runner, expected = both(bundle)
    sequences = golden_sequences(bundle)
    choice = random.Random(3)
    for size in (1, 2, 3, 7, 20, 60):
        batch = [choice.choice(sequences) for _ in range(size)]
        for one, other in zip(runner.run(batch), expected.run(batch), strict=True):
            # Sums of fp32 in another order: a few units of the seventh digit, which these networks of large weights multiply.
            np.testing.assert_allclose(values(one), values(other), rtol=1e-4, atol=1e-4)


@needs_bf16
@pytest.mark.parametrize("name", MODELS)
def test_bf16_gives_the_golden_answers(bundle_of: BundleOf, name: str) -> None:
    bundle = load_bundle(bundle_of(name))
    runner, exact = both(bundle)
    replay_golden(bundle, runner.variant_name, runner.run)
    batch = golden_sequences(bundle)
    differences = [
        np.abs(values(a) - values(b)).max() for a, b in zip(runner.run(batch), exact.run(batch), strict=True)
    ]
    assert max(differences) > 1e-5  # so it was not fp32


@needs_bf16
def test_nothing_is_sent_anywhere(bundle_of: BundleOf) -> None:
    assert version("openvino-telemetry")  # which would send
    script = """
import sys
from pathlib import Path
sys.addaudithook(lambda event, _: event.startswith("socket.") and print(event))
from app.bundle.files import load_bundle
from app.runtime.choice import open_runner
open_runner(load_bundle(Path(sys.argv[1])), device="cpu", precision="bf16", threads=[1])
print("loaded")
"""
    run = subprocess.run(
        [sys.executable, "-c", script, bundle_of("bert-single-label")], check=True, capture_output=True, text=True
    )
    assert run.stdout == "loaded\n"


@needs_bf16
def test_threads_that_run_batches_at_once_get_their_own_answers(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner, _ = both(bundle)
    batches = [[one] for one in golden_sequences(bundle)]
    alone = [values(*runner.run(batch)).tobytes() for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            assert [values(*one).tobytes() for one in threads.map(runner.run, batches)] == alone


@needs_bf16
def test_a_run_has_one_of_the_numbers_of_threads(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    batch = golden_sequences(bundle)
    runner = open_runner(bundle, device="cpu", precision="bf16", threads=[2, 1])
    assert runner.threads == [1, 2]
    one, two = (np.array([values(each) for each in runner.run(batch, threads)]) for threads in runner.threads)
    np.testing.assert_allclose(one, two, atol=BF16_TOLERANCE)
    runner.keep_threads([1])
    assert runner.threads == [1]
    assert len(runner.run(batch)) == len(batch)


@pytest.mark.parametrize(
    "lengths", [[5], [7, 7, 7], [1, 2, 3, 4, 10], [10, 1, 1, 1, 1, 9, 8, 3], [*range(1, 40)], [300, *[5] * 40]]
)
def test_a_bin_has_whole_sequences_that_see_themselves_alone(lengths: list[int]) -> None:
    feeds = bins(pack([sequence([1] * length) for length in lengths], target="cpu")["group_shape"])
    tokens, mask = (
        feeds["bin_tokens"],
        np.broadcast_to(feeds["bin_mask"], (len(feeds["bin_tokens"]), 1, *[max(lengths)] * 2)),
    )
    packed = np.repeat(np.arange(len(lengths)), sorted(lengths))
    assert tokens.ravel()[feeds["bin_places"]].tolist() == list(range(sum(lengths)))
    assert tokens.shape[1] == max(lengths)
    for place in feeds["bin_places"].tolist():
        row, column = divmod(place, max(lengths))
        seen = tokens[row][mask[row, 0, column] == 0]
        assert seen.tolist() == np.flatnonzero(packed == packed[tokens[row, column]]).tolist()


def test_short_sequences_share_bins() -> None:
    feeds = bins(pack([sequence([1] * length) for length in [300, *[5] * 60]], target="cpu")["group_shape"])
    assert feeds["bin_tokens"].shape == (2, 300)
