"""Which signals OpenTelemetry's standard variables ask for."""

import logging

import pytest

from app.errors import StartupError
from app.telemetry.otel import check, is_exported

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
OWN = "http://collector:4318/"


@pytest.mark.parametrize(
    ("endpoint", "environ", "traces", "metrics"),
    [
        (None, {}, False, False),
        (OWN, {}, True, False),
        (None, COLLECTOR, True, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False, False),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector/traces"}, True, False),
        (None, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector/metrics"}, False, True),
        (None, {"OTEL_TRACES_EXPORTER": "otlp"}, True, False),
        (None, {"OTEL_METRICS_EXPORTER": "otlp"}, False, True),
        (OWN, {"OTEL_METRICS_EXPORTER": "prometheus, otlp"}, True, True),
        (OWN, {"OTEL_TRACES_EXPORTER": "none"}, False, False),
        (None, COLLECTOR | {"OTEL_TRACES_EXPORTER": "console"}, False, False),
        (OWN, COLLECTOR | {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, False, False),
        (OWN, {"OTEL_SDK_DISABLED": "false"}, True, False),
    ],
)
def test_standard_variables_turn_signals_on_and_off(
    endpoint: str | None, environ: dict[str, str], traces: bool, metrics: bool
) -> None:
    assert is_exported("traces", endpoint, environ) is traces
    assert is_exported("metrics", endpoint, environ) is metrics


@pytest.mark.parametrize(
    ("endpoint", "environ", "warning"),
    [
        (OWN, COLLECTOR, "BERT_OTLP_ENDPOINT counts, and OTEL_EXPORTER_OTLP_ENDPOINT is ignored"),
        (OWN, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, "and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is ignored"),
        (None, {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: this server sends traces by otlp only"),
        (
            None,
            {"OTEL_METRICS_EXPORTER": "prometheus"},
            "OTEL_METRICS_EXPORTER: this server sends metrics by otlp only",
        ),
        (None, COLLECTOR | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "whatever OTEL_EXPORTER_OTLP_PROTOCOL says"),
        (
            None,
            COLLECTOR | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "whatever OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ),
        (OWN, {"OTEL_EXPORTER_OTLP_HEADERS": "a=b,Bearer s3cret"}, "OTEL_EXPORTER_OTLP_HEADERS: number 2 of its parts"),
        (
            OWN,
            {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "key=s3%0Acret", "OTEL_EXPORTER_OTLP_HEADERS": "ignored"},
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS: number 1 of its parts",
        ),
        (
            OWN,
            {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: this server sends metrics as cumulative",
        ),
        (OWN, {"OTEL_RESOURCE_ATTRIBUTES": "a=b,,s3cret"}, "OTEL_RESOURCE_ATTRIBUTES: number 2 of its parts"),
        (OWN, {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such"}, "OTEL_EXPORTER_OTLP_CERTIFICATE: there is no such file"),
    ],
)
def test_a_variable_that_does_not_count_is_a_warning(
    caplog: pytest.LogCaptureFixture, endpoint: str | None, environ: dict[str, str], warning: str
) -> None:
    with caplog.at_level(logging.WARNING):
        check(endpoint, environ)
    [record] = [one for one in caplog.records if one.name.startswith("app.")]  # `configure` silences the SDK's
    assert warning in record.getMessage()
    assert "cret" not in record.getMessage()


@pytest.mark.parametrize(
    ("endpoint", "environ"),
    [
        (None, {}),
        (OWN, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ""}),
        (None, COLLECTOR | {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}),
        (OWN, COLLECTOR | {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}),
        (OWN, {"OTEL_EXPORTER_OTLP_HEADERS": "a=Bearer b, c=%C3%A9,", "OTEL_RESOURCE_ATTRIBUTES": "a=b=c, d="}),
        (None, COLLECTOR | {"OTEL_EXPORTER_OTLP_ENDPOINT": "HTTPS://user:key@[::1]:4318/path"}),
    ],
)
def test_what_is_as_asked_for_is_no_warning(
    caplog: pytest.LogCaptureFixture, endpoint: str | None, environ: dict[str, str]
) -> None:
    check(endpoint, environ)
    assert not caplog.records


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize("endpoint", ["collector:4318", "http://", "http://[::1", "http://collector:99999"])
def test_an_endpoint_that_is_no_url_ends_the_start(name: str, endpoint: str) -> None:
    with pytest.raises(StartupError, match=f"^{name} is no URL"):
        check(None, {name: endpoint})
    check(None, {name: "collector:4318", "OTEL_TRACES_EXPORTER": "none"})
