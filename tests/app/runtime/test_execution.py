"""Inputs bound to a device's memory: the same answers as from NumPy's, on real graphs and a device that is the host."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from app.bundle.files import Bundle, load_bundle
from app.bundle.graph_inputs import Feeds, pack
from app.bundle.heads import head_of
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.golden import golden_sequences
from app.engine.local import LocalEngine
from app.runtime.choice import open_runner
from app.runtime.execution import DeviceExecution, HostExecution
from app.runtime.runner import OrtRunner
from tests.app.engine.observed import Observed
from tests.app.memory import HostMemory
from tests.conftest import BundleOf

MODELS = ["bert-single-label", "bert-fill-mask", "roberta-fill-mask"]


def session_of(bundle: Bundle) -> Any:
    return ort.InferenceSession(str(bundle.path(bundle.manifest.variants[0].graph)), providers=["CPUExecutionProvider"])


def feeds_of(bundle: Bundle, start: int, count: int) -> tuple[Feeds, list[str]]:
    golden = golden_sequences(bundle)
    batch = [golden[(start + i) % len(golden)] for i in range(count)]
    head = head_of(node.name for node in session_of(bundle).get_outputs())
    assert head is not None
    feeds = pack(batch, target="cpu", position_offset=bundle.manifest.position_offset)
    return feeds | head.inputs(batch, feeds["cls_index"].astype(np.int64)), head.outputs(batch)


def same(one: list[np.ndarray[Any, Any]], other: list[np.ndarray[Any, Any]]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_a_plain_run(bundle_of: BundleOf, name: str) -> None:
    bundle = load_bundle(bundle_of(name))
    session, memory = session_of(bundle), HostMemory()
    plain, bound = HostExecution({1: session}), DeviceExecution(session, memory)
    for count in (1, 20, 3, 60, 1, 7):
        feeds, outputs = feeds_of(bundle, count, count)
        assert same(bound.launch(feeds, outputs)(), plain.launch(feeds, outputs)())
    assert len(memory.uploads) == 6, "one copy a batch"
    assert (len(memory.host), len(memory.device)) == (4, 2), "two buffers, and they are used again"


def test_a_batch_is_launched_while_another_runs(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    session = session_of(bundle)
    plain, bound = HostExecution({1: session}), DeviceExecution(session, HostMemory())
    (first, outputs), (second, _) = feeds_of(bundle, 0, 9), feeds_of(bundle, 3, 15)
    finish_first, finish_second = bound.launch(first, outputs), bound.launch(second, outputs)
    assert same(finish_first(), plain.launch(first, outputs)())
    finish_third = bound.launch(first, outputs)
    assert same(finish_second(), plain.launch(second, outputs)())
    assert same(finish_third(), plain.launch(first, outputs)())


def test_a_third_batch_waits_for_a_buffer(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    bound = DeviceExecution(session_of(bundle), HostMemory())
    feeds, outputs = feeds_of(bundle, 0, 2)
    finish_first = bound.launch(feeds, outputs)
    bound.launch(feeds, outputs)
    launched = threading.Event()

    def third() -> None:
        bound.launch(feeds, outputs)
        launched.set()

    threading.Thread(target=third, daemon=True).start()
    assert not launched.is_set()
    finish_first()
    assert launched.wait(20)


def test_a_failed_run_gives_its_buffer_back(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    memory = HostMemory()
    bound = DeviceExecution(session_of(bundle), memory)
    feeds, outputs = feeds_of(bundle, 0, 4)
    wrong = feeds | {"input_ids": np.full_like(feeds["input_ids"], 10**9)}
    for _ in range(5):
        with pytest.raises(Exception, match=r"(?i)indices|index"):
            bound.launch(wrong, outputs)()
    assert memory.waits == 5, "nothing may still read a buffer that is given back"
    assert len(bound.launch(feeds, outputs)()[0]) == 4


def test_memory_that_runs_out_while_a_buffer_grows_takes_nothing_along(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    bound = DeviceExecution(session_of(bundle), HostMemory(limit=8192))
    small, outputs = feeds_of(bundle, 0, 2)
    large, _ = feeds_of(bundle, 0, 200)
    for _ in range(5):
        with pytest.raises(MemoryError):
            bound.launch(large, outputs)
    assert len(bound.launch(small, outputs)()[0]) == 2


def test_inputs_are_given_in_the_types_of_the_graph(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    session = session_of(bundle)
    feeds, outputs = feeds_of(bundle, 0, 5)
    narrow: Feeds = {name: values.astype(np.int32) for name, values in feeds.items()}
    expected = HostExecution({1: session}).launch(feeds, outputs)()
    for execution in (HostExecution({1: session}), DeviceExecution(session, HostMemory())):
        assert same(execution.launch(narrow, outputs)(), expected)


def test_an_engine_that_launches_ahead_answers_as_the_runner_does(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner = open_runner(bundle, device="cpu", precision="fp32", threads=[1])
    sequences = golden_sequences(bundle)
    alone = [runner.run([one])[0] for one in sequences]
    threads = set()
    launch = OrtRunner.launch

    def told(self: OrtRunner, batch: Sequence[TokenSequence], count: int = 0) -> Callable[[], list[SequenceResult]]:
        finish = launch(self, batch, count)

        def told_too() -> list[SequenceResult]:
            threads.add((launched_in, threading.current_thread().name))
            return finish()

        launched_in = threading.current_thread().name
        return told_too

    monkeypatch.setattr(OrtRunner, "launch", told)
    monkeypatch.setattr(runner, "_execution", DeviceExecution(session_of(bundle), HostMemory()))
    observed = Observed()

    async def serve() -> None:
        engine = LocalEngine()
        await engine.load(bundle, lambda _: runner, observed, budget_tokens=64, admission=Admission(60, 60))
        chosen = [[(i * 7 + j) % len(sequences) for j in range(i % 9 + 1)] for i in range(60)]
        answered = await asyncio.gather(*(engine.infer(bundle.key, [sequences[i] for i in which]) for which in chosen))
        for which, results in zip(chosen, answered, strict=True):
            assert all(same([np.asarray(r)], [np.asarray(alone[i])]) for i, r in zip(which, results, strict=True))
        await engine.close()

    asyncio.run(serve())
    assert ("engine_0", "waiter_0") in threads
    ran = observed.batches
    assert all(a.started_at + a.duration_s <= b.started_at + 1e-9 for a, b in pairwise(ran)), "time is counted once"


def test_an_engine_changes_the_threads_by_its_load_and_no_answer(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.local.usable_cpus", lambda: 2)
    monkeypatch.setattr("app.engine.preparation.useful_threads", lambda _, runner: runner.threads)
    bundle = load_bundle(bundle_of("bert-single-label"))
    runner = open_runner(bundle, device="cpu", precision="fp32", threads=[1, 2])
    sequences = golden_sequences(bundle)
    alone = [runner.run([one], 1)[0] for one in sequences]
    observed = Observed()

    async def serve() -> None:
        engine = LocalEngine()
        await engine.load(bundle, lambda _: runner, observed, budget_tokens=64, admission=Admission(60, 60))

        async def ask(first: int) -> None:
            chosen = [(first + i) % len(sequences) for i in range(5)]
            results = await engine.infer(bundle.key, [sequences[i] for i in chosen])
            assert all(same([np.asarray(r)], [np.asarray(alone[i])]) for i, r in zip(chosen, results, strict=True))

        await ask(0)
        await asyncio.gather(*map(ask, range(40)))
        await engine.close()

    asyncio.run(serve())
    assert observed.batches[0].share == 1.0
    assert {batch.share for batch in observed.batches} == {0.5, 1.0}
