"""Whether CUDA graphs would pay for one text at a time: the normal run beside the replay of a captured one.

The server does not use them. A replay starts all kernels of a run at once, for inputs of one shape at fixed addresses.
"""

import app.runtime  # noqa: F401, I001 - sets ONNX Runtime up, and must come before it

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from app.bundle.cpus import usable_cpus
from app.bundle.graph_inputs import pack
from app.bundle.manifest import Target
from app.bundle.sequences import TokenSequence
from app.bundle.session import PROVIDERS
from app.runtime.cuda import Cuda
from app.runtime.options import CUDA_OPTIONS, session_options
from app.runtime.staging import StagingBuffer
from benchmarks.batches import random_sequence
from benchmarks.bench import Bench
from benchmarks.load import quantile_ms
from benchmarks.machine import NotRun
from benchmarks.parts.parity import difference
from benchmarks.report import Row

_DTYPES: Final = {
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
}

Replay = Callable[[TokenSequence], Any]


def cuda_graphs(
    bench: Bench, *, model: str = "base", lengths: Sequence[int] = (16, 32, 64, 128), repeats: int = 500
) -> Iterator[Row]:
    """Compare the normal run of one text with the replay of a captured CUDA graph, for each length.

    Raises:
        NotRun: this is not a GPU.
    """
    if bench.device != "cuda":
        raise NotRun("needs CUDA")
    bundle = bench.bundle(model)
    precision = bench.precisions[0]
    runner = bench.runner(model, precision)
    device = Cuda(ort.cuda_version)
    provider_options = CUDA_OPTIONS | {"user_compute_stream": str(device.stream), "enable_cuda_graph": "1"}
    session = ort.InferenceSession(
        bundle.path(runner.variant.graph),
        session_options(usable_cpus(), "cuda"),
        providers=[(PROVIDERS["cuda"], provider_options)],
        enable_fallback=0,
    )
    random = np.random.default_rng(0)
    for graph_id, length in enumerate(lengths, start=1):
        first, *others = [random_sequence(random, bundle, length) for _ in range(3)]
        replay = captured(session, device, "cuda", first, graph_id=graph_id)
        # Of others than it was captured with: a replay that does not read its inputs again would pass with those.
        off = difference([runner.run([one])[0] for one in others], [replay(one) for one in others])
        normal_s, replayed_s = _timed(lambda one: runner.run([one]), replay, first, repeats)
        yield {
            "model": model,
            "precision": precision,
            "tokens": str(length),
            "normal_p50_ms": quantile_ms(np.array(normal_s), 0.5),
            "replayed_p50_ms": quantile_ms(np.array(replayed_s), 0.5),
            "answers_off": off,
            "passed": off <= runner.variant.parity.tolerance,
        }


def captured(session: Any, memory: Cuda, target: Target, first: TokenSequence, *, graph_id: int) -> Replay:  # noqa: ANN401
    """Bind fixed addresses, run once, which captures, and return what runs a sequence of the same length again.

    Args:
        session: A classifier's, on the stream of `memory`.
        memory: The session's device.
        target: The kind of device that the graph was written for.
        first: A sequence of the length.
        graph_id: Tells the captures of one session apart.
    """
    buffer = StagingBuffer(memory)
    dtypes = {node.name: np.dtype(_DTYPES[node.type]) for node in session.get_inputs()}
    binding = session.io_binding()
    for name, one in buffer.write(pack([first], target=target), dtypes).items():
        binding.bind_input(name, memory.name, 0, one.dtype.type, one.shape, one.address)
    [output] = session.get_outputs()
    logits = ort.OrtValue.ortvalue_from_shape_and_type([1, output.shape[1]], _DTYPES[output.type], memory.name, 0)
    binding.bind_ortvalue_output(output.name, logits)
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def replay(sequence: TokenSequence) -> Any:  # noqa: ANN401
        buffer.write(pack([sequence], target=target), dtypes)
        buffer.upload()
        session.run_with_iobinding(binding, options)
        return logits.numpy()[0]

    replay(first)
    return replay


def _timed(
    normal: Callable[[TokenSequence], object], replay: Replay, sequence: TokenSequence, repeats: int
) -> Sequence[list[float]]:
    """Return how long each run took, the two in turns, so that what slows the machine down slows both."""
    durations: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, taken in zip((normal, replay), durations, strict=True):
            started_at = time.perf_counter()
            run(sequence)
            taken.append(time.perf_counter() - started_at)
    return durations
