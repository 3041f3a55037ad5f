"""How fast the device multiplies matrices through ONNX Runtime: what a model's own products are held against."""

import app.runtime  # noqa: F401, I001 - sets ONNX Runtime up, and must come before it

import time
from typing import Final

import numpy as np
import onnxruntime as ort

from app.bundle.manifest import Precision, Target
from app.bundle.session import PROVIDERS
from app.runtime.options import CUDA_OPTIONS
from benchmarks.bundles import Bundles
from benchmarks.machine import NotRun

PRODUCTS: Final = 8
"""Of one run, so that what a run costs besides is lost in them."""
ROUNDS: Final = 5
"""The fewest."""
_TYPES: Final = {"fp16": np.float16, "fp32": np.float32}


def matrix_rate(bundles: Bundles, *, device: Target, precision: Precision, side: int, hold_s: float) -> float:
    """Return the floating-point operations per second over some seconds; nothing is copied from or to the host meanwhile.

    Raises:
        NotRun: the session fell back to another device.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if device == "cuda":
        ort.preload_dlls()
    provider = (PROVIDERS[device], dict(CUDA_OPTIONS) if device == "cuda" else {})
    session = ort.InferenceSession(
        bundles.products(precision, PRODUCTS), options, providers=[provider], enable_fallback=0
    )
    if session.get_providers()[0] != PROVIDERS[device]:
        raise NotRun(f"the matrix products do not run on {PROVIDERS[device]}")
    random = np.random.default_rng(0)
    kind = _TYPES[precision]
    x = random.standard_normal((side, side), np.float32)
    # Keeps the size of what comes out: zeros and infinities take less power, and a card that takes less is faster.
    w = random.standard_normal((side, side), np.float32) / np.float32(np.sqrt(side))
    binding = session.io_binding()
    for name, values in (("x", x), ("w", w)):
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values.astype(kind), device, 0))
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_shape_and_type([side, side], kind, device, 0))
    for _ in range(2):
        session.run_with_iobinding(binding)
    runs, started_at = 0, time.perf_counter()
    while runs < ROUNDS or time.perf_counter() - started_at < hold_s:
        session.run_with_iobinding(binding)
        runs += 1
    return runs * PRODUCTS * 2 * side**3 / (time.perf_counter() - started_at)
