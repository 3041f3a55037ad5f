"""Metrics of the service sent to a collector, by its one process that was started."""

import socket

from app.settings import Settings
from app.telemetry.otel import is_exported
from app.telemetry.pushed_metrics import Families, PushedMetrics


def push_metrics(settings: Settings, families: Families, listener: socket.socket) -> PushedMetrics | None:
    """Begin to send metrics, if the environment asks for that.

    Args:
        settings: Of the service.
        families: Reads all metrics.
        listener: The socket that the service listens on; its port tells instances of one machine apart.
    """
    if not is_exported("metrics", settings.collector):
        return None
    return PushedMetrics(settings.collector, families, f"{socket.gethostname()}:{listener.getsockname()[1]}")
