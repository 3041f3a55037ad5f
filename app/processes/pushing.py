"""Metrics of the service sent to a collector, by its one process that was started."""

import socket

from app.http.listening.ports import Ports
from app.settings import Settings
from app.telemetry.otel import is_exported, read_variables
from app.telemetry.pushed_metrics import Families, PushedMetrics


def push_metrics(settings: Settings, families: Families, ports: Ports) -> PushedMetrics | None:
    """Begin to send metrics, if the environment asks for that.

    Args:
        settings: Of the service.
        families: Reads all metrics.
        ports: Of the service; the main one tells instances of one machine apart.

    Raises:
        StartupError: a variable of OpenTelemetry is wrong.
    """
    if not is_exported("metrics", settings.collector):
        return None
    with read_variables():
        return PushedMetrics(settings.collector, families, f"{socket.gethostname()}:{ports.name}")
