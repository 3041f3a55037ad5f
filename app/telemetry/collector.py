"""The connections to an OpenTelemetry collector. The SDK is imported with this module.

The SDK's exporters log every attempt, with addresses, headers and whatever a collector answers, which may hold keys. They take a
redirect for success, and pass over what a collector has rejected. Here the log tells once that a collector does not take what it
is sent, and why, and once that it does again. `logs.configure` silences theirs.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import requests
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from app.telemetry.otel import Signal

log = logging.getLogger(__name__)

_MOST_CHARACTERS: Final = 200
"""Of what a collector says."""


class SpanExporter(OTLPSpanExporter):
    """Sends spans."""

    def __init__(self, endpoint: str | None) -> None:
        """Connect to nothing yet: the collector may come and go.

        Args:
            endpoint: The collector's address for spans; None for that of OpenTelemetry's variables.
        """
        self._link: Final = _Link("traces")
        super().__init__(endpoint, session=self._link)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = super().export(spans)
        except Exception:  # older releases of the SDK pass on what prevents an attempt
            result = SpanExportResult.FAILURE
        self._link.tell(is_sent=result is SpanExportResult.SUCCESS)
        return result


class MetricExporter(OTLPMetricExporter):
    """Sends metrics."""

    def __init__(self, endpoint: str | None) -> None:
        """Connect to nothing yet, as `SpanExporter`."""
        self._link: Final = _Link("metrics")
        super().__init__(endpoint, session=self._link)

    def export(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> MetricExportResult:  # noqa: ANN401 - as its base
        try:
            result = super().export(metrics_data, *args, **kwargs)
        except Exception:  # as above
            result = MetricExportResult.FAILURE
        self._link.tell(is_sent=result is MetricExportResult.SUCCESS)
        return result


class _Link(requests.Session):
    """A connection for one signal, which knows why an attempt failed."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal: Final = signal
        self._failure: str | None = None
        """Of the last attempt."""
        self._fails = False

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401 - as its base
        # Else REQUESTS_CA_BUNDLE would count before OTEL_EXPORTER_OTLP_CERTIFICATE.
        kwargs.setdefault("verify", self.verify)
        try:
            response = super().request(*args, **kwargs)
        except Exception as error:
            self._failure = _reason(error)
            raise
        status = response.status_code
        self._failure = self._rejected(response) if status < 300 else f"it answers {status}"
        if 300 <= status < 400:
            raise requests.HTTPError(self._failure)
        return response

    def tell(self, *, is_sent: bool) -> None:
        """Log how an export ended, if the one before it did not end so."""
        failure, self._failure = self._failure, None
        fails = bool(failure) or not is_sent
        if fails is self._fails:
            return
        self._fails = fails
        if fails:
            log.warning(
                "the collector does not take %s: %s",
                self._signal,
                failure or "they cannot be encoded, or are too large",
            )
        else:
            log.info("the collector takes %s again", self._signal)

    def _rejected(self, response: requests.Response) -> str | None:
        """Return what a collector says that it has rejected of what it took."""
        try:
            if self._signal == "traces":
                spans = ExportTraceServiceResponse.FromString(response.content).partial_success
                count, message = spans.rejected_spans, spans.error_message
            else:
                points = ExportMetricsServiceResponse.FromString(response.content).partial_success
                count, message = points.rejected_data_points, points.error_message
        except DecodeError:
            return None
        return f"it has rejected {count} of them, and says {message[:_MOST_CHARACTERS]!r}" if count else None


def _reason(error: BaseException) -> str:
    """Return why nothing was sent, without what an error's text may hold: an address or a header."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
