"""What every engine client keeps, whether its engine is in this process or behind a socket: one suite for both.

The models are real; the device waits and fails when a test says so.
"""

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.files import Bundle, key_of, load_bundle
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.golden import golden_sequences
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, Serving, Speed, Timeline
from app.engine.preparation import prepare
from app.engine.protocols import EngineClient
from app.engine.threads import stuck_after_s
from app.errors import (
    BundleError,
    DeadlineExceeded,
    EngineLost,
    Internal,
    NotReady,
    Overloaded,
    Replaced,
    ServiceError,
)
from app.ipc.engine_server import EngineServer
from app.ipc.remote_engine import RemoteEngine
from app.runtime.runner import OrtRunner
from tests.app.engine.observed import Observed
from tests.app.loaded import loaded as loaded_as
from tests.conftest import BundleOf

WITHIN_S = 20.0
CLASSIFY, FILL_MASK = "bert-single-label", "bert-fill-mask"
POISON = 399


class Device:
    """Runs a model, unless it is held, lost, or given the poison."""

    provider = "CPUExecutionProvider"
    variant_name = "cpu-fp32"
    threads: Sequence[int] = ()  # one batch at a time, as on a GPU
    launches_ahead = False

    def __init__(self, bundle: Bundle) -> None:
        self._runner = OrtRunner(bundle, bundle.manifest.variants[0], threads=[1])
        self._may_run = threading.Event()
        self._may_run.set()
        self.batches: list[list[int]] = []
        self.is_lost = False
        self.hold, self.release = self._may_run.clear, self._may_run.set

    def keep_threads(self, threads: Sequence[int]) -> None: ...

    def launch(self, batch: Sequence[TokenSequence], threads: int = 0) -> Callable[[], list[SequenceResult]]:
        return lambda: self.run(batch, threads)

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        return self.run(batch)

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]:
        assert not threads
        self.batches.append([len(sequence) for sequence in batch])
        assert self._may_run.wait(WITHIN_S), "the test never released the device"
        if self.is_lost:
            raise EngineLost("The device failed. Retry in a few seconds.")
        if any(POISON in sequence.input_ids for sequence in batch):
            raise ValueError("poison")
        return self._runner.run(batch)


@dataclass
class Bench:
    """An engine with two models, as its client sees it."""

    client: EngineClient
    local: LocalEngine
    devices: dict[str, Device]
    observed: dict[str, Observed]
    loaded: dict[str, Loaded] = field(default_factory=dict)

    @property
    def device(self) -> Device:
        return self.devices[CLASSIFY]

    def key(self, name: str = CLASSIFY) -> str:
        return key_of(name, self.loaded[name].identity)

    def ask(self, *lengths: int, model: str = CLASSIFY) -> "asyncio.Task[list[SequenceResult]]":
        return asyncio.ensure_future(self.client.infer(self.key(model), [sequence(length) for length in lengths]))

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():  # noqa: ASYNC110 - some of what is waited for happens in other threads
                await asyncio.sleep(0.001)

    async def hold(self) -> "asyncio.Task[list[SequenceResult]]":
        """Hold the device amid a request, which is returned."""
        before = len(self.device.batches)
        self.device.hold()
        running = self.ask(3)
        await self.until(lambda: len(self.device.batches) > before)
        return running

    async def until_waiting(self, sequences: int) -> None:
        """Wait until so much is queued behind what runs."""
        await self.until(lambda: self.local.statistics()[self.key()].sequences == sequences)


def sequence(length: int, *, poisoned: bool = False) -> TokenSequence:
    """[CLS] and other tokens by their number, and the poison."""
    ids = np.arange(2, length + 2, dtype=np.int32)
    if poisoned:
        ids[-1] = POISON
    return TokenSequence(ids, np.zeros(length, np.int32))


def listed(results: Sequence[SequenceResult]) -> list[Any]:
    return [
        (one.tokens.tolist(), one.scores.tolist()) if isinstance(one, MaskScores) else one.tolist() for one in results
    ]


@asynccontextmanager
async def loaded(bundle_of: BundleOf, **options: Any) -> AsyncIterator[Bench]:
    local = LocalEngine()
    options.setdefault("budget_tokens", 64)
    options.setdefault("admission", Admission(600, 600))
    bench = Bench(local, local, {}, {})
    for name in (CLASSIFY, FILL_MASK):
        bench.observed[name] = Observed()

        def open_device(bundle: Bundle, name: str = name) -> Device:
            bench.devices[name] = Device(bundle)
            return bench.devices[name]

        bundle = load_bundle(bundle_of(name))
        bench.loaded[name] = await local.load(bundle, open_device, bench.observed[name], **options)
        bench.devices[name].batches.clear()
    try:
        yield bench
    finally:
        for device in bench.devices.values():
            device.release()
        await local.close()


@asynccontextmanager
async def in_this_process(bundle_of: BundleOf, **options: Any) -> AsyncIterator[Bench]:
    async with loaded(bundle_of, **options) as bench:
        yield bench


@asynccontextmanager
async def behind_a_socket(bundle_of: BundleOf, **options: Any) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.sock"
        async with loaded(bundle_of, **options) as bench:
            connected = asyncio.Event()
            client = RemoteEngine(
                path,
                admission=options.get("admission", Admission(600, 600)),
            )

            async def prepare(key: str) -> None:
                pytest.fail(f"no bundle was to be prepared: {key}")

            async def found(serving: Serving) -> None:
                assert serving.models == bench.loaded
                connected.set()

            connecting = client.stay_connected(prepare, found, connected.clear)
            tasks = [
                asyncio.create_task(EngineServer(bench.local, Serving(bench.loaded)).serve(path)),
                asyncio.create_task(connecting),
            ]
            try:
                async with asyncio.timeout(WITHIN_S):
                    await connected.wait()
                bench.client = client
                yield bench
            finally:
                for task in reversed(tasks):
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)


WithEngine = Callable[..., None]


@pytest.fixture(params=[in_this_process, behind_a_socket], ids=["in this process", "behind a socket"])
def with_engine(request: pytest.FixtureRequest, bundle_of: BundleOf) -> WithEngine:
    """Run a test against an engine of each kind."""

    def run(test: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(3 * WITHIN_S), request.param(bundle_of, **options) as bench:
                await test(bench)

        asyncio.run(main())

    return run


def test_answers_are_bit_identical_to_the_runners(with_engine: WithEngine, bundle_of: BundleOf) -> None:
    async def test(bench: Bench) -> None:
        asked = [
            (name, one)
            for name in (CLASSIFY, FILL_MASK)
            for one in golden_sequences(load_bundle(bundle_of(name)))
            for _ in range(5)
        ]
        targets = np.array([5, 17, 300])
        asked += [
            (name, TokenSequence(one.input_ids, one.token_type_ids, one.masks, 2, targets))
            for name, one in asked
            if name == FILL_MASK
        ]
        expected = [listed(bench.devices[name].run([one])) for name, one in asked]
        answers = await asyncio.gather(*(bench.client.infer(bench.key(name), [one]) for name, one in asked))
        assert [listed(answer) for answer in answers] == expected

    with_engine(test)


def test_a_request_with_many_texts_is_answered_in_order(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        lengths = [3, 40, 7, 7, 1, 20] * 20
        alone = {length: listed(bench.device.run([sequence(length)]))[0] for length in set(lengths)}
        assert listed(await bench.ask(*lengths)) == [alone[length] for length in lengths]
        assert max(sum(batch) for batch in bench.device.batches) <= 64

    with_engine(test)


def test_requests_that_wait_for_the_device_share_a_batch(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        running = await bench.hold()
        waiting = [bench.ask(length) for length in (5, 6, 7)]
        await bench.until_waiting(3)
        bench.device.release()
        await asyncio.gather(running, *waiting)
        assert bench.device.batches == [[3], [5, 6, 7]]
        ran = bench.observed[CLASSIFY].batches
        assert [(batch.sequences, batch.tokens, batch.longest) for batch in ran] == [(1, 3, 3), (3, 18, 7)]

    with_engine(test)


def test_models_take_turns_on_the_device(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        running = await bench.hold()
        mask = TokenSequence(np.array([2, 4, 3], np.int32), np.zeros(3, np.int32), np.array([1], np.int32), 1)
        other = asyncio.ensure_future(bench.client.infer(bench.key(FILL_MASK), [mask]))
        await bench.until(lambda: bench.local.statistics()[bench.key(FILL_MASK)].sequences == 1)
        assert not bench.devices[FILL_MASK].batches
        bench.device.release()
        await asyncio.gather(running, other)
        assert bench.devices[FILL_MASK].batches == [[3]]

    with_engine(test)


def test_a_full_queue_refuses_at_once(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        bench.device.hold()
        waiting = bench.ask(*[40] * 500)
        await bench.until(lambda: bench.device.batches)
        with pytest.raises(Overloaded, match="Retry-After") as refused:
            await bench.ask(3)
        assert refused.value.retry_after_s >= 1
        bench.device.release()
        assert len(await waiting) == 500
        assert len(await bench.ask(3)) == 1

    with_engine(test, admission=Admission(1e-6, 600))


def test_check_refuses_what_infer_would_refuse(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        def is_refused(sequences: int) -> bool:
            try:
                bench.client.check(bench.key(), sequences)
            except Overloaded:
                return True
            return False

        assert not is_refused(512)
        bench.device.hold()
        waiting = bench.ask(*[40] * 500)
        await bench.until(lambda: bench.device.batches)
        await bench.until(lambda: is_refused(1))
        with pytest.raises(Overloaded, match="Retry-After"):
            bench.client.check(bench.key(), 1)
        bench.device.release()
        await waiting
        await bench.until(lambda: not is_refused(512))

    with_engine(test, admission=Admission(1e-6, 600))


def test_late_requests_fail_even_if_the_device_is_stuck(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        late = [await bench.hold(), bench.ask(5), bench.ask(6, 7)]
        for request in late:
            with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
                await request
        bench.device.release()
        await bench.until(lambda: bench.observed[CLASSIFY].batches)
        assert bench.device.batches == [[3]]

    with_engine(test, admission=Admission(600, 0.05))


def test_a_device_that_never_comes_back_is_lost(
    with_engine: WithEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.engine.threads.STUCK_S", 0.05)

    async def test(bench: Bench) -> None:
        running = await bench.hold()
        with pytest.raises((DeadlineExceeded, EngineLost)):
            await running
        assert isinstance(await bench.local.lost, EngineLost)
        with pytest.raises(EngineLost, match="Retry"):
            await bench.ask(3)
        assert "the device is stuck" in caplog.text

    with_engine(test, admission=Admission(600, 0.05))


def test_a_request_without_sequences_fails_alone(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(Internal, match="without sequences"):
            await bench.client.infer(bench.key(), [])
        assert len(await bench.ask(3)) == 1

    with_engine(test)


def test_a_process_that_was_stopped_does_not_take_its_device_for_stuck(bundle_of: BundleOf) -> None:
    """As a paused container is, or a laptop that sleeps: the clock goes on."""
    hours = count(start=time.monotonic(), step=3600.0)
    asked: list[float] = []

    def clock() -> float:
        asked.append(next(hours))
        return asked[-1]

    async def main() -> None:
        async with asyncio.timeout(WITHIN_S), loaded(bundle_of) as bench:
            running = await bench.hold()
            bench.local._clock = clock
            await bench.until(lambda: len(asked) > 3)
            assert not bench.local.lost.done()
            bench.device.release()
            assert len(await running) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("timeout_s", "full_batch_s", "expected_s"), [(1.0, 0.1, 60.0), (300.0, 0.1, 600.0), (1.0, 15.0, 300.0)]
)
def test_a_slow_device_is_not_taken_for_stuck(timeout_s: float, full_batch_s: float, expected_s: float) -> None:
    assert stuck_after_s(timeout_s, full_batch_s) == expected_s


def remote(bench: Bench) -> RemoteEngine:
    assert isinstance(bench.client, RemoteEngine)
    return bench.client


def test_the_front_end_fails_late_requests_if_the_engine_does_not(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ipc.remote_engine.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("app.ipc.remote_engine.LATE_S", 0.0)

    async def main() -> None:
        async with asyncio.timeout(WITHIN_S), behind_a_socket(bundle_of) as bench:
            remote(bench)._admission = Admission(600, 0.01)
            bench.device.hold()
            for late in [bench.ask(3), bench.ask(5, 6)]:
                with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
                    await late
            await bench.until(lambda: bench.observed[CLASSIFY].cancellations == 2)  # they were withdrawn
            bench.device.release()

    asyncio.run(main())


def test_a_cancelled_request_is_withdrawn(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        running = await bench.hold()
        gone, stays = bench.ask(5, 6), bench.ask(7)
        await bench.until_waiting(3)
        gone.cancel()
        await bench.until_waiting(1)
        bench.device.release()
        await asyncio.gather(running, stays)
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert bench.device.batches == [[3], [7]]
        assert bench.observed[CLASSIFY].cancellations == 1

    with_engine(test)


def test_a_request_may_be_cancelled_before_it_is_sent(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        gone = bench.ask(5)
        await asyncio.sleep(0)
        gone.cancel()
        assert len(await bench.ask(3)) == 1
        with pytest.raises(asyncio.CancelledError):
            await gone

    with_engine(test)


def test_a_poisoned_sequence_fails_alone(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        expected = listed(bench.device.run([sequence(5)]))
        running = await bench.hold()
        good = [bench.ask(5), bench.ask(5)]
        bad = asyncio.ensure_future(bench.client.infer(bench.key(), [sequence(5), sequence(6, poisoned=True)]))
        await bench.until_waiting(4)
        bench.device.release()
        with pytest.raises(Internal, match=r"inputs\[1\]"):
            await bad
        assert [listed(await one) for one in good] == [expected] * 2
        await running
        assert listed(await bench.ask(5)) == expected

    with_engine(test)


def test_a_lost_device_fails_every_request(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        waiting = [await bench.hold(), *(bench.ask(length) for length in (5, 6, 7))]
        await bench.until_waiting(3)
        mask = TokenSequence(np.array([2, 4, 3], np.int32), np.zeros(3, np.int32), np.array([1], np.int32), 1)
        waiting.append(asyncio.ensure_future(bench.client.infer(bench.key(FILL_MASK), [mask])))
        await bench.until(lambda: bench.local.statistics()[bench.key(FILL_MASK)].sequences == 1)
        bench.device.is_lost = True
        bench.device.release()
        for request in waiting:
            with pytest.raises(EngineLost, match="Retry"):
                await request
        for model in (CLASSIFY, FILL_MASK):
            with pytest.raises(EngineLost, match="Retry"):
                await bench.ask(3, model=model)
        assert isinstance(await bench.local.lost, EngineLost)

    with_engine(test)


def test_statistics_count_what_waits(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        def queued() -> tuple[int, int]:
            queue = bench.local.statistics()[bench.key()]
            return queue.sequences, queue.tokens

        running = await bench.hold()
        waiting = bench.ask(5, 6, 7)
        await bench.until(lambda: queued() == (3, 18))
        assert bench.local.statistics()[bench.key()].wait_s(1) > 0
        assert bench.local.statistics()[bench.key(FILL_MASK)].sequences == 0
        await bench.until(lambda: any(queue.tokens == 18 for queue in bench.observed[CLASSIFY].queues))
        bench.device.release()
        await asyncio.gather(running, waiting)
        await bench.until(lambda: queued() == (0, 0))

    with_engine(test)


def test_a_timeline_follows_a_request(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        running = await bench.hold()
        timeline = Timeline()
        traced = asyncio.ensure_future(bench.client.infer(bench.key(), [sequence(40), sequence(30)], timeline))
        await bench.until_waiting(2)
        bench.device.release()
        await asyncio.gather(running, traced)
        assert timeline.admitted_at is not None
        assert timeline.started_at is not None
        assert [run.tokens for run in timeline.runs] == [40, 30]
        times = [timeline.admitted_at, timeline.started_at, *(run.started_at for run in timeline.runs)]
        assert times == sorted(times)

    with_engine(test)


def test_closing_answers_what_was_admitted_and_takes_no_more(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        waiting = [await bench.hold(), bench.ask(5), bench.ask(6, 7)]
        await bench.until_waiting(3)
        closing = asyncio.ensure_future(bench.local.close())
        await asyncio.sleep(0)
        assert not closing.done()
        bench.device.release()
        assert [len(await request) for request in waiting] == [1, 1, 2]
        await closing

        async def is_over() -> bool:
            try:
                await bench.client.infer(bench.key(), [sequence(3)])
            except (NotReady, EngineLost):
                return True
            return False

        async with asyncio.timeout(WITHIN_S):
            while not await is_over():
                pass

    with_engine(test)


def test_requests_of_a_front_end_that_disconnects_are_withdrawn(bundle_of: BundleOf) -> None:
    async def main() -> None:
        async with asyncio.timeout(WITHIN_S), behind_a_socket(bundle_of) as bench:
            running = await bench.hold()
            waiting = bench.ask(5, 6)
            await bench.until_waiting(2)
            client = bench.client
            assert isinstance(client, RemoteEngine)
            assert client._writer is not None
            client._writer.transport.abort()
            for request in (running, waiting):
                with pytest.raises(EngineLost):
                    await request
            await bench.until_waiting(0)
            bench.device.release()

    asyncio.run(main())


def test_a_bundle_that_the_engine_does_not_have_gets_no_answer(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(Replaced):
            await bench.client.infer(key_of(CLASSIFY, "another"), [sequence(3)])

    with_engine(test)


def test_a_released_bundle_answers_what_it_has_and_no_more(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        running = await bench.hold()
        releasing = asyncio.create_task(bench.local.release(bench.key()))
        late = bench.ask(3)  # of a front end that has not gone over yet
        await bench.until(lambda: bench.local.statistics()[bench.key()].sequences == 1)
        bench.device.release()
        assert [len(answers) for answers in await asyncio.gather(running, late)] == [1, 1]
        await releasing
        with pytest.raises(Replaced):
            await bench.ask(3)
        assert len(await bench.ask(3, model=FILL_MASK)) == 1

    with_engine(test)


def test_an_engine_that_ends_takes_no_more_front_ends(bundle_of: BundleOf) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "engine.sock"
            async with asyncio.timeout(WITHIN_S), loaded(bundle_of) as bench:
                server = EngineServer(bench.local, Serving(bench.loaded))
                serving = asyncio.create_task(server.serve(path))
                await bench.until(path.exists)
                await server.until_alone()
                with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
                    await asyncio.open_unix_connection(str(path))
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("error", [BundleError("broken"), RuntimeError("out of memory")])
def test_a_model_that_cannot_be_loaded_is_not_served(bundle_of: BundleOf, error: Exception) -> None:
    def fail(_: Bundle) -> Device:
        raise error

    async def main() -> None:
        engine = LocalEngine()
        with pytest.raises(type(error)) as raised:
            await engine.load(
                load_bundle(bundle_of(CLASSIFY)), fail, Observed(), budget_tokens=64, admission=Admission(1, 1)
            )
        assert raised.value is error
        assert not engine.statistics()
        assert not engine.lost.done()
        await engine.close()

    asyncio.run(main())


def test_a_sequence_without_tokens_is_refused_and_the_engine_lives(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        for asked in ([sequence(0)], [sequence(3), sequence(0)]):
            with pytest.raises(Internal, match="without tokens"):
                await bench.client.infer(bench.key(), asked)
        assert len(await bench.client.infer(bench.key(), [sequence(3)])) == 1

    with_engine(test)


def test_every_error_of_an_engine_crosses_the_socket(with_engine: WithEngine) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(ServiceError) as raised:
            await bench.client.infer(bench.key(), [sequence(6, poisoned=True)])
        assert raised.value.status == 500
        assert "poison" not in raised.value.message

    with_engine(test)


@pytest.mark.parametrize("launches_ahead", [True, False])
def test_the_budget_of_a_gpu_is_searched_as_that_of_a_gpu(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, launches_ahead: bool
) -> None:
    asked: list[bool] = []

    def measure(*_: Any, on_gpu: bool, **__: Any) -> Speed:
        asked.append(on_gpu)
        return Speed(64, 1e-5, [(1, 1e-5)])

    monkeypatch.setattr("app.engine.preparation.measure_speed", measure)
    bundle = load_bundle(bundle_of(CLASSIFY))
    device = Device(bundle)
    device.launches_ahead = launches_ahead

    async def load() -> Loaded:
        engine = LocalEngine()
        loaded = await engine.load(
            bundle, lambda _: device, Observed(), budget_tokens=None, admission=Admission(60, 60)
        )
        await engine.close()
        return loaded

    assert asyncio.run(load()).speed.budget_tokens == 64
    assert asked == [launches_ahead]


@pytest.mark.parametrize(("threads", "measures"), [([], False), ([2], True)])
def test_the_speed_of_a_model_that_runs_as_before_is_reused(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, threads: list[int], measures: bool
) -> None:
    measured: list[Bundle] = []

    def measure(bundle: Bundle, *_: Any, **__: Any) -> Speed:
        measured.append(bundle)
        return Speed(128, 1e-5, [(128, 128e-5)])

    monkeypatch.setattr("app.engine.preparation.measure_speed", measure)
    bundle = load_bundle(bundle_of(CLASSIFY))
    before = loaded_as(96, threads=threads, seconds_per_token=2e-5)

    async def load() -> Loaded:
        engine = LocalEngine()
        loaded = await engine.load(
            bundle, Device, Observed(), budget_tokens=None, admission=Admission(60, 60), previous=before
        )
        await engine.close()
        return loaded

    loaded = asyncio.run(load())
    assert bool(measured) == measures
    assert (loaded.speed.budget_tokens, loaded.speed.seconds_per_token) == ((128, 1e-5) if measures else (96, 2e-5))


@pytest.mark.parametrize(
    ("is_same", "launches_ahead", "batches"), [(True, False, 1), (True, True, None), (False, False, None)]
)
def test_golden_answers_are_compared_in_one_batch_if_the_same_model_has_run_on_this_cpu(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, is_same: bool, launches_ahead: bool, batches: int | None
) -> None:
    """A GPU may be at fault for why the engine before was lost."""
    monkeypatch.setattr("app.engine.preparation.run_every_shape", lambda *_: None)
    bundle = load_bundle(bundle_of(CLASSIFY))
    device = Device(bundle)
    device.launches_ahead = launches_ahead
    before = loaded_as(96, identity=bundle.identity if is_same else "another")
    prepare(bundle, lambda _: device, budget_tokens=None, previous=before)
    each_alone = len(bundle.golden.cases) + 1  # and the longest text
    assert len(device.batches) == (1 + each_alone if batches is None else batches)
