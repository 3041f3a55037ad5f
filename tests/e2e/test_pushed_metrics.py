"""Metrics, as a collector receives them from the real server: one process, and two front ends with an engine."""

import re
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.otel import FLUSH_WITHIN_S
from tests.conftest import BundleOf
from tests.e2e.collector import Collector, Received
from tests.e2e.processes import classify, until
from tests.support import ServerProcess, serving

EACH = pytest.mark.parametrize("workers", ["1", "2"], ids=["alone", "workers"])
PATH = "/v1/metrics"
OFTEN = {"OTEL_METRIC_EXPORT_INTERVAL": "50"}
AT_THE_END = {"OTEL_METRIC_EXPORT_INTERVAL": "600000"}
"""Nothing is sent before the end of the server."""
OF_PROCESSES = re.compile(r"process_|bert_memory|bert_cpu")
"""What goes on while nobody asks."""

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def models(bundle_of: BundleOf) -> Path:
    return bundle_of("bert-single-label")


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def pushing(collector: Collector, **variables: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "none",
    } | variables


def scraped(server: ServerProcess) -> Series:
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    return {
        (sample.name, labels(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(named: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """In order, with a bound of a bucket as a number."""
    return tuple(sorted((name, str(float(value)) if name == "le" else value) for name, value in named.items()))


def metrics(request: Received) -> list[Metric]:
    [of_resource] = ExportMetricsServiceRequest.FromString(request.body).resource_metrics
    [of_scope] = of_resource.scope_metrics
    return list(of_scope.metrics)


def resource(request: Received) -> dict[str, str]:
    [of_resource] = ExportMetricsServiceRequest.FromString(request.body).resource_metrics
    return {one.key: one.value.string_value for one in of_resource.resource.attributes}


def pushed(request: Received) -> Series:
    """The series that a collector exposes to Prometheus."""
    series: Series = {}
    for metric in metrics(request):
        if metric.HasField("histogram"):
            for histogram in metric.histogram.data_points:
                named = {one.key: one.value.string_value for one in histogram.attributes}
                bounds = [*map(str, histogram.explicit_bounds), "inf"]
                for bound, count in zip(bounds, accumulate(histogram.bucket_counts), strict=True):
                    series[f"{metric.name}_bucket", labels(named | {"le": bound})] = count
                series[f"{metric.name}_count", labels(named)] = histogram.count
                series[f"{metric.name}_sum", labels(named)] = histogram.sum
            continue
        for number in (metric.sum if metric.HasField("sum") else metric.gauge).data_points:
            named = {one.key: one.value.string_value for one in number.attributes}
            series[metric.name, labels(named)] = number.as_double
    return series


def ask(server: ServerProcess) -> Series:
    """What `/metrics` says when some requests have been answered and counted."""
    for text in ["a", "two words", "three more words"] * 4:
        assert classify(server, text).status_code == 200
    assert classify(server, 5).status_code == 422
    # A front end counts after it has answered, and the engine after that.
    until(lambda: server.metric("bert_requests_total") == 13 and server.metric("bert_batch_sequences_sum") == 12)
    return scraped(server)


def without_processes(series: Series) -> Series:
    return {key: value for key, value in series.items() if not OF_PROCESSES.match(key[0])}


@EACH
def test_a_collector_gets_what_metrics_say(models: Path, collector: Collector, workers: str) -> None:
    with serving(models, "--workers", workers, "--threads", "1", **pushing(collector, **OFTEN)) as server:
        expected = ask(server)
        until(lambda: without_processes(pushed(collector.received[-1])) == without_processes(expected))
        found = pushed(collector.received[-1])
        assert set(found) == set(expected)
        assert found["process_start_time_seconds", ()] == expected["process_start_time_seconds", ()]
        assert found["process_cpu_seconds_total", ()] > 0
        assert server.stop() == 0


@EACH
def test_the_last_sums_are_sent_before_the_server_ends(models: Path, collector: Collector, workers: str) -> None:
    with serving(models, "--workers", workers, "--threads", "1", **pushing(collector, **AT_THE_END)) as server:
        expected = ask(server)
        assert not collector.received
        assert server.stop() == 0
    [request] = collector.of(PATH)
    assert not [metric.name for metric in metrics(request) if metric.HasField("gauge")]
    sums = without_processes(pushed(request))
    assert sums == {key: expected[key] for key in sums}
    assert {name for name, _ in without_processes(expected) if re.search("_(total|bucket|count|sum)$", name)} == {
        name for name, _ in sums
    }


@EACH
def test_sums_are_cumulative_since_the_service_started(models: Path, collector: Collector, workers: str) -> None:
    before_ns = time.time_ns()
    with serving(models, "--workers", workers, "--threads", "1", **pushing(collector, **AT_THE_END)) as server:
        assert classify(server, "a").status_code == 200
        assert server.stop() == 0
    [request] = collector.of(PATH)
    points = []
    for metric in metrics(request):
        is_sum = metric.HasField("sum")
        data = metric.sum if is_sum else metric.histogram
        assert data.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        points += data.data_points
        assert metric.sum.is_monotonic is is_sum
        assert metric.name.endswith("_total") is is_sum
    [start_ns] = {point.start_time_unix_nano for point in points}
    # The kernel's clock of starts has ticks of 10 ms, and its time of boot is in whole seconds.
    assert before_ns - 1_010_000_000 < start_ns < min(point.time_unix_nano for point in points)


@EACH
def test_metrics_are_sent_at_the_interval_by_one_process(models: Path, collector: Collector, workers: str) -> None:
    variables = pushing(collector, **OFTEN, OTEL_EXPORTER_OTLP_COMPRESSION="gzip", OTEL_EXPORTER_OTLP_HEADERS="tenant=blue,Bearer s3cret",
                        OTEL_SERVICE_NAME="moods", OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test")  # fmt: skip
    with serving(models, "--workers", workers, "--threads", "1", **variables) as server:
        assert classify(server, "a").status_code == 200
        until(lambda: collector.received and pushed(collector.received[-1])["bert_engine_up", ()] == 1)
        count = len(collector.received)
        until(lambda: len(collector.received) > count + 3)
        assert server.stop() == 0
        assert server.log.count("OTEL_EXPORTER_OTLP_HEADERS: number 2") == 1
        assert "s3cret" not in server.log
    requests = collector.of(PATH)
    assert len(requests) == len(collector.received)
    assert {one.headers["content-encoding"] for one in requests} == {"gzip"}
    assert {one.headers["tenant"] for one in requests} == {"blue"}
    [described] = {tuple(sorted(resource(one).items())) for one in requests}
    port = server.url.rpartition(":")[2]
    expected = {
        "service.name": "moods",
        "deployment.environment.name": "test",
        "service.instance.id": f"{socket.gethostname()}:{port}",
    }
    assert expected.items() <= dict(described).items()


def test_a_collector_that_is_down_is_told_once_and_gets_all_later(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = {"BERT_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_METRICS_EXPORTER": "otlp",
                 "OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}  # fmt: skip
    with serving(models, "--threads", "1", **variables, **OFTEN) as server:
        assert classify(server, "a").status_code == 200
        until(lambda: "the collector does not take metrics" in server.log)
        assert classify(server, "a").status_code == 200
        collector = Collector(port)
        try:
            until(lambda: "the collector takes metrics again" in server.log)
            until(lambda: pushed(collector.received[-1])["bert_engine_up", ()] == 1)
            assert server.stop() == 0
        finally:
            collector.close()
        key = (
            "bert_requests_total",
            labels({"model": "bert-single-label", "task": "classify", "api": "native", "status": "200"}),
        )
        assert server.log.count("the collector does not take metrics") == 1
        assert "Traceback" not in server.log
    last = pushed(collector.received[-1])
    assert key in last, sorted(name for name in last if name[0] == key[0])
    assert last[key] == 2


@EACH
def test_a_collector_that_hangs_delays_an_end_by_seconds_at_most(models: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        variables = {"BERT_OTLP_ENDPOINT": url, "OTEL_METRICS_EXPORTER": "otlp"}
        with serving(models, "--workers", workers, "--threads", "1", **variables, **AT_THE_END) as server:
            assert classify(server, "a").status_code == 200
            assert server.stop() == 0
            lost = [
                datetime.fromisoformat(record["time"])
                for record in server.records
                if re.search("the last (traces|sums) are lost", record["message"])
            ]
    assert len(lost) == 2
    # One process waits for both at once; the supervisor's sums are complete only when its processes have ended.
    assert workers == "2" or abs(lost[1] - lost[0]).total_seconds() < FLUSH_WITHIN_S
