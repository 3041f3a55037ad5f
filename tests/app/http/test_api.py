"""What every API has: routes with variable parts, errors in its own form, a key, and answers that are not JSON."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter
from pydantic_core import to_json

from app.errors import NotReady, ServiceError, StartupError
from app.http.api import Api, Limits, Raw, Received, Served, Utility, write_json
from app.http.callers import Callers
from app.http.dialects import DIALECTS, chosen
from app.http.dispatch import Dispatcher
from app.http.finished import Finished
from app.http.keys import Keys, digest_of
from app.http.large_work import LargeWork
from app.http.readiness import Readiness
from app.http.utility import UtilityEndpoint
from app.tasks.base import SHORT_BYTES
from app.tasks.catalog import Catalog
from app.telemetry.metrics import Metrics

KEY = "s3cret"


class Echo(Api):
    """Answers with what it received."""

    name = "echo"

    @property
    def routes(self) -> Sequence[Utility]:
        return [
            Utility("POST", "/echo/{model}/of/{part}", "Says what it was asked", lambda got: [got.path, len(got.body)]),
            Utility("POST", "/checked", "Takes numbers", lambda got: TypeAdapter(list[int]).validate_json(got.body)),
            Utility("GET", "/open", "Needs no key", lambda _: None, is_open=True),
            Utility("GET", "/raw", "Is no JSON", lambda _: Raw(b"plain", b"text/plain", [(b"x-more", b"1")])),
            Utility("GET", "/late", "Is refused", self.refuse),
            Utility("GET", "/broken", "Fails", lambda _: 1 / 0),
        ]

    def refuse(self, _: Received) -> object:
        raise NotReady

    def error(self, error: ServiceError, request_id: str) -> tuple[int, object]:
        return 599 if error.status == 500 else error.status, {"oh": error.error_type, "id": request_id}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer what is no API's route."""
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(
    method: str, path: str, body: bytes = b"", key: str | None = f"Bearer {KEY}"
) -> tuple[int, dict[str, str], bytes]:
    api = Echo(
        Served(Catalog([]), lambda _: None, Readiness(), Limits(10 * SHORT_BYTES, 8, 1.0, Keys({digest_of(KEY): None})))
    )
    finished = Finished(Metrics(), None, Callers(""))
    endpoints = [UtilityEndpoint(api, route, large=LargeWork(30, 30), finished=finished) for route in api.routes]
    dispatcher = Dispatcher(application, endpoints, finished)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"x-request-id", b"a-1")] + ([(b"authorization", key.encode())] if key else [])
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(dispatcher(scope, receive, send))
    start, content = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, content["body"]


@pytest.mark.parametrize("size", [3, SHORT_BYTES + 1])
def test_a_route_reads_the_variable_parts_of_its_path(size: int) -> None:
    status, headers, body = ask("POST", "/echo/名前/of/2", b"x" * size)
    assert (status, json.loads(body)) == (200, [{"model": "名前", "part": "2"}, size])
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == "a-1"


@pytest.mark.parametrize("path", ["/echo/a/b/of/2", "/echo//of/2", "/echo/a/of/2/"])
def test_a_variable_part_is_one_part(path: str) -> None:
    assert ask("POST", path)[0] == 299


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status", "error_type"),
    [
        ("GET", "/late", b"", KEY, 503, "not_ready"),
        ("GET", "/broken", b"", KEY, 599, "internal"),
        ("POST", "/checked", b"[1, 2", KEY, 400, "invalid_json"),
        ("POST", "/checked", b'["a"]', KEY, 422, "validation"),
        ("POST", "/checked", b"1" * (10 * SHORT_BYTES + 1), KEY, 413, "payload_too_large"),
        ("GET", "/checked", b"", KEY, 405, "method_not_allowed"),
        ("POST", "/open", b"", KEY, 405, "method_not_allowed"),
        ("GET", "/raw", b"", None, 401, "unauthorized"),
        ("GET", "/raw", b"", "Basic s3cret", 401, "unauthorized"),
        ("GET", "/raw", b"", "s3cret2", 401, "unauthorized"),
    ],
)
def test_an_error_has_the_form_of_its_api(
    method: str, path: str, body: bytes, key: str | None, status: int, error_type: str
) -> None:
    answered, headers, content = ask(method, path, body, key)
    assert (answered, json.loads(content)) == (status, {"oh": error_type, "id": "a-1"})
    assert headers["x-request-id"] == "a-1"
    assert ("retry-after" in headers) == (status == 503)


def test_a_dialect_takes_a_key_without_the_word_before_it() -> None:
    assert ask("GET", "/raw", key=KEY)[0] == ask("GET", "/raw", key=f"bearer {KEY}")[0] == 200


def test_an_open_route_needs_no_key_and_may_answer_nothing() -> None:
    status, headers, body = ask("HEAD", "/open", key=None)
    assert (status, body, headers["content-length"]) == (200, b"", "0")


def test_an_answer_may_be_no_json() -> None:
    status, headers, body = ask("GET", "/raw")
    assert (status, body, headers["content-type"], headers["x-more"]) == (200, b"plain", "text/plain", "1")


@pytest.mark.parametrize(
    "document", [[], {}, None, 1.5, "é", [[1.0, 2.0], []], {"a": [{"b": [1]}], "c": {"d": [None]}}]
)
def test_json_written_in_parts_is_what_it_is_in_one(document: object) -> None:
    assert write_json(document) == to_json(document)


def test_apis_are_chosen_by_name() -> None:
    assert chosen("all") == list(DIALECTS.values())
    assert chosen("none") == []
    for name in DIALECTS:
        assert chosen(name) == [DIALECTS[name]]
    with pytest.raises(StartupError, match="BERT_APIS: there is no API tie"):
        chosen("tie")
