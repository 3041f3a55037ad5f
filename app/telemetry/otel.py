"""What OpenTelemetry's standard variables ask for, and what describes this service to a collector.

The SDK reads the rest of these variables itself: endpoints, headers, compression, samplers, names and attributes. It is imported
when something is to be sent; without that nothing of it is.
"""

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal

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
        protocol = next((name for name in (_of(signal, _PROTOCOL), _PROTOCOL) if environ.get(name)), None)
        if protocol is not None and environ[protocol] != "http/protobuf":
            log.warning(
                "this server sends %s as http/protobuf, whatever %s says: the endpoint must be the collector's HTTP port, "
                "by custom 4318",
                *(signal, protocol),
            )
    named = [name for name in (_ENDPOINT, *(_of(one, _ENDPOINT) for one in sent)) if environ.get(name)]
    if endpoint is not None and named:
        log.warning("BERT_OTLP_ENDPOINT counts, and %s is ignored. Unset one of them.", " and ".join(named))
    for name in named if endpoint is None else ():
        if not environ[name].startswith(("http://", "https://")):
            raise StartupError(f"{name} is no URL of HTTP. Set it to one such as http://localhost:4318.")


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
