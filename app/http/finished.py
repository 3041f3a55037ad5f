"""Counts and logs what is over: requests, and input that is no request."""

import logging
from time import monotonic
from typing import Final

from starlette.types import Scope

from app.errors import ServiceError
from app.http.asgi import CERTIFICATE, READ_AT
from app.http.callers import Callers
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from app.telemetry.record import RequestRecord

log = logging.getLogger(__name__)


class Finished:
    """Where it is told. Use it on the event loop."""

    def __init__(self, metrics: Metrics, access_log: AccessLog | None, callers: Callers) -> None:
        self._metrics: Final = metrics
        self._access_log: Final = access_log
        self._callers: Final = callers

    def request(self, scope: Scope, record: RequestRecord, started_at: float) -> None:
        """Take note of a request: `started_at` counts if it is not known when its last byte was read."""
        record.duration_s = monotonic() - scope.get(READ_AT, started_at)
        self._metrics.for_model(record.model).finished(record)
        if record.caller is not None:
            self._metrics.of_callers.finished(record.caller, record)
        if self._access_log is not None or record.is_sampled:
            record.client = self._callers.address_of(scope)
        if self._access_log is not None:
            if state := scope.get("state"):
                record.certificate = state.get(CERTIFICATE)
            self._access_log.write(record)

    def input(self, client: tuple[str, int] | None, error: ServiceError, request_id: str) -> None:
        """Take note of input that is no request, or is one of which too much or too little came."""
        self._metrics.not_routed(error.status)
        log.warning(
            "refused input: %s",
            error.message,
            extra={
                "request_id": request_id,
                "client": self._callers.address_of({"client": client, "headers": ()}),
                "status": error.status,
                "error_type": error.error_type,
            },
        )
