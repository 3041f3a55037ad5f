"""A model on a GPU takes the place of another: what it takes of the memory is taken before it serves, and all of the old one's is freed."""

import asyncio
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from app.bundle.files import Bundle, load_bundle
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.runtime.choice import open_runner
from app.runtime.runner import OrtRunner
from app.telemetry.metrics import Metrics
from benchmarks.machine import used_bytes
from benchmarks.parts.memory import random_batch
from tests.cuda.conftest import Gpu, GpuBundleOf
from tests.support import change_manifest, serving

pytestmark = pytest.mark.cuda

BUDGET_TOKENS = 2048
SWAPS = 4
ON_CUDA = ("--device", "cuda", "--batch-tokens", str(BUDGET_TOKENS))
KEY = "operators-only"
QUESTION = {"inputs": ["The cat sat on the mat.", "It is late."]}


class Watched(OrtRunner):
    """Notes which threads have run a batch."""

    ran_in: set[str]

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]:
        self.ran_in = {*getattr(self, "ran_in", ()), threading.current_thread().name}
        return super().run(batch, threads)


def test_a_model_that_is_loaded_beside_has_run_in_the_thread_that_launches_and_leaves_no_memory(
    gpu: Gpu, gpu_bundle_of: GpuBundleOf
) -> None:
    bundle = load_bundle(gpu_bundle_of("bert-single-label"))
    used = used_bytes("cuda")
    before = used()
    random = np.random.default_rng(0)

    async def swap() -> None:
        engine = LocalEngine()
        metrics = Metrics()

        async def load(*, beside: bool) -> tuple[Loaded, set[str]]:
            runners: list[OrtRunner] = []

            def opened(one: Bundle) -> OrtRunner:
                runner = open_runner(one, device="cuda", precision="fp16", threads=[1])
                runner.__class__ = Watched
                runners.append(runner)
                return runner

            observer = metrics.add_model(bundle.name, bundle.manifest.task)
            admission = Admission(60.0, 60.0)
            one = await engine.load(
                bundle, opened, observer, budget_tokens=BUDGET_TOKENS, admission=admission, beside=beside
            )
            return one, runners.pop().ran_in  # type: ignore[attr-defined]

        async def until_as_before() -> None:
            """The thread of the last batch has it until it has woken the event loop."""
            async with asyncio.timeout(20.0):
                while used() != before:  # noqa: ASYNC110 - that happens in another thread
                    await asyncio.sleep(0.001)

        await load(beside=False)
        await engine.infer(bundle.key, random_batch(random, bundle, BUDGET_TOKENS))
        await engine.release(bundle.key)
        await until_as_before()
        for _ in range(SWAPS):
            _, ran_in = await load(beside=True)
            assert {name.partition("_")[0] for name in ran_in} == {"engine", "loader"}
            after_load = used()
            for _ in range(50):
                await engine.infer(bundle.key, random_batch(random, bundle, BUDGET_TOKENS))
            assert used() == after_load
            await engine.release(bundle.key)
            await until_as_before()
        await engine.close()

    asyncio.run(swap())


def test_memory_of_the_gpu_after_changes_is_that_of_one_model(
    tmp_path: Path, gpu: Gpu, gpu_bundle_of: GpuBundleOf
) -> None:
    models = tmp_path / "models"
    versions = [tmp_path / "one", tmp_path / "other"]
    for version in versions:
        shutil.copytree(gpu_bundle_of("bert-single-label"), version)
    change_manifest(versions[1], source={"checkpoint": "another", "revision": None, "sha256": "0" * 64})
    models.mkdir()
    (models / "a").symlink_to(versions[0])
    with serving(models, *ON_CUDA, "--admin-key", KEY, **gpu.environment) as server:
        expected = server.post("/v1/classify", QUESTION).json
        before = server.metric("bert_gpu_memory_used_bytes")
        told = []
        for i in range(1, SWAPS + 1):
            (models / ".a").symlink_to(versions[i % 2])
            (models / ".a").replace(models / "a")
            headers = {"authorization": f"Bearer {KEY}"}
            reply = server.ask("POST", "/admin/models/a/load", headers=headers)
            assert reply.status == 200, reply.body
            assert server.post("/v1/classify", QUESTION).json == expected
            told.append(server.metric("bert_gpu_memory_used_bytes"))
        assert max(told) <= 1.05 * before, (before, told)
        assert server.metric("bert_model_loads_total", model="a", outcome="loaded") == SWAPS
        assert server.stop() == 0
