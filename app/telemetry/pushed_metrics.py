"""Metrics sent to an OpenTelemetry collector: those of `/metrics`, by the same names and labels, so that the same queries hold.

One process of a service sends them. Each time it reads what `/metrics` would say; nothing is counted twice, and no measurement is
kept while a collector is down: the next report has its sum. A thread reads and sends.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from threading import TIMEOUT_MAX, Event, Thread
from typing import TYPE_CHECKING, Final

from app import __version__
from app.telemetry.otel import FLUSH_WITHIN_S, endpoint_of, resource

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricsData
    from opentelemetry.sdk.resources import Resource
    from prometheus_client.metrics_core import Metric as Family

log = logging.getLogger(__name__)

INTERVAL_MS: Final = 60_000
_VARIABLE: Final = "OTEL_METRIC_EXPORT_INTERVAL"
_SUMS: Final = ("counter", "histogram")
_STARTED: Final = "process_start_time_seconds"

Families = Callable[[], Iterable["Family"]]


class PushedMetrics:
    """Sends metrics at an interval, and sums once more at the end.

    Gauges are not sent then: processes have ended, and that none is ready would be an alert for each stop in order.
    """

    def __init__(self, endpoint: str | None, families: Families, instance: str) -> None:
        """Start the thread.

        Args:
            endpoint: The collector's OTLP/HTTP address, without the path of a signal; None for that of OpenTelemetry's variables.
            families: Reads all metrics. It is called in the thread.
            instance: What tells this service from others of its name, as Prometheus' label `instance`.
        """
        from app.telemetry.collector import MetricExporter  # noqa: PLC0415

        self._resource: Final = resource(service_instance_id=instance)
        self._exporter: Final = MetricExporter(endpoint_of("metrics", endpoint))
        self._families: Final = families
        self._interval_s: Final = _interval_s()
        self._is_ending: Final = Event()
        self._thread: Final = Thread(target=self._push_on, name="push metrics", daemon=True)
        self._thread.start()
        log.info("metrics are sent to an OpenTelemetry collector every %g s", self._interval_s)

    def close(self) -> None:
        """Send the last sums, waiting at most `FLUSH_WITHIN_S` for the collector."""
        self._is_ending.set()
        self._thread.join(FLUSH_WITHIN_S)
        if self._thread.is_alive():
            log.warning("the collector of metrics does not respond: the last sums are lost")
        self._exporter.shutdown()

    def _push_on(self) -> None:
        while not self._is_ending.wait(self._interval_s):
            self._push()
        self._push(is_last=True)

    def _push(self, *, is_last: bool = False) -> None:
        try:
            self._exporter.export(as_otlp(self._families(), self._resource, with_gauges=not is_last))
        except Exception:
            log.exception("metrics could not be read or sent")


def _interval_s() -> float:
    text = os.environ.get(_VARIABLE, "").strip()
    if not text:
        return INTERVAL_MS / 1000
    if text.isdecimal() and 0 < float(text) < TIMEOUT_MAX * 1000:
        return float(text) / 1000
    log.warning("%s is no number of milliseconds above 0, or too large: %d counts", _VARIABLE, INTERVAL_MS)
    return INTERVAL_MS / 1000


def as_otlp(families: Iterable["Family"], of: "Resource", *, with_gauges: bool) -> "MetricsData":
    """Return metrics of prometheus_client as those of OpenTelemetry, as a collector's Prometheus receiver makes them.

    All sums are since the service started, which is when its first process did: memory that processes share outlives them.

    Args:
        families: The metrics.
        of: What they are of.
        with_gauges: Whether to return those that are no sums, too.
    """
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

    read = list(families)
    now_ns = time.time_ns()
    started = [sample.value for family in read for sample in family.samples if sample.name == _STARTED]
    start_ns = int(min(started) * 1e9) if started else now_ns
    metrics = [
        _metric(family, start_ns, now_ns) for family in read if family.samples and (with_gauges or family.type in _SUMS)
    ]
    scope = ScopeMetrics(InstrumentationScope("app", __version__), metrics, "")
    return MetricsData([ResourceMetrics(of, [scope], "")])


def _metric(family: "Family", start_ns: int, now_ns: int) -> "Metric":
    from opentelemetry.sdk.metrics import export as otlp  # noqa: PLC0415

    cumulative = otlp.AggregationTemporality.CUMULATIVE
    data: otlp.Sum | otlp.Gauge
    if family.type == "histogram":
        return otlp.Metric(
            family.name, family.documentation, "", otlp.Histogram(_histograms(family, start_ns, now_ns), cumulative)
        )
    is_counter = family.type == "counter"
    points = [
        otlp.NumberDataPoint(sample.labels, start_ns if is_counter else 0, now_ns, float(sample.value))
        for sample in family.samples
    ]
    data = otlp.Sum(points, cumulative, is_monotonic=True) if is_counter else otlp.Gauge(points)
    return otlp.Metric(family.samples[0].name, family.documentation, "", data)


def _histograms(family: "Family", start_ns: int, now_ns: int) -> list["HistogramDataPoint"]:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint  # noqa: PLC0415

    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        if sample.name == f"{family.name}_bucket":
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name == f"{family.name}_sum":
            sums[labels] = sample.value
    points = []
    for labels, bounds in buckets.items():
        bounds.sort()
        counts = [int(count) for _, count in bounds]
        points.append(
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=start_ns,
                time_unix_nano=now_ns,
                count=counts[-1],
                sum=sums[labels],
                bucket_counts=[count - before for count, before in zip(counts, [0, *counts[:-1]], strict=True)],
                explicit_bounds=[bound for bound, _ in bounds[:-1]],
                min=None,  # type: ignore[arg-type] # a Prometheus histogram has neither: the field is not sent
                max=None,  # type: ignore[arg-type]
            )
        )
    return points
