"""The peers serve the same model: their graph answers as this project's does."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from app.bundle.files import load_bundle
from app.runtime.choice import open_runner
from benchmarks.batches import sequence
from benchmarks.checkpoints import SIZES, checkpoint
from benchmarks.padded_graph import write_padded_graph
from model_export.export import ExportOptions, export

LENGTHS = (3, 17, 64, 5)


def test_the_peers_graph_answers_as_the_packed_graph(tmp_path: Path) -> None:
    source = checkpoint("tiny", tmp_path)
    write_padded_graph(tmp_path / "padded.onnx", source)
    export(ExportOptions(str(source), tmp_path / "tiny", variants=["cpu-fp32"], task="classify"), lambda _: None)

    random = np.random.default_rng(0)
    sequences = [random.integers(5, SIZES["tiny"].vocabulary, length) for length in LENGTHS]
    feeds = {
        name: np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    for row, ids in enumerate(sequences):
        feeds["input_ids"][row, : len(ids)] = ids
        feeds["attention_mask"][row, : len(ids)] = 1
    session = ort.InferenceSession(tmp_path / "padded.onnx", providers=["CPUExecutionProvider"])
    [padded] = session.run(None, feeds)

    runner = open_runner(load_bundle(tmp_path / "tiny"), device="cpu", precision="fp32", threads=[1])
    packed = runner.run([sequence(ids) for ids in sequences])
    assert np.ptp(padded, axis=0).min() > 1e-3  # the answers differ from text to text
    np.testing.assert_allclose(padded, np.array(packed), atol=1e-5)
