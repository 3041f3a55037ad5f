"""The hot path: one inference request, from its bytes to its answer.

A plain ASGI endpoint, so that a request costs little more than validation, tokenization and the wait for its batch.
`openapi` describes it in OpenAPI.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.bundle.sequences import SequenceResult
from app.engine.callers import Caller
from app.engine.messages import Timeline
from app.engine.protocols import EngineClient
from app.errors import MethodNotAllowed, NotReady, Replaced, ValidationFailed
from app.http.api import Api, Call, Inference, Raw, Received, write_json
from app.http.asgi import ENCODED, Header, answer_headers, authorize, read_body, respond
from app.http.compression.answers import Compressor
from app.http.compression.bodies import COMPRESSES, read_decompressed
from app.http.disconnects import Disconnects
from app.http.finished import Finished
from app.http.large_work import LargeWork
from app.http.outcome import outcome
from app.http.problems import explain
from app.http.rounds import run_in_time
from app.tasks.base import Prepared
from app.tasks.rounds import PreparedRounds, Results, Round
from app.telemetry.metrics import Metrics
from app.telemetry.record import RequestRecord
from app.telemetry.tracing import RequestTrace, Tracer

# A larger body, which takes over about 1 ms, is read in a thread.
INLINE_BYTES: Final = 65536
# Over this weight, about 1 ms, an answer is made in a thread.
INLINE_WEIGHT: Final = 256
READ_AGAIN: Final = 4
"""How often a request is read whose model is replaced, again and again, before it is answered."""
TOKENS_A_WEIGHT: Final = 64
"""Tokens of a round whose results are read, and whose successor is made, in one unit of weight."""
MAX_WEIGHT: Final = 1 << 20
"""Most weight of an answer: about 4 s of a core, and 0.5 GB while it is made."""


class InferenceEndpoint:
    """Answers one route of an API that leads to a model."""

    def __init__(
        self,
        api: Api,
        route: Inference,
        *,
        engine: EngineClient,
        large: LargeWork,
        metrics: Metrics,
        finished: Finished,
        tracer: Tracer | None,
        compressor: Compressor | None = None,
    ) -> None:
        self.api: Final = api
        self.route: Final = route
        self.allowed = route.method
        """The methods of its path, as an error names them."""
        self._engine = engine
        self._large = large
        self._metrics = metrics
        self._finished = finished
        self._readiness = api.served.readiness
        self._limits = api.served.limits
        self._tracer = tracer
        self._compressor = compressor
        self._disconnects = Disconnects()

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, path: Mapping[str, str]
    ) -> None:
        """Answer one request. Raises only if it is cancelled while its answer is sent."""
        started_at = monotonic()
        record = RequestRecord(request_id, self.api.name, self.route.task)
        trace: RequestTrace | None = None
        timeline: Timeline | None = None
        if self._tracer is not None:
            trace = self._tracer.begin(self.route.path, scope, request_id)
            record.trace_id, record.is_sampled = trace.trace_id, trace.is_sampled
            timeline = trace.timeline
        if timeline is None and self.api.wants_timeline:
            timeline = Timeline()
        answer = await outcome(self._answer(scope, receive, record, timeline, path), self.api, record)
        if answer is not None:
            headers, body = answer
            if trace is not None:
                headers += trace.headers
            await respond(send, record.status, headers, body)
        self._finished.request(scope, record, started_at)
        if trace is not None:
            trace.end(record)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        record: RequestRecord,
        timeline: Timeline | None,
        path: Mapping[str, str],
    ) -> tuple[list[Header], bytes]:
        """Return the headers and the body of the answer. Raises what `_predict` does."""
        answer = await self._predict(scope, receive, record, timeline, path)
        if self._compressor is not None:
            answer = await self._compressor.compressed(scope, answer)
        if isinstance(answer, Raw):
            headers = [*answer_headers(answer.body, record.request_id, answer.content_type), *answer.headers]
            answer = answer.body
        else:
            headers = answer_headers(answer, record.request_id)
        if self.api.wants_timeline and timeline is not None:
            headers += self.api.headers(record, timeline)
        return headers, answer

    async def _predict(
        self,
        scope: Scope,
        receive: Receive,
        record: RequestRecord,
        timeline: Timeline | None,
        path: Mapping[str, str],
    ) -> bytes | Raw:
        """Return the answer with the predictions, as JSON or what else the API writes.

        Raises:
            ServiceError: the request is refused, or failed.
            ClientGone: the caller closed the connection.
        """
        if scope["method"] != "POST":
            raise MethodNotAllowed(self.allowed)
        caller = authorize(scope, self._limits.keys, needs_scheme=self.api.needs_scheme)
        if caller is not None:
            record.caller = caller.name
        self._readiness.check_engine()
        received = Received(scope, await read_body(scope, receive, self._limits.max_body_bytes), path)
        if caller is not None:
            self._engine.check_rate(caller)
        for _ in range(READ_AGAIN):
            try:
                return await self._run(received, receive, record, timeline, caller)
            except Replaced:  # another bundle is served by that name now, and what was prepared is for the one before
                continue
        raise NotReady("The model is being replaced. Retry in a few seconds.")

    async def _run(
        self,
        received: Received,
        receive: Receive,
        record: RequestRecord,
        timeline: Timeline | None,
        caller: Caller | None,
    ) -> bytes | Raw:
        """Read a request, and return its answer, with one model from its labels to its logits.

        Raises:
            Replaced: the engine no longer has the model that the catalog had when the request was read.
            ServiceError, ClientGone: as `_predict` does.
        """
        try:
            if len(received.body) <= INLINE_BYTES and ENCODED not in received.scope:
                call = self.route.read(received)
            else:
                size = len(received.body) * (COMPRESSES if ENCODED in received.scope else 1)
                read = partial(read_decompressed, self.route.read, received, self._limits.max_body_bytes)
                call = await self._disconnects.unless_gone(self._large.read(read, size, caller), receive)
        except ValidationError as error:
            raise explain(error, received.body, self.route.request) from None
        handler, model, request = call.handler, call.model, call.request
        record.task, record.model, record.bundle = handler.task, model.name, model.hash
        if call.api is not None:
            record.api = call.api
        inflight = self._metrics.for_model(model.name).inflight
        inflight.inc()
        try:
            inputs = handler.count(request)
            self._limits.check_inputs(inputs)
            self._engine.check(model.key, inputs, caller)
            tokenizing_at = monotonic()
            to_prepare = handler.bytes_to_prepare(model, request, len(received.body))
            if to_prepare <= handler.short_bytes:
                prepared: Prepared = handler.prepare(model, request)
            else:
                prepare = partial(handler.prepare, model, request)
                prepared = await self._disconnects.unless_gone(
                    self._large.tokenize(prepare, to_prepare, self._most_tokens(model.name), caller), receive
                )
            record.tokenizing_at, record.tokenized_at = tokenizing_at, monotonic()
            record.sequences, record.tokens = len(prepared.sequences), prepared.tokens
            record.truncated = prepared.truncated
            weight = handler.weight(model, request, prepared)
            if weight > MAX_WEIGHT:
                raise ValidationFailed(
                    f"The answer would be {weight / MAX_WEIGHT:.1f} times as much work as one may be. {handler.lighter}"
                )
            if weight <= INLINE_WEIGHT:
                results = await self._disconnects.unless_gone(
                    self._infer(model.key, prepared, timeline, caller, record), receive
                )
                answer = call.write(handler.answer(model, request, prepared, results), record)
                return answer if isinstance(answer, Raw) else to_json(answer)
            with self._large.reserved(weight, caller):
                results = await self._disconnects.unless_gone(
                    self._infer(model.key, prepared, timeline, caller, record), receive
                )
                predict = partial(handler.answer, model, request, prepared, results)
                return await self._disconnects.unless_gone(
                    self._large.write(partial(_write_large, call, predict, record), weight, caller), receive
                )
        finally:
            inflight.dec()

    def _infer(
        self, model: str, prepared: Prepared, timeline: Timeline | None, caller: Caller | None, record: RequestRecord
    ) -> Awaitable[list[SequenceResult]]:
        """Return the results of the prepared sequences; of rounds, whose predictions are then there, none."""
        if isinstance(prepared, PreparedRounds):
            return self._in_rounds(model, prepared, timeline, caller, record)
        return self._engine.infer(model, prepared.sequences, timeline, caller)

    async def _in_rounds(
        self,
        model: str,
        prepared: PreparedRounds,
        timeline: Timeline | None,
        caller: Caller | None,
        record: RequestRecord,
    ) -> list[SequenceResult]:
        async def more(results: Results) -> Round | None:
            weight = prepared.tokens // TOKENS_A_WEIGHT  # rounds have about as many tokens
            if weight <= INLINE_WEIGHT:
                return prepared.more(results)
            return await self._large.write(partial(prepared.more, results), weight, caller)

        await run_in_time(
            prepared,
            lambda sequences, own: self._engine.infer(model, sequences, own, caller),
            more,
            timeline=timeline,
            record=record,
            timeout_s=self._limits.timeout_s,
            most_tokens=None if record.model is None else self._most_tokens(record.model),
            is_stopping=lambda: self._readiness.is_draining,
        )
        return []

    def _most_tokens(self, model: str) -> int | None:
        """Return how many tokens a model answers within the timeout if nothing else runs, None while it is not loaded."""
        loaded = self.api.served.loaded_as(model)
        if loaded is None:
            return None
        return int(self._limits.timeout_s * loaded.lanes / loaded.speed.seconds_per_token)


def _write_large(call: Call, predict: Callable[[], list[Any]], record: RequestRecord) -> bytes | Raw:
    answer = call.write(predict(), record)
    return answer if isinstance(answer, Raw) else write_json(answer)
