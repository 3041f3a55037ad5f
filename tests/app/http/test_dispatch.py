"""Answers of the FastAPI application have one X-Request-Id, and its errors have the form of all others."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import APIRouter

from app.errors import NotReady
from app.http.api import Limits, Served
from app.http.application import make_application
from app.http.callers import Callers
from app.http.dispatch import Dispatcher
from app.http.finished import Finished
from app.http.readiness import Readiness
from app.tasks.catalog import Catalog
from app.telemetry.metrics import Metrics

router = APIRouter()


@router.get("/fine")
async def fine() -> str:
    return "fine"


@router.get("/refused")
async def refused() -> None:
    raise NotReady


@router.get("/broken")
async def broken() -> None:
    int("Donaudampfschifffahrt")


class Panic(BaseException):
    """As Rust libraries raise."""


@router.get("/panicking")
async def panicking() -> None:
    raise Panic


def ask(path: str, method: str = "GET") -> tuple[int, list[tuple[bytes, bytes]], Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        dispatcher = Dispatcher(
            make_application(
                [router],
                [],
                Served(Catalog([]), lambda _: None, Readiness(), Limits(1, 1, 1.0, None)),
                asks_for_key=False,
            ),
            [],
            Finished(Metrics(), None, Callers("")),
        )
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"x-request-id", b"a-1")],
        }
        await dispatcher(scope, receive, send)

    asyncio.run(main())
    start, *bodies = sent
    return start["status"], start["headers"], json.loads(b"".join(body["body"] for body in bodies))


@pytest.mark.parametrize(
    ("path", "method", "status", "error_type", "header"),
    [
        ("/refused", "GET", 503, "not_ready", (b"retry-after", b"2")),
        ("/broken", "GET", 500, "internal", None),
        ("/panicking", "GET", 500, "internal", None),
        ("/nowhere", "GET", 404, "not_found", None),
        ("/fine", "POST", 405, "method_not_allowed", (b"allow", b"GET")),
    ],
)
def test_an_error_of_the_application_has_the_one_form(
    path: str, method: str, status: int, error_type: str, header: tuple[bytes, bytes] | None
) -> None:
    answered, headers, body = ask(path, method)
    assert answered == status
    assert body.keys() == {"error", "error_type", "request_id"}
    assert (body["error_type"], body["request_id"]) == (error_type, "a-1")
    assert [name for name, _ in headers].count(b"x-request-id") == 1
    assert (b"content-type", b"application/json") in headers
    assert header is None or header in headers


def test_a_fault_of_the_application_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    ask("/broken")
    [told] = caplog.records
    assert (told.getMessage(), vars(told)["request_id"]) == ("request failed", "a-1")
    assert "in broken" in caplog.text
    assert "Donaudampfschifffahrt'" not in caplog.text  # its quote: the line of code has it, too


def test_a_success_has_the_request_id() -> None:
    status, headers, body = ask("/fine")
    assert (status, body) == (200, "fine")
    assert headers.count((b"x-request-id", b"a-1")) == 1
