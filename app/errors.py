"""The catalogue of everything that can go wrong, in one place.

Owns the HTTP status, the `error_type`, the headers and the constant messages of every failure that a caller can see, and the
errors that stop a start. Runs anywhere; imports nothing of the project. Messages never contain a caller's text.
"""

from typing import ClassVar, Final

Headers = tuple[tuple[bytes, bytes], ...]

_RETRY_SOON: Final[Headers] = ((b"retry-after", b"2"),)
_CLOSE: Final[Headers] = ((b"connection", b"close"),)


class ServiceError(Exception):
    """A failure that is reported to the caller. The message says what happened and what to do."""

    status: ClassVar[int]
    error_type: ClassVar[str]
    default: ClassVar[str]
    """The message if the place that raises has nothing to add; missing where the cause always varies."""
    headers: Headers = ()
    """What the answer has besides the headers of all answers."""

    def __init__(self, message: str | None = None) -> None:
        self.message: Final = self.default if message is None else message
        super().__init__(self.message)


class InvalidJson(ServiceError):
    """The body is not JSON."""

    status = 400
    error_type = "invalid_json"


class InvalidEncoding(ServiceError):
    """The body is not compressed as its Content-Encoding says."""

    status = 400
    error_type = "invalid_encoding"


class InvalidHttp(ServiceError):
    """The input is not an HTTP/1.1 request."""

    status = 400
    error_type = "invalid_http"
    default = (
        "This cannot be read as an HTTP/1.1 request. Check its method, its path, its headers and its Content-Length."
    )
    headers = _CLOSE


class TooManyPipelined(ServiceError):
    """Too many requests wait for the answer to an earlier one on the same connection."""

    status = 400
    error_type = "too_many_pipelined"
    headers = _CLOSE


class Unauthorized(ServiceError):
    """The API key is missing or wrong."""

    status = 401
    error_type = "unauthorized"
    default = "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'."
    headers = ((b"www-authenticate", b"Bearer"),)


class NotFound(ServiceError):
    """No such model or route."""

    status = 404
    error_type = "not_found"
    default = "There is no such route. /docs lists every route."


class MethodNotAllowed(ServiceError):
    """The route exists, the method does not."""

    status = 405
    error_type = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This route takes {allowed} only.")
        self.headers = ((b"allow", allowed.encode()),)


class RequestTimeout(ServiceError):
    """The request did not arrive in time."""

    status = 408
    error_type = "timeout"
    default = "The request had not arrived completely after BERT_READ_TIMEOUT_S. Send it again."
    headers = _CLOSE  # the rest has not been read


class BadBundle(ServiceError):
    """A bundle cannot be loaded; what was served before is served still."""

    status = 409
    error_type = "bad_bundle"


class NoRoom(ServiceError):
    """There is not enough memory for a bundle beside the one that it replaces."""

    status = 409
    error_type = "no_room"


class PayloadTooLarge(ServiceError):
    """The body is over the limit."""

    status = 413
    error_type = "payload_too_large"
    headers = _CLOSE  # the rest may not have been read


class UnsupportedEncoding(ServiceError):
    """The body is compressed in a way that this server does not know."""

    status = 415
    error_type = "unsupported_encoding"
    headers = ((b"accept-encoding", b"gzip, deflate, zstd"),)


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
        self.headers = ((b"retry-after", str(retry_after_s).encode()),)


class RateLimited(ServiceError):
    """The caller is over its rate; the same request is admitted after `retry_after_s` seconds."""

    status = 429
    error_type = "rate_limited"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.headers = ((b"retry-after", str(retry_after_s).encode()),)


class HeadTooLarge(ServiceError):
    """The head of the request is over the limit."""

    status = 431
    error_type = "head_too_large"
    headers = _CLOSE


class Internal(ServiceError):
    """A fault of this service; the log has the traceback."""

    status = 500
    error_type = "internal"
    default = "The service failed on this request. Its log has the cause."


class NotReady(ServiceError):
    """The service is starting or stopping."""

    status = 503
    error_type = "not_ready"
    default = "The service is shutting down. Retry in a few seconds."
    headers = _RETRY_SOON


class EngineLost(ServiceError):
    """The device or the engine failed for good; readiness is off and the process is replaced."""

    status = 503
    error_type = "engine_lost"
    default = "The engine was lost and is being replaced. Retry in a few seconds."
    headers = _RETRY_SOON


class DeadlineExceeded(ServiceError):
    """The answer was not ready within the request timeout; what had not run was dropped."""

    status = 504
    error_type = "deadline_exceeded"


ERRORS: Final[tuple[type[ServiceError], ...]] = tuple(ServiceError.__subclasses__())
"""Every error that a caller can see, by status."""


class StartupError(Exception):
    """The service cannot start as it is configured. The message names the cause and what to change."""


class BundleError(StartupError):
    """A bundle is missing, damaged or of another schema version."""


class Replaced(Exception):
    """The engine no longer has the bundle that a request was made for. It is made again, for the one that is served now."""


class OutOfDeviceMemory(MemoryError):
    """A batch did not fit into the device's memory; a smaller one may."""


class NotFinite(ArithmeticError):
    """A model answered with NaN or infinity: an overflow in fp16, or damaged weights."""
