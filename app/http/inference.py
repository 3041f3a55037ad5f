"""The hot path: one inference request, from its bytes to its answer.

A plain ASGI endpoint, so that a request costs little more than validation, tokenization and the wait for its batch.
`openapi` describes it in OpenAPI.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.engine.messages import Timeline
from app.engine.protocols import EngineClient
from app.errors import DeadlineExceeded, Internal, MethodNotAllowed, NotReady, ServiceError, ValidationFailed
from app.http.asgi import READ_AT, ClientGone, authorize, error_body, error_headers, read_body, respond
from app.http.problems import explain
from app.http.readiness import Readiness
from app.tasks.base import Model, TaskHandler
from app.tasks.catalog import Catalog
from app.tasks.inputs import as_list
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import REJECTIONS, Metrics, ModelMetrics
from app.telemetry.tracing import RequestTrace, Tracer

log = logging.getLogger(__name__)

T = TypeVar("T")

# Over this weight, about 1 ms, an answer is made in a worker thread.
INLINE_WEIGHT: Final = 256
# A task that watches the connection costs more than most requests wait, so only those that wait longer get one.
WATCH_AFTER_S: Final = 0.05
CLIENT_GONE: Final = 499
"""Status that is logged if the caller closed the connection, as in nginx; it is never sent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request, and the API key."""

    max_body_bytes: int
    max_inputs: int
    timeout_s: float
    api_key: str | None


class InferenceEndpoint:
    """Answers `POST /v1/<task>` for all models of a task."""

    def __init__(
        self,
        handler: TaskHandler[Any, Any, Any],
        *,
        catalog: Catalog,
        engine: EngineClient,
        metrics: Metrics,
        readiness: Readiness,
        limits: Limits,
        access_log: AccessLog | None,
        tracer: Tracer | None,
    ) -> None:
        self.path: Final = f"/v1/{handler.task}"
        self._handler = handler
        self._catalog = catalog
        self._engine = engine
        self._metrics = metrics
        self._readiness = readiness
        self._limits = limits
        self._access_log = access_log
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Answer one request. Raises only if it is cancelled."""
        trace = None if self._tracer is None else self._tracer.begin(self.path, scope, request_id)
        headers = () if trace is None else trace.headers
        request = _Request(request_id, self._metrics.for_model(None), trace)
        error_type: str | None = None
        try:
            body = await self._answer(scope, receive, request)
            status = 200
            await respond(send, status, body, request_id, *headers)
        except ServiceError as error:
            status, error_type = error.status, error.error_type
            if error.error_type in REJECTIONS:
                request.metrics.rejected(error.error_type)
            await respond(send, status, error_body(error, request_id), request_id, *headers, *error_headers(error))
        except ClientGone:
            status, error_type = CLIENT_GONE, "client_gone"
        except asyncio.CancelledError:  # the server is stopping, and the time to finish requests is over
            stopped = NotReady("The service stopped before it could answer. Retry in a few seconds.")
            status, error_type = stopped.status, stopped.error_type
            answer = error_body(stopped, request_id)
            await respond(send, stopped.status, answer, request_id, *headers, *error_headers(stopped))
        except Exception:
            log.exception("request failed", extra={"request_id": request_id, "model": request.model_name})
            fault = Internal("The service failed on this request. Its log has the cause under this request id.")
            status, error_type = fault.status, fault.error_type
            await respond(send, status, error_body(fault, request_id), request_id, *headers)
        finally:
            request.finish()
        # From its last byte: how long a caller takes to send it says nothing of this service.
        duration_s = monotonic() - scope.get(READ_AT, request.started_at)
        if status != CLIENT_GONE:
            request.metrics.answered(status, duration_s, None if trace is None else trace.sampled_id)
        if self._access_log is not None:
            self._access_log.write(
                {
                    "request_id": request_id,
                    "task": self._handler.task,
                    "model": request.model_name,
                    "status": status,
                    **({} if error_type is None else {"error_type": error_type}),
                    "duration_ms": round(duration_s * 1e3, 3),
                    "sequences": request.sequences,
                    "tokens": request.tokens,
                    **({} if trace is None else {"trace_id": trace.trace_id}),
                }
            )
        if trace is not None:
            trace.end(
                status=None if status == CLIENT_GONE else status,
                error_type=error_type,
                task=self._handler.task,
                model=request.model_name,
                sequences=request.sequences,
                tokens=request.tokens,
            )

    async def _answer(self, scope: Scope, receive: Receive, request: "_Request") -> bytes:
        if scope["method"] != "POST":
            raise MethodNotAllowed("This route takes POST only.", "POST")
        authorize(scope, self._limits.api_key)
        self._readiness.check_engine()
        body = await read_body(scope, receive, self._limits.max_body_bytes)
        handler = self._handler
        try:
            asked: Any = handler.request.__pydantic_validator__.validate_json(body)
        except ValidationError as error:
            raise explain(error) from None
        model = self._catalog.for_task(handler.task, asked.model)
        request.found(model, self._metrics.for_model(model.name))
        inputs = len(as_list(asked.inputs))
        if inputs > self._limits.max_inputs:
            raise ValidationFailed(
                f"inputs: has {inputs} items; at most {self._limits.max_inputs} are allowed. "
                "Send several requests, or raise BERT_MAX_INPUTS."
            )
        self._engine.check(model.name, inputs)
        tokenizing_at = monotonic()
        prepare = partial(handler.prepare, model, asked)
        if len(body) <= handler.short_bytes:
            prepared = prepare()
        else:
            prepared = await self._unless_gone(self._in_thread(prepare), receive)
        tokenized_at = monotonic()
        request.metrics.tokenized(prepared.truncated, tokenized_at - tokenizing_at)
        request.sequences, request.tokens = len(prepared.sequences), prepared.tokens
        timeline: Timeline | None = None
        if request.trace is not None:
            request.trace.tokenized(tokenizing_at, tokenized_at)
            timeline = request.trace.timeline
        results = await self._unless_gone(self._engine.infer(model.name, prepared.sequences, timeline), receive)

        usage = {"tokens": request.tokens, "truncated": prepared.truncated}
        if handler.weight(model, asked, prepared) <= INLINE_WEIGHT:
            predictions = handler.answer(model, asked, prepared, results)
            return to_json({"model": model.name, "predictions": predictions, "usage": usage})

        def write() -> bytes:
            predictions = handler.answer(model, asked, prepared, results)
            # One by one, because `to_json` holds the GIL until it is done.
            pieces = [to_json(prediction) for prediction in predictions]
            whole = b",".join(pieces)
            return b'{"model":%s,"predictions":[%s],"usage":%s}' % (to_json(model.name), whole, to_json(usage))

        return await asyncio.get_running_loop().run_in_executor(None, write)

    async def _in_thread(self, prepare: Callable[[], T]) -> T:
        """Prepare a large request in a worker thread. If it is cancelled or late before a thread is free, that is never done.

        Raises:
            DeadlineExceeded: it is late.
        """
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await asyncio.get_running_loop().run_in_executor(None, prepare)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The request was not tokenized within {self._limits.timeout_s:g} s. Send shorter inputs, or retry when "
                "there is less load."
            ) from None

    async def _unless_gone(self, work: Awaitable[T], receive: Receive) -> T:
        """Wait for a part of the work, and cancel the request if the caller closes the connection."""
        this = asyncio.current_task()
        assert this is not None  # a coroutine runs in a task
        loop = asyncio.get_running_loop()
        watcher: asyncio.Task[None] | None = None
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            while (await receive())["type"] != "http.disconnect":
                pass
            is_gone = True
            this.cancel()

        def start_watching() -> None:
            nonlocal watcher
            watcher = loop.create_task(watch())

        timer = loop.call_later(WATCH_AFTER_S, start_watching)
        try:
            return await work
        except asyncio.CancelledError:
            if is_gone and not this.uncancel():
                raise ClientGone from None
            raise
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()


class _Request:
    """What the log, metrics and trace report about a request."""

    def __init__(self, request_id: str, unrouted: ModelMetrics, trace: RequestTrace | None) -> None:
        self.request_id = request_id
        self.started_at = monotonic()
        self.metrics = unrouted
        self.trace = trace
        self.model_name: str | None = None
        self.sequences = 0
        self.tokens = 0

    def found(self, model: Model, metrics: ModelMetrics) -> None:
        self.model_name = model.name
        self.metrics = metrics
        metrics.inflight.inc()

    def finish(self) -> None:
        if self.model_name is not None:
            self.metrics.inflight.dec()
