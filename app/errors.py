"""The catalogue of everything that can go wrong, in one place.

Owns the HTTP status and the `error_type` of every failure a caller can see, and the errors that stop a start.
Runs anywhere; imports nothing of the project. Messages never contain a caller's text.
"""

from typing import ClassVar


class ServiceError(Exception):
    """A failure that is reported to the caller. The message says what happened and what to do."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidJson(ServiceError):
    """The body is not JSON."""

    status = 400
    error_type = "invalid_json"


class TooSlow(InvalidJson):
    """The request did not arrive in time."""

    status = 408


class Unauthorized(ServiceError):
    """The API key is missing or wrong."""

    status = 401
    error_type = "unauthorized"


class NotFound(ServiceError):
    """No such model or route."""

    status = 404
    error_type = "not_found"


class MethodNotAllowed(NotFound):
    """The route exists, the method does not."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class PayloadTooLarge(ServiceError):
    """The body is over the limit."""

    status = 413
    error_type = "payload_too_large"


class HeadTooLarge(PayloadTooLarge):
    """The head of the request is over the limit."""

    status = 431


class ValidationFailed(ServiceError):
    """The body is JSON, but not a request that this model can answer."""

    status = 422
    error_type = "validation"


class Overloaded(ServiceError):
    """The queue is full; the same request may succeed after `retry_after_s` seconds."""

    status = 429
    error_type = "overloaded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Internal(ServiceError):
    """A fault of this service; the log has the traceback."""


class NotReady(ServiceError):
    """The service is starting or stopping."""

    status = 503
    error_type = "not_ready"


class EngineLost(ServiceError):
    """The device or the engine failed for good; readiness is off and the process is replaced."""

    status = 503
    error_type = "engine_lost"


class DeadlineExceeded(ServiceError):
    """The answer was not ready within the request timeout; what had not run was dropped."""

    status = 504
    error_type = "deadline_exceeded"


class StartupError(Exception):
    """The service cannot start as it is configured. The message names the cause and what to change."""


class BundleError(StartupError):
    """A bundle is missing, damaged or of another schema version."""


class OtherBundles(Exception):
    """The engine has loaded other bundles than this front end: its answers would be given the wrong labels."""


class OutOfDeviceMemory(MemoryError):
    """A batch did not fit into the device's memory; a smaller one may."""


class NotFinite(ArithmeticError):
    """A model answered with NaN or infinity: an overflow in fp16, or damaged weights."""
