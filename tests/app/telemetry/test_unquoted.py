"""What the log has of an error that came by a caller's text."""

import errno
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from app.telemetry.unquoted import unquoted

TEXT = "Donaudampfschifffahrt"
NOTHING: dict[str, str] = {}


class Form(BaseModel):
    number: int


class Panic(BaseException):
    """As Rust libraries raise."""


def logged(raises: Callable[[str], Any]) -> str:
    try:
        raises(TEXT)
    except BaseException as error:
        return "".join(traceback.format_exception(unquoted(error)))
    pytest.fail("nothing was raised")


def panic(text: str) -> None:
    raise Panic(f"byte index 1 is not a char boundary of `{text}`")


def as_another(text: str) -> None:
    try:
        NOTHING[text]
    except KeyError as error:
        raise LookupError(text) from error


def while_handling(text: str) -> None:
    try:
        NOTHING[text]
    except KeyError:
        int(text)


def noted(text: str) -> None:
    error = ValueError(text)
    error.add_note(text)
    raise error


def in_a_circle(text: str) -> None:
    first, second = ValueError(text), KeyError(text)
    first.__cause__, second.__cause__ = second, first
    raise first


@pytest.mark.parametrize(
    ("raises", "kinds"),
    [
        (int, ["ValueError"]),
        (NOTHING.__getitem__, ["KeyError"]),
        (lambda text: f"{text}é".encode("ascii"), ["UnicodeEncodeError"]),
        (lambda text: Form(number=text), ["pydantic_core._pydantic_core.ValidationError"]),
        (panic, [f"{__name__}.Panic"]),
        (as_another, ["KeyError", "LookupError"]),
        (while_handling, ["KeyError", "ValueError"]),
        (noted, ["ValueError"]),
        (in_a_circle, ["KeyError", "ValueError"]),
    ],
    ids=["int", "key", "codec", "pydantic", "panic", "cause", "context", "note", "circle"],
)
def test_an_error_is_logged_with_its_kind_and_lines_and_never_its_message(
    raises: Callable[[str], Any], kinds: list[str]
) -> None:
    told = logged(raises)
    assert TEXT not in told
    assert [line for line in told.splitlines() if line[:1] not in {" ", ""} and " " not in line] == kinds
    assert "in logged" in told


def test_an_error_of_the_system_is_logged_as_the_system_calls_it() -> None:
    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, text, text)

    told = logged(full)
    assert told.endswith("OSError: No space left on device\n")
    assert TEXT not in told


def test_a_cause_that_was_hidden_stays_so() -> None:
    def hides(text: str) -> None:
        try:
            NOTHING[text]
        except KeyError:
            raise ValueError from None

    assert "KeyError" not in logged(hides)
