"""Every metric of the service, in one class on one registry.

The only module that knows Prometheus. Methods are called on the event loop of the process only, but for `expose`, which is
called in a thread. All series of a model exist from start-up, so that rates and alerts need no first request.

With several processes each counts into files of a folder that prometheus_client names by an environment variable, and
whichever of them is asked adds up all of them. Those files have no place for exemplars, which only one process keeps.
"""

import math
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.engine.messages import BatchRan, QueueStatistics
from app.runtime.nvml import GpuState, open_gpus

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
MULTIPROCESS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the folder; it must be set before prometheus_client is imported."""
_OPENMETRICS: Final = "application/openmetrics-text"
_OverProcesses = Literal["livesum", "livemax", "livemin"]

# Latencies from one small model on an idle GPU (under a millisecond) to bulk requests on a CPU (a minute).
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, math.inf)
SEQUENCES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, math.inf)
TOKENS: Final = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, math.inf)
RATIO: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, math.inf)

STATUSES: Final = ("200", "400", "401", "404", "405", "408", "413", "422", "429", "500", "503", "504")
REJECTIONS: Final = ("overloaded", "not_ready", "engine_lost", "deadline_exceeded")
NO_MODEL: Final = "none"
"""Label of requests that named no model that exists: what a caller writes never becomes a label."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What `model_info` and the labels say of a model."""

    name: str
    task: str
    variant: str
    provider: str


class ModelMetrics:
    """The series of one model, looked up once."""

    def __init__(self, owner: "Metrics", model: str, task: str) -> None:
        labels = (model, task)
        self._requests = owner.requests
        self._rejected = owner.rejected
        self._labels = labels
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
        self.lanes = 1
        self._queue_sequences = owner.queue_sequences.labels(*labels)
        self._queue_tokens = owner.queue_tokens.labels(*labels)
        self._queue_wait = owner.queue_wait.labels(*labels)
        self.inflight = owner.inflight_requests.labels(*labels)
        self._by_status = {status: owner.requests.labels(*labels, status) for status in STATUSES}
        for reason in REJECTIONS:
            owner.rejected.labels(*labels, reason)

    def answered(self, status: int, duration_s: float, trace_id: str | None = None) -> None:
        """Count one answered request; the trace of one that is sampled becomes the example of its latency."""
        counter = self._by_status.get(str(status)) or self._requests.labels(*self._labels, str(status))
        counter.inc()
        self._request_duration.observe(duration_s, None if trace_id is None else {"trace_id": trace_id})

    def rejected(self, reason: str) -> None:
        """Count one request that was refused or dropped for `reason`, an error type."""
        self._rejected.labels(*self._labels, reason).inc()

    def tokenized(self, truncated: int, duration_s: float) -> None:
        """Record the tokenization of one request, of whose inputs `truncated` were cut."""
        self._tokenize_duration.observe(duration_s)
        if truncated:
            self._truncated.inc(truncated)

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
        self._busy.inc(batch.duration_s / self.lanes)

    def queued(self, queue: QueueStatistics) -> None:
        """Set how much waits to run."""
        self._queue_sequences.set(queue.sequences)
        self._queue_tokens.set(queue.tokens)
        self._queue_wait.set(queue.wait_s(1))

    def cancelled(self) -> None:
        """Count one request whose caller went away before its answer."""
        self._cancelled.inc()


class Metrics:
    """The metric objects of the service, on the registry that is passed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
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

        self.requests = counter("requests_total", "Answered inference requests.", (*by_model, "status"))
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
        self.truncated = counter("truncated_total", "Texts cut to the model's maximum length.")
        self.tokens = counter("tokens_total", "Tokens that ran, special tokens included.")
        self.device_busy = counter("device_busy_seconds_total", "Time of the device that batches took.")
        self.model_info = gauge(
            "model_info", "1 for each model served.", (*by_model, "variant", "provider"), over_processes="livemax"
        )
        self.batch_budget = gauge("batch_budget_tokens", "Most tokens that share a batch.", over_processes="livemax")
        self.engine_up = gauge("engine_up", "1 while the engine answers.", (), over_processes="livemin")
        self.engine_restarts = counter("engine_restarts_total", "Times the engine was replaced.", ())
        self._read = _all_processes() if MULTIPROCESS_FOLDER in os.environ else registry
        _Processes(self._read)
        read_gpus = open_gpus()
        if read_gpus is not None:
            _Gpus(self._read, read_gpus)
        self._by_model: dict[str, ModelMetrics] = {}
        self._unrouted = ModelMetrics(self, NO_MODEL, NO_MODEL)

    def add_model(self, name: str, task: str) -> ModelMetrics:
        """Return the series of a model; they exist from the first call on."""
        if name not in self._by_model:
            self._by_model[name] = ModelMetrics(self, name, task)
        return self._by_model[name]

    def model_loaded(self, model: ServedModel, budget_tokens: int, lanes: int) -> None:
        """Say what serves a model: its budget, and how many batches at once share the device."""
        self.add_model(model.name, model.task).lanes = lanes
        self.model_info.labels(model.name, model.task, model.variant, model.provider).set(1)
        self.batch_budget.labels(model.name, model.task).set(budget_tokens)

    def for_model(self, name: str | None) -> ModelMetrics:
        """Return the series of a model, or those of requests that named none that exists."""
        return self._by_model.get(name, self._unrouted) if name is not None else self._unrouted

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._read)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their content type, to whoever sent this Accept header.

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


class _Processes(Collector):
    """Memory, processor time and open files of the service: of this process, or of all that one supervisor started."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._is_alone = MULTIPROCESS_FOLDER not in os.environ
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        if self._is_alone:
            return self._read([os.getpid()]).values()
        supervisor = os.getppid()
        while True:
            # A process that ends meanwhile is counted once: with the living or with the dead.
            dead_s = _cpu_of_the_dead(supervisor)
            totals = self._read(_family(supervisor))
            if _cpu_of_the_dead(supervisor) == dead_s:
                break
        [living] = totals["process_cpu_seconds"].samples
        totals["process_cpu_seconds"].samples = [living._replace(value=living.value + dead_s)]
        return totals.values()

    def _read(self, pids: Iterable[int]) -> dict[str, Metric]:
        totals: dict[str, Metric] = {}
        for pid in pids:
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                [sample] = metric.samples
                so_far = totals.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                value = sample.value
                if so_far.samples:
                    before = so_far.samples.pop().value
                    value = _OF_TWO.get(metric.name, sum)((before, value))
                so_far.add_sample(sample.name, {}, value)
        return totals


class _Gpus(Collector):
    """Memory and work of the GPUs of this machine."""

    def __init__(self, registry: CollectorRegistry, read: Callable[[], Iterable[GpuState]]) -> None:
        self._read = read
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("bert_gpu_memory_used_bytes", "GPU memory in use, by any process.", labels=["gpu"])
        total = GaugeMetricFamily("bert_gpu_memory_total_bytes", "GPU memory.", labels=["gpu"])
        busy = GaugeMetricFamily(
            "bert_gpu_utilization_ratio", "Share of the last moments in which a kernel ran.", labels=["gpu"]
        )
        for state in self._read():
            used.add_metric([state.gpu], state.used_bytes)
            total.add_metric([state.gpu], state.total_bytes)
            busy.add_metric([state.gpu], state.utilization)
        return used, total, busy


_OF_TWO: Final[dict[str, Callable[[Iterable[float]], float]]] = {
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "process_open_fds": max,
}
"""What is told of two processes, other than the sum: the service started when its first process did, and the limit of open
files is that of each, so that the fullest one meets it first."""


def _family(parent: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    return [parent, *map(int, children.split())]


def _cpu_of_the_dead(parent: int) -> float:
    """Return the processor time of the children that a process has outlived: a counter must not fall with them."""
    # The name of the program, in brackets, may hold spaces. What follows it is described in proc_pid_stat(5), from field 3.
    fields = Path(f"/proc/{parent}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _all_processes() -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def forget_process(pid: int | None, folder: Path) -> None:
    """Stop telling what a process that ended had in hand; what it counted stays."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
