"""What the log says of a collector that does not take what it is sent."""

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from app.telemetry.collector import MetricExporter, SpanExporter
from app.telemetry.logs import configure
from app.telemetry.pushed_metrics import PushedMetrics
from tests.certificates import Authority
from tests.e2e.collector import Collector

REJECTED = b"\n\x09\x08\x05\x12\x05sorry"
"""A message by which a collector says that it has rejected 5 of what it was sent."""
SPAN = ReadableSpan("a", SpanContext(1, 1, is_remote=False), start_time=1, end_time=2)
SENDERS: dict[str, Callable[[str], object]] = {
    "traces": lambda url: SpanExporter(url).export([SPAN]),
    "metrics": lambda url: MetricExporter(url).export(MetricsData([])),
}
EACH = pytest.mark.parametrize("signal", SENDERS)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # seconds; too few for a second attempt
    collector = Collector()
    yield collector
    collector.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("app.")]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, b"", "it answers 401"),
        (503, b"", "it answers 503"),
        (301, b"", "it answers 301"),
        (200, REJECTED, "it has rejected 5 of them, and says 'sorry'"),
    ],
)
def test_what_a_collector_does_not_take_is_told_once_and_when_it_does_again(
    collector: Collector, caplog: pytest.LogCaptureFixture, status: int, body: bytes, reason: str
) -> None:
    spans, metrics = SpanExporter(collector.url), MetricExporter(collector.url)
    with caplog.at_level(logging.INFO):
        for collector.status, collector.body in [
            (200, b""),
            (status, body),
            (status, body),
            (200, b"\xff"),
            (204, b""),
        ]:
            spans.export([SPAN])
            metrics.export(MetricsData([]))
    assert told(caplog) == [
        f"the collector does not take traces: {reason}",
        f"the collector does not take metrics: {reason}",
        "the collector takes traces again",
        "the collector takes metrics again",
    ]


@EACH
@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize(
    ("path", "header", "reason"),
    [
        ("", "a=b", "Connection refused"),
        ("/?s3cret", "a=b", "Connection refused"),
        ("", "a=s3%0As3cret", "InvalidHeader"),
    ],
)
def test_a_reason_holds_no_address_and_no_header(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], signal: str, path: str,
    header: str, reason: str,
) -> None:  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", header)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    configure("debug", "text")
    SENDERS[signal](url)
    written = capfd.readouterr().err
    assert f"the collector does not take {signal}: {reason}" in written
    assert "s3cret" not in written


@pytest.mark.parametrize("interval", ["0", "-1", "1e3", "9" * 20])
def test_an_interval_that_cannot_be_waited_for_is_a_minute(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, interval: str
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", interval)
    with caplog.at_level(logging.INFO):
        PushedMetrics(collector.url, list, "here").close()
    warning, sent = told(caplog)
    assert warning.startswith("OTEL_METRIC_EXPORT_INTERVAL is no number of milliseconds")
    assert sent.endswith("every 60 s")


@EACH
def test_the_certificate_of_a_collector_counts_before_those_of_other_programs(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, signal: str
) -> None:
    authority = Authority(tmp_path)
    certificate = authority.sign("collector")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key)
    collector.server.socket = context.wrap_socket(collector.server.socket, server_side=True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(authority.path))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path, "others").path))
    SENDERS[signal](collector.url.replace("http:", "https:"))
    assert told(caplog) == []
    assert len(collector.received) == 1
