"""The catalogue of errors is that of the contract."""

import pytest

from app import errors
from app.errors import ServiceError

CATALOGUE = {
    "InvalidJson": (400, "invalid_json", False),
    "Unauthorized": (401, "unauthorized", False),
    "NotFound": (404, "not_found", False),
    "MethodNotAllowed": (405, "not_found", False),
    "PayloadTooLarge": (413, "payload_too_large", False),
    "ValidationFailed": (422, "validation", False),
    "Overloaded": (429, "overloaded", True),
    "ServiceError": (500, "internal", False),
    "Internal": (500, "internal", False),
    "NotReady": (503, "not_ready", True),
    "EngineLost": (503, "engine_lost", True),
    "DeadlineExceeded": (504, "deadline_exceeded", True),
}


def test_status_type_and_whether_a_retry_helps() -> None:
    found = {
        name: (error.status, error.error_type, error.retryable)
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, ServiceError)
    }
    assert found == CATALOGUE


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_is_described(name: str) -> None:
    assert getattr(errors, name).__doc__
