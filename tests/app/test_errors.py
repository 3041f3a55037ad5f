"""The catalogue of errors is that of the contract."""

import pytest

from app import errors
from app.errors import ERRORS, ServiceError

CATALOGUE = {
    "InvalidJson": (400, "invalid_json"),
    "InvalidEncoding": (400, "invalid_encoding"),
    "InvalidHttp": (400, "invalid_http"),
    "TooManyPipelined": (400, "too_many_pipelined"),
    "Unauthorized": (401, "unauthorized"),
    "NotFound": (404, "not_found"),
    "MethodNotAllowed": (405, "method_not_allowed"),
    "RequestTimeout": (408, "timeout"),
    "BadBundle": (409, "bad_bundle"),
    "NoRoom": (409, "no_room"),
    "PayloadTooLarge": (413, "payload_too_large"),
    "UnsupportedEncoding": (415, "unsupported_encoding"),
    "ValidationFailed": (422, "validation"),
    "Overloaded": (429, "overloaded"),
    "RateLimited": (429, "rate_limited"),
    "HeadTooLarge": (431, "head_too_large"),
    "Internal": (500, "internal"),
    "NotReady": (503, "not_ready"),
    "EngineLost": (503, "engine_lost"),
    "DeadlineExceeded": (504, "deadline_exceeded"),
}


def test_every_error_has_its_status_and_type() -> None:
    assert {error.__name__: (error.status, error.error_type) for error in ERRORS} == CATALOGUE


def test_no_error_is_a_kind_of_another() -> None:
    found = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, ServiceError)]
    assert set(found) == {ServiceError, *ERRORS}
    assert len({error.error_type for error in ERRORS}) == len(ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_a_docstring(error: type[ServiceError]) -> None:
    assert error.__doc__


@pytest.mark.parametrize(
    "error",
    [errors.Unauthorized, errors.NotFound, errors.RequestTimeout, errors.Internal, errors.NotReady, errors.EngineLost],
)
def test_a_constant_message_need_not_be_passed(error: type[ServiceError]) -> None:
    assert error().message == str(error()) == error.default
    assert error("another").message == str(error("another")) == "another"


def test_an_error_whose_message_varies_needs_one() -> None:
    with pytest.raises(AttributeError, match="default"):
        errors.ValidationFailed()
