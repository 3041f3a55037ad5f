"""What OpenTelemetry's standard variables ask for, and what describes this service to a collector.

The SDK reads the rest of these variables itself: endpoints, headers, compression, samplers, names and attributes. It is imported
when something is to be sent; without that nothing of it is.
"""

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from app import __version__
from app.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

log = logging.getLogger(__name__)

Signal = Literal["traces", "metrics"]

SERVICE_NAME: Final = "bert-inference-service"
FLUSH_WITHIN_S: Final = 3.0
"""Longest wait for the collector at shutdown; a supervisor gives its processes 5 s beyond the shutdown timeout."""
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
_HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"
_FILES: Final = tuple(f"OTEL_EXPORTER_OTLP_{name}" for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"))
_OF_METRICS: Final = {
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram",
}
"""How metrics are sent, as `/metrics` counts them."""
_ATTRIBUTES: Final = "OTEL_RESOURCE_ATTRIBUTES"


def is_exported(signal: Signal, endpoint: str | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a signal is to be sent to a collector.

    Traces are if a collector is named; metrics, which `/metrics` has, only if they are asked for.

    Args:
        signal: Which.
        endpoint: The collector of the settings, if any.
        environ: The environment.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporters := _exporters(signal, environ):
        return "otlp" in exporters
    if environ.get(_of(signal, _ENDPOINT)):
        return True
    return signal == "traces" and bool(endpoint or environ.get(_ENDPOINT))


def check(endpoint: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """Log what does not count of the variables, once for a service.

    Raises:
        StartupError: something is to be sent, and OpenTelemetry is not installed, or an endpoint is no URL.
    """
    signals: tuple[Signal, ...] = ("traces", "metrics")
    for signal in signals:
        if others := sorted(_exporters(signal, environ) - {"otlp", "none"}):
            name = f"OTEL_{signal.upper()}_EXPORTER"
            log.warning("%s: this server sends %s by otlp only; ignored: %s", name, signal, ", ".join(others))
    sent = [signal for signal in signals if is_exported(signal, endpoint, environ)]
    if not sent:
        return
    _require_sdk()
    for signal in sent:
        protocol = _that_counts(signal, _PROTOCOL, environ)
        if protocol is not None and environ[protocol] != "http/protobuf":
            log.warning(
                "this server sends %s as http/protobuf, whatever %s says: the endpoint must be the collector's HTTP port, "
                "by custom 4318",
                *(signal, protocol),
            )
    _check_values(sent, environ)
    named = [name for name in (_ENDPOINT, *(_of(one, _ENDPOINT) for one in sent)) if environ.get(name)]
    if endpoint is not None and named:
        log.warning("BERT_OTLP_ENDPOINT counts, and %s is ignored. Unset one of them.", " and ".join(named))
    for name in named if endpoint is None else ():
        if not _is_url(environ[name]):
            raise StartupError(f"{name} is no URL of HTTP. Set it to one such as http://localhost:4318.")


def _check_values(sent: Collection[Signal], environ: Mapping[str, str]) -> None:
    """Log which headers, attributes, files and ways of sending metrics cannot be used."""
    for variable, way in _OF_METRICS.items() if "metrics" in sent else ():
        if environ.get(variable, way).strip().lower() != way:
            log.warning("%s: this server sends metrics as %s", variable, way)
    counting = [
        name
        for signal in sent
        for one in (_HEADERS, *_FILES)
        if (name := _that_counts(signal, one, environ)) is not None
    ]
    for name in dict.fromkeys((*counting, _ATTRIBUTES)):  # one may count for both signals
        if name.endswith(("HEADERS", "ATTRIBUTES")):
            _check_pairs(name, environ.get(name, ""))
        elif not Path(environ[name]).exists():
            log.warning("%s: there is no such file, and nothing can be sent by TLS", name)


@contextmanager
def read_variables() -> Iterator[None]:
    """Name OpenTelemetry's variables as the cause if the SDK refuses one.

    Raises:
        StartupError: it did.
    """
    try:
        yield
    except ValueError as error:
        raise StartupError(f"OpenTelemetry cannot use its variables: {error}") from error


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check_pairs(variable: str, text: str) -> None:
    """Log which parts of a variable are no NAME=VALUE, but not what they hold, which may be a key."""
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415

    parts = [part for part in text.split(",") if part.strip()]
    for number, part in enumerate(parts, 1):
        is_pair = "=" in part
        if variable != _ATTRIBUTES:
            is_pair = any(map(_can_be_sent, parse_env_headers(part, liberal=True).values()))
        if not is_pair:
            log.warning("%s: number %d of its parts is no NAME=VALUE that can be sent", variable, number)


def _can_be_sent(value: str) -> bool:
    return value.isprintable() and max(value, default="") <= "\xff"


def endpoint_of(signal: Signal, endpoint: str | None) -> str | None:
    """Return where a signal goes by the collector of the settings; None leaves that to the SDK's variables."""
    return None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"


def resource(**attributes: str | int) -> "Resource":
    """Return what describes this service, with these attributes; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count first.

    Args:
        attributes: By OpenTelemetry's name, with _ for a dot.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415

    described = {name.replace("_", "."): value for name, value in attributes.items()}
    own = Resource.create({"service.name": SERVICE_NAME, "service.version": __version__, **described})
    return own.merge(OTELResourceDetector().detect())


def _exporters(signal: Signal, environ: Mapping[str, str]) -> set[str]:
    return {one.strip().lower() for one in environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")} - {""}


def _of(signal: Signal, variable: str) -> str:
    """Return the variable that counts for one signal alone."""
    return variable.replace("OTLP_", f"OTLP_{signal.upper()}_")


def _that_counts(signal: Signal, variable: str, environ: Mapping[str, str]) -> str | None:
    """Return the variable that is set for a signal: its own, or that of all signals."""
    return next((name for name in (_of(signal, variable), variable) if environ.get(name)), None)


def _require_sdk() -> None:
    try:
        is_installed = bool(find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # of a package above them
        is_installed = False
    if not is_installed:
        raise StartupError(
            "BERT_OTLP_ENDPOINT or a variable OTEL_... asks for traces or metrics, but the OpenTelemetry SDK is not installed. "
            "Install the extra otel (pip install '.[otel]'), or unset it, or set OTEL_SDK_DISABLED=true."
        )
