"""What each choice of the CPU graph buys, next to the matrix products alone: fp32 and int8, on BERT-base with random weights.

Every graph runs the same batches in turn, so that what disturbs the machine disturbs all of them; figures are medians over
rounds, and ratios of one round. Runs in the export environment and needs none of the peers:

    python -m benchmarks.cpu_graph [--threads N] [--budget TOKENS] [--rounds N]

On one thread it counts the processor time of that thread, which other processes hardly change.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from app.bundle.graph_inputs import Feeds, pack
from benchmarks.checkpoints import DEMO, checkpoint
from benchmarks.texts import read_texts
from model_export.checkpoint.config import read_config
from model_export.checkpoint.network import Network
from model_export.checkpoint.tensors import read_network
from model_export.checkpoint.weights import open_weights
from model_export.graph.build import build_graph
from model_export.graph.builder import CONTRIB, Graph
from model_export.graph.cpu import CpuBuilder
from model_export.graph.int8 import MIDDLE, quantize_weight
from model_export.graph.onnx_file import write_onnx
from model_export.tasks import TASKS

CACHE: Final = Path(__file__).parent / "cache"
Run = Callable[[Feeds], object]


class FusedNorms(CpuBuilder):
    """SkipLayerNormalization, as ONNX Runtime's optimizer would have it."""

    def _norm_of_sum(self, x: str, y: str, norm: str) -> str:
        inputs = [x, y, self._weight(f"{norm}.weight"), self._weight(f"{norm}.bias")]
        return self._op("SkipLayerNormalization", inputs, norm, CONTRIB, epsilon=self._epsilon)


class PaddedAttention(CpuBuilder):
    """Attention over the batch padded to its longest sequence, with a mask."""

    def _attend(self, query: str, key: str, value: str, layer: str) -> str:
        parts = [self._op("Gather", [part, "pad_index"], f"{part}.padded", axis=0) for part in (query, key, value)]
        heads, out = self._config.attention_heads, f"{layer}.attention"
        attended = self._op("MultiHeadAttention", [*parts, "", "key_mask"], out, CONTRIB, num_heads=heads)
        rows = self._op("Reshape", [attended, self._row_shape()], f"{out}.rows")
        return self._op("Gather", [rows, "token_index"], f"{out}.packed", axis=0)

    def build(self) -> Graph:
        graph = super().build()
        inputs = {"pad_index": TensorProto.INT64, "key_mask": TensorProto.INT32}
        graph.inputs.extend(
            helper.make_tensor_value_info(name, kind, ["batch", "seq"]) for name, kind in inputs.items()
        )
        graph.inputs.append(helper.make_tensor_value_info("token_index", TensorProto.INT64, ["tokens"]))
        return graph


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--budget", type=int, default=512, help="tokens per batch")
    parser.add_argument("--texts", choices=("reviews", "mix"), default="reviews")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    batches = list(_batches(options.texts, options.budget))[: options.batches]
    tokens = sum(len(feeds["input_ids"]) for feeds in batches)
    network = _network()
    with TemporaryDirectory() as folder:
        graphs: dict[str, Callable[[], Graph]] = {
            "fp32": CpuBuilder(network).build,
            "fp32, SkipLayerNormalization": FusedNorms(network).build,
            "fp32, padded attention": PaddedAttention(network).build,
            "int8": lambda: build_graph(network, target="cpu", precision="int8"),
        }
        runs: dict[str, Run] = {}
        for i, (name, build) in enumerate(graphs.items()):
            path = Path(folder) / f"{i}.onnx"
            write_onnx(build(), path)
            runs[name] = _graph_run(path, options.threads)
        runs["products alone, fp32"] = _products(network, options.threads, is_int8=False)
        runs["products alone, int8"] = _products(network, options.threads, is_int8=True)
        seconds = _measure(runs, batches, options.rounds, options.threads)
    print(f"{options.texts}, {tokens} tokens in {len(batches)} batches, {options.threads} threads\n")
    print("| graph | tokens/s | of fp32 |\n|---|---|---|")
    for name, durations in seconds.items():
        ratio = statistics.median(base / mine for base, mine in zip(seconds["fp32"], durations, strict=True))
        print(f"| {name} | {tokens / statistics.median(durations):.0f} | {ratio:.2f} |")


def _measure(runs: dict[str, Run], batches: Sequence[Feeds], rounds: int, threads: int) -> dict[str, list[float]]:
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(batches[0])  # the first run of a session allocates
    for _ in range(rounds):
        for name, run in runs.items():
            started_at = clock()
            for feeds in batches:
                run(feeds)
            seconds[name].append(clock() - started_at)
    return seconds


def _network() -> Network:
    folder = checkpoint("base", CACHE)
    return read_network(
        "base", read_config(folder), TASKS["classify"], open_weights(folder), tokenizer_tells_types=True
    )


def _batches(texts: str, budget_tokens: int) -> Iterator[Feeds]:
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    batch: list[list[int]] = []
    for encoded in tokenizer.encode_batch(read_texts(texts)):  # type: ignore[arg-type]
        if batch and sum(map(len, batch)) + len(encoded.ids) > budget_tokens:
            yield _feeds(batch)
            batch = []
        batch.append(encoded.ids)
    yield _feeds(batch)


def _feeds(batch: Sequence[Sequence[int]]) -> Feeds:
    batch = sorted(batch, key=len)  # as `pack` does, so that the padded view below is of the same tokens
    lengths = np.array([len(ids) for ids in batch])
    input_ids = np.concatenate(batch)
    feeds = pack(input_ids, np.zeros_like(input_ids), lengths, target="cpu")
    is_token = np.arange(lengths.max()) < lengths[:, None]
    starts = np.cumsum(lengths) - lengths
    feeds["pad_index"] = np.where(is_token, starts[:, None] + np.arange(lengths.max()), 0)
    feeds["key_mask"] = is_token.astype(np.int32)
    feeds["token_index"] = np.flatnonzero(is_token)
    return feeds


def _session(model: Path | bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _graph_run(path: Path, threads: int) -> Run:
    session = _session(path, threads)
    names = [node.name for node in session.get_inputs()]
    return lambda feeds: session.run(None, {name: feeds[name] for name in names})


def _products(network: Network, threads: int, *, is_int8: bool) -> Run:
    """Return what multiplies by every weight of the layers and does nothing else, in one graph."""
    nodes, initializers, outputs = [], [], []
    if is_int8:
        initializers += [
            numpy_helper.from_array(np.ones((), np.float32), "one"),
            numpy_helper.from_array(np.array(MIDDLE, np.uint8), "middle"),
        ]
    for name, weight in network.tensors.items():
        if not name.startswith("layer.") or weight.ndim != 2:
            continue
        x = "wide" if weight.shape[1] == network.config.intermediate_size else "narrow"
        if is_int8:
            rounded, scale = quantize_weight(weight)
            initializers += [numpy_helper.from_array(rounded, name), numpy_helper.from_array(scale, f"{name}.scale")]
            inputs = [x, name, "one", f"{name}.scale", "middle"]
            nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [f"{name}.out"], domain=CONTRIB))
        else:
            initializers.append(numpy_helper.from_array(weight, name))
            nodes.append(helper.make_node("Gemm", [x, name], [f"{name}.out"], transB=1))
        # One row of each leaves, or ONNX Runtime would leave the product out.
        nodes.append(helper.make_node("Gather", [f"{name}.out", "row"], [f"{name}.row"]))
        outputs.append(helper.make_tensor_value_info(f"{name}.row", TensorProto.FLOAT, None))
    initializers.append(numpy_helper.from_array(np.array([0]), "row"))
    kind = TensorProto.UINT8 if is_int8 else TensorProto.FLOAT
    widths = {"narrow": network.config.hidden_size, "wide": network.config.intermediate_size}
    values = [helper.make_tensor_value_info(name, kind, ["tokens", width]) for name, width in widths.items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    graph = helper.make_graph(nodes, "products", values, outputs, initializers)
    session = _session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), threads)
    random = np.random.default_rng(0)
    most = {name: random.integers(0, 256, (4096, width), np.uint8) for name, width in widths.items()}
    given = most if is_int8 else {name: value.astype(np.float32) for name, value in most.items()}

    def run(feeds: Feeds) -> object:
        tokens = len(feeds["input_ids"])
        return session.run(None, {name: value[:tokens] for name, value in given.items()})

    return run


if __name__ == "__main__":
    main()
