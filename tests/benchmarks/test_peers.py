"""The peers and their engines run, answer as this project's engine does, and are all in the comparison."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.bundle.cpus import has_exact_int8_products
from app.bundle.files import load_bundle
from app.runtime.choice import open_runner
from benchmarks import engines
from benchmarks.batches import token_sequences
from benchmarks.bundles import ExportFailed
from benchmarks.engines import ENGINES, ONNX_RUNTIME, PEERS, opened
from benchmarks.labelled import Sentence
from benchmarks.load import closed_loop
from benchmarks.padded_graph import quantize_padded_graph, write_padded_graph
from benchmarks.parts.accuracy import accuracy
from benchmarks.parts.engines import EQUAL, batches_of_equal_length, rates_in_turns
from benchmarks.servers import DidNotStart, Layout, peers, serving
from tests.conftest import BundleOf
from tests.support import CHECKPOINTS

CHECKPOINT = CHECKPOINTS / "bert-single-label"
TEXTS = [["A good film.", "It broke after a day."], ["I would buy it"]]
PRECISE = 1e-3
"""Of logits, of two graphs in fp32 whose sums are in another order."""
BETWEEN_TEXTS = 0.1
"""Of logits, which differ by more from text to text."""
INT8 = BETWEEN_TEXTS if has_exact_int8_products() else 1.0
"""Of logits. Without VNNI, sums of ONNX Runtime's int8 saturate: it was off by 0.70 with AVX2 alone."""


@pytest.fixture
def bench(bundle_of: BundleOf, tmp_path: Path) -> Any:
    """A small checkpoint as ONNX Runtime's peers have it; no other engine is here."""
    bundle = load_bundle(bundle_of(CHECKPOINT.name))

    def peer_model(_: str, form: str) -> Path:
        path = tmp_path / f"{form}.onnx"
        makers = {"padded-fp32": write_padded_graph, "padded-int8": quantize_padded_graph}
        if form not in makers:
            raise ExportFailed("torch is not installed")
        makers[form](path, CHECKPOINT)
        return path

    return SimpleNamespace(
        rounds=2,
        precisions=("fp32",),
        bundles=SimpleNamespace(
            cache=tmp_path, peer_model=peer_model, checkpoint=lambda _: CHECKPOINT, folder=lambda _: bundle.folder
        ),
        runner=lambda _, precision, threads: open_runner(bundle, device="cpu", precision=precision, threads=[threads]),
    )


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are run in this environment, which has those of ONNX Runtime alone."""
    here = tuple(engine._replace(python=Path(sys.executable)) for engine in ENGINES)
    monkeypatch.setattr("benchmarks.servers.SERVED", here)
    monkeypatch.setattr("benchmarks.servers.ONNX_RUNTIME", here[: len(ONNX_RUNTIME)])
    monkeypatch.setattr(engines, "ENGINES", here)
    monkeypatch.setattr(engines, "has_bf16_products", lambda: True)


def test_engines_answer_alike_and_those_that_are_not_here_are_named(bench: Any) -> None:
    with opened(bench, "small") as (measures, missing):
        assert list(measures) == ["this, cpu-fp32", "ONNX Runtime fp32", "ONNX Runtime int8"]
        ours, padded, int8 = (measure(TEXTS).logits for measure in measures.values())
        assert ours.shape == (3, 3)
        assert np.ptp(ours, axis=0).min() > BETWEEN_TEXTS
        np.testing.assert_allclose(padded, ours, atol=PRECISE)
        assert PRECISE < np.abs(int8 - ours).max() < INT8
        rounds = list(rates_in_turns(bench, "small", measures, {"short": TEXTS}))
    assert [row["engine"] for row in missing] == [engine.title for engine in ENGINES[2:]]
    assert {row["error"] for row in missing} == {"torch is not installed"}
    assert [list(rates) for rates in rounds] == [list(measures)] * 2
    assert all(rate["short"] > 0 for rates in rounds for rate in rates.values())


def test_bf16_is_not_measured_on_a_cpu_that_does_not_multiply_it(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_bf16_products", lambda: False)
    with opened(bench, "small") as (_, missing):
        errors = {row["engine"]: row["error"] for row in missing}
    assert [engine for engine in errors if "this CPU does not multiply bf16" in errors[engine]] == [
        "OpenVINO bf16", "torch bf16", "torch bf16, compiled"
    ]  # fmt: skip


def test_a_peer_serves_an_engine(bench: Any) -> None:
    layout = Layout(1, 2, 1)
    [fastapi] = (one for one in peers(bench, "small", layout) if one.title == f"FastAPI, ONNX Runtime int8, {layout}")
    with serving(fastapi) as running:
        load = closed_loop(running.port, running.requests(TEXTS[0]), count=20, connections=4)
        assert load.is_ok.all()
        status, answer = running.ask("/classify", {"text": TEXTS[0][0]})
    assert (status, '"label":"LABEL_' in answer) == (200, True)


def test_every_engine_is_served_and_has_a_file(bench: Any) -> None:
    assert {engine.module for engine in ENGINES} == {
        path.stem.removesuffix("_engine") for path in PEERS.glob("*_engine.py")
    }
    systems = peers(bench, "small", Layout(16, 1, 2))
    assert {one.name for one in systems if one.engine in {"ONNX Runtime fp32", "ONNX Runtime int8"}} == {
        "mosec", "LitServe", "BentoML", "Ray Serve"
    }  # fmt: skip
    [broken] = (one for one in systems if one.engine == "OpenVINO int8")
    with pytest.raises(DidNotStart, match="torch is not installed"), serving(broken):
        pass


def test_right_and_changed_labels_are_counted_by_source(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for batch in TEXTS for text in batch] * 6
    sentences = [Sentence(text, i % 2 == 0, "movie" if i < 9 else "tweet") for i, text in enumerate(texts)]
    monkeypatch.setattr("benchmarks.parts.accuracy.split", lambda _: ([], sentences))
    rows = [row for row in accuracy(bench, models=("small",), texts=12, timed_texts=2) if "accuracy" in row]
    assert [row["engine"] for row in rows] == [
        "this, cpu-fp32",
        "ONNX Runtime fp32",
        "ONNX Runtime int8",
    ] * bench.rounds
    for row in rows:
        assert row["sentences"] == 12
        assert row["tokens_per_s_16"] > 0
        assert min(row["movie"], row["tweet"]) <= row["accuracy"] <= max(row["movie"], row["tweet"])
    # Answered alone by the same engine, each text has the label that the row counts.
    exact = open_runner(load_bundle(bench.bundles.folder("small")), device="cpu", precision="fp32", threads=[1])
    chosen = [sentences[i] for i in np.random.default_rng(0).permutation(len(sentences))[:12]]
    alone = [exact.run(token_sequences(bench.bundles.folder("small"), [one.text])) for one in chosen]
    labels = np.array(alone, np.float64)[:, 0].argmax(axis=1) > 0
    right = [label == one.is_positive for label, one in zip(labels, chosen, strict=True)]
    assert rows[0]["accuracy"] == pytest.approx(np.mean(right))
    assert [row["changed"] for row in rows[:2]] == [0, 0]


def test_texts_of_a_length_have_as_many_tokens(bench: Any) -> None:
    folder = bench.bundles.folder("small")
    for count, length in EQUAL:
        batches = batches_of_equal_length(folder, count, length, 300)
        assert {len(batch) for batch in batches} == {count}
        assert {len(one) for batch in batches for one in token_sequences(folder, batch)} == {length}
