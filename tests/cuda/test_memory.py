"""What warm-up takes of a GPU's memory is enough for every batch after it: in ONNX Runtime's own arena, whatever comes."""

from typing import Any

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.bundle.manifest import Precision
from app.engine.warmup import run_every_shape
from app.runtime.choice import open_runner
from benchmarks.machine import used_bytes
from benchmarks.parts.memory import random_batch
from tests.cuda.conftest import Gpu, GpuBundleOf

pytestmark = pytest.mark.cuda

BUDGET_TOKENS = 16384
BATCHES = 300
MODELS = ["bert-single-label", "bert-embed", "bert-entities", "bert-fill-mask", "roberta-answer", "bert-multi-label"]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", MODELS)
def test_memory_stays_as_warm_up_left_it(name: str, precision: Precision, gpu: Gpu, gpu_bundle_of: GpuBundleOf) -> None:
    gpu.idle()
    bundle = load_bundle(gpu_bundle_of(name))
    used, before = used_bytes("cuda"), used_bytes("cuda")()
    runner = open_runner(bundle, device="cuda", precision=precision, threads=[1])
    run_every_shape(bundle, runner.run, runner.trim, BUDGET_TOKENS)
    after_warm_up = used()
    assert after_warm_up > before
    random: Any = np.random.default_rng(0)
    for _ in range(BATCHES):
        runner.run(random_batch(random, bundle, BUDGET_TOKENS))
        assert used() == after_warm_up


def test_the_search_for_a_budget_leaves_nothing_behind(gpu: Gpu, gpu_bundle_of: GpuBundleOf) -> None:
    """It runs larger batches than are ever served."""
    gpu.idle()
    bundle = load_bundle(gpu_bundle_of("bert-single-label"))
    used, before = used_bytes("cuda"), used_bytes("cuda")()
    taken = []
    for searched_tokens in (2048, 65536):
        runner = open_runner(bundle, device="cuda", precision="fp16", threads=[1])
        runner.run(random_batch(np.random.default_rng(1), bundle, searched_tokens))
        run_every_shape(bundle, runner.run, runner.trim, 2048)
        taken.append(used() - before)
        del runner
        before = used()
    assert taken[0] == pytest.approx(taken[1], rel=0.05)
