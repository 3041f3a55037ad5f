"""The catalogue of errors is that of the contract."""

import pytest

from app import errors
from app.errors import ServiceError

CATALOGUE = {
    "InvalidJson": (400, "invalid_json"),
    "TooSlow": (408, "invalid_json"),
    "Unauthorized": (401, "unauthorized"),
    "NotFound": (404, "not_found"),
    "MethodNotAllowed": (405, "not_found"),
    "PayloadTooLarge": (413, "payload_too_large"),
    "HeadTooLarge": (431, "payload_too_large"),
    "ValidationFailed": (422, "validation"),
    "Overloaded": (429, "overloaded"),
    "ServiceError": (500, "internal"),
    "Internal": (500, "internal"),
    "NotReady": (503, "not_ready"),
    "EngineLost": (503, "engine_lost"),
    "DeadlineExceeded": (504, "deadline_exceeded"),
}


def test_status_and_type() -> None:
    found = {
        name: (error.status, error.error_type)
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, ServiceError)
    }
    assert found == CATALOGUE


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_is_described(name: str) -> None:
    assert getattr(errors, name).__doc__
