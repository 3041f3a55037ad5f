"""Every metric of the service, in one class on one registry.

All methods are called on the event loop, except `expose`, which is called in a thread. All series of a model exist from
start-up, so that rates and alerts need no first request.

With several processes, each counts in memory that all share, and any of them reports the sum of all. That memory cannot hold
exemplars: only a single process has them.
"""

import math
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from app.engine.messages import BatchRan, QueueStatistics
from app.errors import (
    ERRORS,
    BadBundle,
    DeadlineExceeded,
    EngineLost,
    HeadTooLarge,
    NotReady,
    Overloaded,
    RateLimited,
)
from app.telemetry.log_writer import count_dropped_lines
from app.telemetry.process_metrics import register_process_metrics
from app.telemetry.record import CLIENT_GONE, RequestRecord
from app.telemetry.shared_values import GONE, AllProcesses, SharedMemory, SlotMemory, value_class

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_OPENMETRICS: Final = "application/openmetrics-text"
_OverProcesses = Literal["livesum", "livemax", "livemin"]

# Latencies from one small model on an idle GPU (under a millisecond) to bulk requests on a CPU (a minute).
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, math.inf)
SEQUENCES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, math.inf)
TOKENS: Final = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, math.inf)
RATIO: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, math.inf)

# A head that is too large is refused before an API is known, and a bundle only to operators.
STATUSES: Final = (200, *sorted({error.status for error in ERRORS} - {HeadTooLarge.status, BadBundle.status}))
REJECTIONS: Final = tuple(
    error.error_type for error in (Overloaded, RateLimited, NotReady, EngineLost, DeadlineExceeded)
)
MOST_CALLERS: Final = 100
"""So many callers have series of their own, those that were there first; the others share one."""
OTHER_CALLERS: Final = "other"
"""Their label, which is no caller's name."""
NOT_ROUTED: Final = "none"
"""The label `api` of requests for no route, and of input that is no request."""
NOT_ROUTED_STATUSES: Final = (400, 404, 405, 408, 431)
LOAD_OUTCOMES: Final = ("loaded", "unloaded", "refused")
NO_MODEL: Final = "none"
"""The label of requests that named no model that exists. A caller's text never becomes a label."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The labels of `model_info`."""

    name: str
    task: str
    variant: str
    provider: str
    hash: str
    version: str


class ModelMetrics:
    """The series of one model, looked up once."""

    def __init__(self, owner: "Metrics", model: str, task: str) -> None:
        labels = (model, task)
        self._requests = owner.requests
        self._rejected = owner.rejected
        self._labels = labels
        self.task: Final = task
        self._request_duration = owner.request_duration.labels(*labels)
        self._tokenize_duration = owner.tokenize_duration.labels(*labels)
        self._queue_duration = owner.queue_duration.labels(*labels)
        self._inference_duration = owner.inference_duration.labels(*labels)
        self._batch_sequences = owner.batch_sequences.labels(*labels)
        self._batch_tokens = owner.batch_tokens.labels(*labels)
        self._batch_fill_ratio = owner.batch_fill_ratio.labels(*labels)
        self._cancelled = owner.cancelled.labels(*labels)
        self._truncated = owner.truncated.labels(*labels)
        self._tokens = owner.tokens.labels(*labels)
        self._busy = owner.device_busy.labels(*labels)
        self._queue_sequences = owner.queue_sequences.labels(*labels)
        self._queue_tokens = owner.queue_tokens.labels(*labels)
        self._queue_wait = owner.queue_wait.labels(*labels)
        self.inflight = owner.inflight_requests.labels(*labels)
        self._answered: dict[tuple[str, int], Counter] = {}
        for reason in REJECTIONS:
            owner.rejected.labels(*labels, reason)

    def expect(self, apis: Iterable[str]) -> None:
        """Make the series of the requests of these APIs."""
        for api in apis:
            for status in STATUSES:
                self.count_of(api, status)

    def count_of(self, api: str, status: int) -> Counter:
        """Return the series of the requests of an API with a status."""
        found = self._answered.get((api, status))
        if found is None:
            found = self._answered[api, status] = self._requests.labels(*self._labels, api, str(status))
        return found

    def finished(self, request: RequestRecord) -> None:
        """Count one request that is over. If its trace is sampled, it becomes the exemplar of its latency."""
        if request.tokenizing_at is not None:
            self._tokenize_duration.observe(request.tokenized_at - request.tokenizing_at)
            if request.truncated:
                self._truncated.inc(request.truncated)
        if request.error_type is not None and request.error_type in REJECTIONS:
            self._rejected.labels(*self._labels, request.error_type).inc()
        if request.status != CLIENT_GONE:
            self.count_of(request.api, request.status).inc()
            exemplar = {"trace_id": request.trace_id} if request.is_sampled and request.trace_id else None
            self._request_duration.observe(request.duration_s, exemplar)

    def started(self, queued_s: Sequence[float]) -> None:
        """Record that the first sequences of some requests are about to run."""
        self._queue_duration.observe_all(queued_s)

    def ran(self, batch: BatchRan) -> None:
        """Record one batch that ran."""
        self._batch_sequences.observe(batch.sequences)
        self._batch_tokens.observe(batch.tokens)
        self._batch_fill_ratio.observe(batch.tokens / (batch.sequences * batch.longest))
        self._inference_duration.observe(batch.duration_s)
        self._tokens.inc(batch.tokens)
        self._busy.inc(batch.duration_s * batch.share)

    def queued(self, queue: QueueStatistics) -> None:
        """Set how much waits to run."""
        self._queue_sequences.set(queue.sequences)
        self._queue_tokens.set(queue.tokens)
        self._queue_wait.set(queue.wait_s(1))

    def cancelled(self) -> None:
        """Count one request whose caller went away before its answer."""
        self._cancelled.inc()


class _CallerSeries:
    """The series of one caller, looked up once."""

    def __init__(self, owner: "Metrics", label: str) -> None:
        self._requests = owner.caller_requests
        self._label = label
        self._answered: dict[int, Counter] = {}
        self.tokens = owner.caller_tokens.labels(label)
        self.throttled = owner.caller_throttled.labels(label)
        self.count_of(200)

    def count_of(self, status: int) -> Counter:
        """Return the series of the caller's requests with a status."""
        found = self._answered.get(status)
        if found is None:
            found = self._answered[status] = self._requests.labels(self._label, str(status))
        return found


class CallerMetrics:
    """The series of callers that have a name."""

    def __init__(self, owner: "Metrics") -> None:
        self._owner = owner
        self._by_name: dict[str, _CallerSeries] = {}

    def expect(self, names: Iterable[str]) -> None:
        """Make the series of these callers, but for statuses that are rare."""
        for name in names:
            self._of(name)

    def finished(self, name: str, request: RequestRecord) -> None:
        """Count a caller's request that is over."""
        series = self._by_name.get(name) or self._of(name)
        if request.status != CLIENT_GONE:
            series.count_of(request.status).inc()
        if request.status == 200:
            series.tokens.inc(request.tokens)
        elif request.error_type == RateLimited.error_type:
            series.throttled.inc()

    def _of(self, name: str) -> _CallerSeries:
        if name not in self._by_name and len(self._by_name) >= MOST_CALLERS:
            name = OTHER_CALLERS
        if name not in self._by_name:
            self._by_name[name] = _CallerSeries(self._owner, name)
        return self._by_name[name]


class Metrics:
    """The metric objects of the service, on the registry that is passed in or one of their own."""

    def __init__(self, registry: CollectorRegistry | None = None, memory: SharedMemory | None = None) -> None:
        """Make them.

        Args:
            registry: Where; None for one of their own.
            memory: That of all processes, if this is one of several.
        """
        registry = CollectorRegistry() if registry is None else registry
        # Not as prometheus_client chooses: by PROMETHEUS_MULTIPROC_DIR, which may be another program's.
        values.ValueClass = values.MutexValue if memory is None else value_class(memory.own)
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter: nobody asks for it
        by_model = ("model", "task")

        def counter(name: str, text: str, labels: Iterable[str] = by_model) -> Counter:
            return Counter(f"bert_{name}", text, labels, registry=registry)

        def gauge(
            name: str, text: str, labels: Iterable[str] = by_model, *, over_processes: _OverProcesses = "livesum"
        ) -> Gauge:
            return Gauge(f"bert_{name}", text, labels, registry=registry, multiprocess_mode=over_processes)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> "_Histogram":
            return _Histogram(f"bert_{name}", text, by_model, buckets=buckets, registry=registry)

        self.requests = counter("requests_total", "Answered requests, but for health.", (*by_model, "api", "status"))
        self.request_duration = histogram(
            "request_duration_seconds", "From when a request has been read, its last byte, to its answer.", SECONDS
        )
        self.tokenize_duration = histogram("tokenize_duration_seconds", "Tokenizing one request.", SECONDS)
        self.queue_duration = histogram(
            "queue_duration_seconds", "From admission until a request's first sequence runs.", SECONDS
        )
        self.inference_duration = histogram("inference_duration_seconds", "One batch on the device.", SECONDS)
        self.batch_sequences = histogram("batch_sequences", "Sequences per batch.", SEQUENCES)
        self.batch_tokens = histogram("batch_tokens", "Tokens per batch; there is no padding.", TOKENS)
        self.batch_fill_ratio = histogram(
            "batch_fill_ratio", "Tokens per cell of the padded batch that was not built.", RATIO
        )
        self.queue_sequences = gauge("queue_sequences", "Sequences waiting to run.")
        self.queue_tokens = gauge("queue_tokens", "Tokens waiting to run.")
        self.queue_wait = gauge("queue_wait_seconds", "Estimated wait of a request with one text that came now.")
        self.inflight_requests = gauge("inflight_requests", "Requests being answered.")
        self.rejected = counter("rejected_total", "Requests refused or dropped.", (*by_model, "reason"))
        self.cancelled = counter("cancelled_total", "Requests whose caller went away first.")
        self.caller_requests = counter(
            "caller_requests_total", "Answered requests of each caller that has a name.", ("caller", "status")
        )
        self.caller_tokens = counter("caller_tokens_total", "Tokens of a caller that were answered.", ("caller",))
        self.caller_throttled = counter(
            "caller_throttled_total", "Requests of a caller that was over its rate.", ("caller",)
        )
        self.truncated = counter("truncated_total", "Texts cut to the model's maximum length.")
        self.tokens = counter("tokens_total", "Tokens that ran, special tokens included.")
        self.device_busy = counter("device_busy_seconds_total", "Time of the device that batches took.")
        self.model_info = gauge(
            "model_info",
            "1 for each model served.",
            (*by_model, "variant", "provider", "hash", "version"),
            over_processes="livemax",
        )
        self.model_loads = counter(
            "model_loads_total", "Loads and unloads of models while the service runs.", ("model", "outcome")
        )
        self.batch_budget = gauge("batch_budget_tokens", "Most tokens that share a batch.", over_processes="livemax")
        self.load_failures = gauge(
            "model_load_failures",
            "1 for each bundle that is not served as it cannot be loaded.",
            ("model",),
            over_processes="livemax",
        )
        self._failed: set[str] = set()
        self.engine_up = gauge("engine_up", "1 while the engine answers.", (), over_processes="livemin")
        self.engine_restarts = counter("engine_restarts_total", "Times the engine was replaced.", ())
        self.front_end_restarts = counter("front_end_restarts_total", "Times a front end was replaced.", ())
        self.tls_failures = counter("tls_handshake_failures_total", "TLS handshakes that failed.", ())
        self.log_dropped = counter("log_dropped_lines_total", "Lines of the log that could not be written.", ())
        count_dropped_lines(self.log_dropped.inc)
        self._read = registry if memory is None else all_processes(memory.every, os.getppid())
        if memory is None:
            register_process_metrics(registry, None)
        self._by_model: dict[str, ModelMetrics] = {}
        self._unrouted = ModelMetrics(self, NO_MODEL, NO_MODEL)
        self.of_callers: Final = CallerMetrics(self)
        self._apis: tuple[str, ...] = ()

    def set_apis(self, names: Iterable[str], without_models: Iterable[str] = ()) -> None:
        """Take the names of the APIs that requests come in by, and of those that lead to no model, before any model is added."""
        self._apis = tuple(names)
        self._unrouted.expect((*self._apis, *without_models))
        for status in NOT_ROUTED_STATUSES:
            self._unrouted.count_of(NOT_ROUTED, status)

    def add_model(self, name: str, task: str) -> ModelMetrics:
        """Return the series of a model; they exist from the first call on."""
        if name not in self._by_model or self._by_model[name].task != task:
            for outcome in LOAD_OUTCOMES:
                self.model_loads.labels(name, outcome)
            self._by_model[name] = ModelMetrics(self, name, task)
            self._by_model[name].expect(self._apis)
            self.load_failures.labels(name)
        return self._by_model[name]

    def not_routed(self, status: int) -> None:
        """Count a request for no route, or input that is no request."""
        self._unrouted.count_of(NOT_ROUTED, status).inc()

    def model_loaded(self, model: ServedModel, budget_tokens: int) -> None:
        """Record what serves a model, and its budget."""
        self.add_model(model.name, model.task)
        self.model_info.labels(*astuple(model)).set(1)
        self.batch_budget.labels(model.name, model.task).set(budget_tokens)

    def model_released(self, model: ServedModel) -> None:
        """Record that a bundle is no longer served."""
        labels = astuple(model)
        self.model_info.labels(*labels).set(GONE)  # memory that processes share keeps the series of one that is removed
        self.model_info.remove(*labels)

    def load_ended(self, name: str, outcome: str) -> None:
        """Count a load or an unload."""
        self.model_loads.labels(name, outcome).inc()

    def not_loaded(self, names: Iterable[str]) -> None:
        """Record the bundles that are not served, and that others are, of which a load may have failed before."""
        failed = set(names)
        for name in self._failed | failed | self._by_model.keys():
            self.load_failures.labels(name).set(name in failed)
        self._failed = failed

    def for_model(self, name: str | None) -> ModelMetrics:
        """Return the series of a model, or those of requests that named none that exists."""
        return self._by_model.get(name, self._unrouted) if name is not None else self._unrouted

    def families(self) -> Iterable[Metric]:
        """Return all metrics as they are now."""
        return self._read.collect()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._read)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their content type, as an Accept header asks for them.

        Prometheus asks for OpenMetrics, which has exemplars; a person who looks gets the text format, which has none.
        """
        if any(asked.partition(";")[0].strip().lower() == _OPENMETRICS for asked in accept.split(",")):
            page: bytes = openmetrics.generate_latest(self._read)  # type: ignore[no-untyped-call]
            return page, openmetrics.CONTENT_TYPE_LATEST
        return self.render(), CONTENT_TYPE


class _Histogram(Histogram):
    """One that takes many values in one go: counting each by itself took a tenth of the engine's time."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Do what `observe` does, for each of some values."""
        self._sum.inc(sum(amounts))
        for bucket, count in Tally(bisect_left(self._upper_bounds, amount) for amount in amounts).items():
            self._buckets[bucket].inc(count)


def all_processes(memory: Collection[SlotMemory], supervisor: int) -> CollectorRegistry:
    """Return what reads the metrics of all processes as one.

    Args:
        memory: Of every worker slot.
        supervisor: The process that started them.
    """
    registry = CollectorRegistry()
    registry.register(AllProcesses(memory))
    register_process_metrics(registry, supervisor)
    return registry
