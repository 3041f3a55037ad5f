"""Counts and logs what reaches no endpoint: requests for no route, and input that is no request."""

import logging
from time import monotonic
from typing import Final

from starlette.types import Scope

from app.errors import ServiceError
from app.http.asgi import READ_AT
from app.http.callers import Callers
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import NOT_ROUTED, Metrics
from app.telemetry.record import RequestRecord

log = logging.getLogger(__name__)


class Refusals:
    """Where they are told. Use it on the event loop."""

    def __init__(self, metrics: Metrics, access_log: AccessLog | None, callers: Callers) -> None:
        self._metrics: Final = metrics
        self._access_log: Final = access_log
        self._callers: Final = callers

    def of_request(self, scope: Scope, error: ServiceError, request_id: str) -> None:
        """Take note of a request that no route answers."""
        self._metrics.not_routed(error.status)
        if self._access_log is not None:
            record = RequestRecord(request_id, NOT_ROUTED, NOT_ROUTED, status=error.status, error_type=error.error_type)
            record.client = self._callers.address_of(scope)
            record.duration_s = monotonic() - scope.get(READ_AT, monotonic())
            self._access_log.write(record)

    def of_input(self, client: tuple[str, int] | None, error: ServiceError, request_id: str) -> None:
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
