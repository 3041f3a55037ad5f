"""What becomes of large requests while all threads that tokenize are busy."""

import asyncio
import gc
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from app.bundle.files import load_bundle
from app.errors import Overloaded
from app.http.api import Limits, Served
from app.http.callers import Callers
from app.http.finished import Finished
from app.http.inference import MAX_WEIGHT, InferenceEndpoint
from app.http.large_work import LargeWork
from app.http.native import NativeApi
from app.http.readiness import Readiness
from app.tasks.base import Model, Prepared
from app.tasks.catalog import Catalog, load_model
from app.tasks.classify import ClassifyHandler, ClassifyRequest
from app.telemetry.metrics import Metrics
from benchmarks.parts.front_end_servers import FakeEngine
from tests.conftest import BundleOf
from tests.support import uncollected

LONG_S = 600.0
REFUSALS = 20


class SlowToTokenize(ClassifyHandler):
    short_bytes = 0

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_go_on = threading.Event()

    def weight(self, model: Model, request: ClassifyRequest, prepared: Prepared) -> int:  # noqa: ARG002
        return MAX_WEIGHT + 1 if "heavy" in request.listed else 1

    def prepare(self, model: Model, request: ClassifyRequest) -> Prepared:
        self.asked += [text for text in request.listed if isinstance(text, str)]
        assert self.may_go_on.wait(30)
        return super().prepare(model, request)


@dataclass
class Caller:
    """Sends one text, and may go away before its answer."""

    text: str
    sent: bytes | None = None
    """The body, if it is another than one with the text."""
    is_gone: asyncio.Event = field(default_factory=asyncio.Event)
    status: int | None = None
    body: bytes = b""
    _was_read: bool = False

    async def receive(self) -> dict[str, Any]:
        if self._was_read:
            await self.is_gone.wait()
            return {"type": "http.disconnect"}
        self._was_read = True
        body = json.dumps({"inputs": self.text}).encode() if self.sent is None else self.sent
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message["body"]


@dataclass
class Bench:
    handler: SlowToTokenize
    endpoint: InferenceEndpoint

    def call(self, caller: Caller) -> "asyncio.Task[None]":
        scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": []}
        return asyncio.ensure_future(self.endpoint(scope, caller.receive, caller.send, "id", {}))


def with_one_thread(bundle_of: BundleOf, timeout_s: float, test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        readiness, handler, large = Readiness(), SlowToTokenize(), LargeWork(timeout_s, LONG_S, threads=1)
        readiness.engine = "ready"
        model = load_model(load_bundle(bundle_of("bert-single-label")))
        api = NativeApi(Served(Catalog([model]), lambda _: None, readiness, Limits(2**20, 512, timeout_s, None)))
        metrics = Metrics(CollectorRegistry())
        endpoint = InferenceEndpoint(
            api,
            api.route(handler),
            engine=FakeEngine(np.zeros(3, np.float32)),
            large=large,
            metrics=metrics,
            finished=Finished(metrics, None, Callers("")),
            tracer=None,
        )
        endpoint._metrics.add_model(model.name, model.task)
        try:
            async with asyncio.timeout(30):
                await test(Bench(handler, endpoint))
        finally:
            handler.may_go_on.set()
            large.close()

    asyncio.run(main())


def test_requests_of_disconnected_callers_are_not_tokenized(bundle_of: BundleOf) -> None:
    async def test(bench: Bench) -> None:
        first, gone, last = Caller("first"), Caller("gone"), Caller("last")
        answered = bench.call(first)
        left = bench.call(gone)
        waiting = bench.call(last)
        gone.is_gone.set()
        await left
        bench.handler.may_go_on.set()
        await asyncio.gather(answered, waiting)
        assert bench.handler.asked == ["first", "last"]
        assert (first.status, gone.status, last.status) == (200, None, 200)

    with_one_thread(bundle_of, LONG_S, test)


def test_late_requests_fail_and_are_not_tokenized(bundle_of: BundleOf) -> None:
    async def test(bench: Bench) -> None:
        callers = [Caller("first"), Caller("second")]
        await asyncio.gather(*map(bench.call, callers))
        for caller in callers:
            assert caller.status == 504
            assert json.loads(caller.body)["error_type"] == "deadline_exceeded"
        assert bench.handler.asked == ["first"]

    with_one_thread(bundle_of, 0.05, test)


def test_a_request_for_which_no_thread_can_be_started_may_be_retried(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test(bench: Bench) -> None:
        caller = Caller("text")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            await bench.call(caller)
        assert caller.status == 503
        assert json.loads(caller.body)["error_type"] == "not_ready"
        assert bench.handler.asked == []

    with_one_thread(bundle_of, LONG_S, test)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"inputs": "a"}', 429), (b'{"inputs": "a", "model": "nobody"}', 404), (b"{", 400), (b"{}", 422)],
)
def test_a_refusal_leaves_the_garbage_collector_nothing_to_do(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int
) -> None:
    """Its rounds hold up all requests, and took more time than the rest of a refusal."""

    def is_full(*_: object) -> None:
        raise Overloaded("full", 1)

    async def refuse(bench: Bench, times: int) -> None:
        for _ in range(times):
            caller = Caller("", sent=body)
            await bench.call(caller)
            assert caller.status == status

    async def test(bench: Bench) -> None:
        monkeypatch.setattr(bench.endpoint._engine, "check", is_full)
        await refuse(bench, 1)  # what is made once
        gc.collect()
        await refuse(bench, REFUSALS)
        assert gc.collect() < REFUSALS

    with uncollected():
        with_one_thread(bundle_of, LONG_S, test)


def test_an_answer_that_is_too_much_work_is_refused_before_the_model_runs(bundle_of: BundleOf) -> None:
    async def test(bench: Bench) -> None:
        bench.handler.may_go_on.set()
        heavy, light = Caller("heavy"), Caller("light")
        await asyncio.gather(bench.call(heavy), bench.call(light))
        assert (heavy.status, light.status) == (422, 200)
        assert json.loads(heavy.body)["error"].endswith(ClassifyHandler.lighter)

    with_one_thread(bundle_of, LONG_S, test)
