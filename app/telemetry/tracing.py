"""Traces of inference requests, sent to an OpenTelemetry collector.

The SDK is imported when a `Tracer` is made; without a collector nothing here runs.
Spans are made after the answer was sent, from the request's record and the engine's timeline. Methods are called on the
event loop of a front end; a thread of the SDK sends finished spans in batches.

A request is a server span, named and described by OpenTelemetry's semantic conventions for HTTP, with three kinds of
children: `tokenize`, `queue` (from admission until its first sequence runs) and a `run` for each batch with a sequence of the
request. A batch has the same `run` in every request that shared it. No span contains a text, query or header of the caller.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from app import __version__
from app.engine.messages import Timeline
from app.telemetry.otel import FLUSH_WITHIN_S, endpoint_of, resource
from app.telemetry.record import CLIENT_GONE, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.util.types import AttributeValue

log = logging.getLogger(__name__)

_CONTEXT_HEADERS: Final = {b"traceparent": "traceparent", b"tracestate": "tracestate"}


class Tracer:
    """Makes the traces of one process and sends them to a collector."""

    def __init__(self, endpoint: str | None) -> None:
        """Connect to nothing yet: the collector may come and go.

        Args:
            endpoint: The collector's OTLP/HTTP address, without the path of a signal; None for that of OpenTelemetry's variables.

        Raises:
            ValueError: OpenTelemetry's variables of limits or batches of spans are wrong.
        """
        from opentelemetry import trace as api  # noqa: PLC0415
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.sdk import trace as sdk  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        from app.telemetry.collector import SpanExporter  # noqa: PLC0415

        self._provider: Final = sdk.TracerProvider(
            resource=resource(process_pid=os.getpid()),
            shutdown_on_exit=False,  # `close` does that, with a time limit
        )
        self._exporter: Final = SpanExporter(endpoint_of("traces", endpoint))
        self._processor: Final = BatchSpanProcessor(self._exporter)
        self._provider.add_span_processor(self._processor)
        self._tracer: Final = self._provider.get_tracer("app", __version__)
        self._scope: Final = InstrumentationScope("app", __version__)
        self._propagator: Final = TraceContextTextMapPropagator()
        self._no_context: Final = Context()
        self._api: Final = api
        self._sdk: Final = sdk

    def begin(self, route: str, scope: Mapping[str, Any], request_id: str) -> "RequestTrace":
        """Return the trace of a request that just arrived. It continues the caller's trace if the request names one.

        Args:
            route: The route's path.
            scope: The request's ASGI scope.
            request_id: Its id in the log.
        """
        carrier: dict[str, str] = {}
        for key, value in scope["headers"]:
            if (name := _CONTEXT_HEADERS.get(key)) is not None:
                text = value.decode("latin-1")
                carrier[name] = f"{carrier[name]},{text}" if name in carrier else text
        attributes: dict[str, AttributeValue] = {
            "http.request.method": scope["method"],
            "http.route": route,
            "url.path": route,
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
            "bert.request_id": request_id,
        }
        clock = _Clock()
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            self._propagator.extract(carrier, self._no_context),
            self._api.SpanKind.SERVER,
            attributes,
            start_time=clock.epoch_ns,
        )
        return RequestTrace(self, span, clock)

    def add(self, parent: "SpanContext", name: str, start_ns: int, end_ns: int, attributes: dict[str, int]) -> None:
        """Record a part of a sampled request. It is over, so a finished span is made directly, at a tenth of the cost."""
        span_id = self._provider.id_generator.generate_span_id()
        self._processor.on_end(
            self._sdk.ReadableSpan(
                name,
                self._api.SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state),
                parent,
                self._provider.resource,
                attributes,
                start_time=start_ns,
                end_time=end_ns,
                instrumentation_scope=self._scope,
            )
        )

    def fail(self, span: "Span") -> None:
        """Mark a span as an error of the service."""
        span.set_status(self._api.StatusCode.ERROR)

    def close(self) -> None:
        """Send the remaining spans, waiting at most `FLUSH_WITHIN_S` for the collector."""
        flush = Thread(target=self._provider.shutdown, name="flush traces", daemon=True)
        flush.start()
        flush.join(FLUSH_WITHIN_S)
        if flush.is_alive():
            log.warning("the collector of traces does not respond: the last traces are lost")
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class RequestTrace:
    """The trace of one request."""

    def __init__(self, tracer: Tracer, span: "Span", clock: "_Clock") -> None:
        context = span.get_span_context()
        self.trace_id: Final = f"{context.trace_id:032x}"
        answer = f"00-{self.trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"
        self.headers: Final = ((b"traceresponse", answer.encode()),)
        """Headers of the answer, from the W3C's draft for responses."""
        self.timeline: Final = Timeline() if span.is_recording() else None
        """Filled in by the engine; None if the request is not sampled."""
        self.is_sampled: Final = bool(context.trace_flags.sampled)
        self._tracer = tracer
        self._span = span
        self._clock = clock

    def end(self, request: RequestRecord) -> None:
        """Record the request after its answer was sent."""
        if self.timeline is None:
            return
        attributes: dict[str, AttributeValue] = {
            "bert.api": request.api,
            "bert.task": request.task,
            "bert.sequences": request.sequences,
            "bert.tokens": request.tokens,
        }
        if request.client is not None:
            attributes["client.address"] = request.client
        if request.caller is not None:
            attributes["enduser.id"] = request.caller
        if request.model is not None:
            attributes["bert.model"] = request.model
        if request.bundle is not None:
            attributes["bert.bundle"] = request.bundle
        if request.status != CLIENT_GONE:
            attributes["http.response.status_code"] = request.status
        # By the conventions, a caller's mistake (4xx) is not an error of the server span.
        if request.error_type is not None and (request.status >= 500 or request.status == CLIENT_GONE):
            attributes["error.type"] = request.error_type
        self._span.set_attributes(attributes)
        if request.status >= 500:
            self._tracer.fail(self._span)
        # The answer is written at the end of this iteration of the event loop: record after that.
        asyncio.get_running_loop().call_soon(self._record, request, self.timeline, time.monotonic())

    def _record(self, request: RequestRecord, timeline: Timeline, ended_at: float) -> None:
        if request.tokenizing_at is not None:
            work = {"bert.sequences": request.sequences, "bert.tokens": request.tokens}
            self._add("tokenize", request.tokenizing_at, request.tokenized_at, work)
        if timeline.admitted_at is not None:
            until = ended_at if timeline.started_at is None else timeline.started_at
            self._add("queue", timeline.admitted_at, until, {})
        for run in timeline.runs:
            batch = {
                "bert.batch.sequences": run.sequences,
                "bert.batch.tokens": run.tokens,
                "bert.batch.longest_tokens": run.longest,
            }
            self._add("run", run.started_at, run.started_at + run.duration_s, batch)
        self._span.end(self._clock.at_ns(ended_at))

    def _add(self, name: str, started_at: float, ended_at: float, attributes: dict[str, int]) -> None:
        self._tracer.add(
            self._span.get_span_context(), name, self._clock.at_ns(started_at), self._clock.at_ns(ended_at), attributes
        )


class _Clock:
    """Converts monotonic time to time since the epoch, by the difference when it was made."""

    def __init__(self) -> None:
        self.epoch_ns: Final = time.time_ns()
        self._monotonic_s = time.monotonic()

    def at_ns(self, monotonic_s: float) -> int:
        return self.epoch_ns + round((monotonic_s - self._monotonic_s) * 1e9)
