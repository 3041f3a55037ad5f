"""A server that asks for a key: everything that runs a model or tells of one needs it, nothing else does, and it is never told."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.http.api import Route, Utility
from tests.dialects import routes_by_dialect
from tests.support import ServerProcess, serving

KEY = "s3cret-Zwiebel"
ROUTES = [route for routes in routes_by_dialect().values() for route in routes]
CLOSED = [route for route in ROUTES if not (isinstance(route, Utility) and route.is_open)]
GOOD = {"inputs": "The cat sat on the mat."}


@pytest.fixture(scope="module", params=["environment", "file", "file of keys"])
def locked(
    request: pytest.FixtureRequest, shared_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    environment = {"BERT_API_KEY": KEY}
    if request.param == "file":
        path = tmp_path_factory.mktemp("key") / "key"
        path.write_text(f"{KEY}\n")
        environment = {"BERT_API_KEY_FILE": str(path), "BERT_API_KEY": "the file's counts"}
    if request.param == "file of keys":
        path = tmp_path_factory.mktemp("keys") / "keys"
        path.write_text(f"nightly another-key\nsearch {KEY}\n")
        environment = {"BERT_API_KEYS_FILE": str(path)}
    with serving(shared_models / "sentiment", "--threads", "1", **environment) as server:
        yield server
        assert server.stop() == 0
        assert KEY not in server.log


def test_the_right_key_is_accepted(locked: ServerProcess) -> None:
    for scheme in ("Bearer", "bearer"):
        assert locked.post("/v1/classify", GOOD, authorization=f"{scheme} {KEY}").status == 200
    for path in ("/v1/models", "/v1/models/sentiment"):
        assert locked.ask("GET", path, headers={"Authorization": f"Bearer {KEY}"}).status == 200


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, f"Basic {KEY}"]
)
def test_any_other_key_is_unauthorized(locked: ServerProcess, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    rejected = locked.metric("bert_requests_total", status="401")
    for method, path in (
        ("POST", "/v1/classify"),
        ("POST", "/v1/fill-mask"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/x"),
    ):
        reply = locked.ask(method, path, GOOD if method == "POST" else None, headers)
        assert reply.status == 401
        assert reply.json["error_type"] == "unauthorized"
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in reply.error
        assert KEY not in reply.error
    assert locked.metric("bert_requests_total", status="401") == rejected + 4


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/ping", "/metrics", "/docs", "/openapi.json"])
def test_health_and_metrics_need_no_key(locked: ServerProcess, path: str) -> None:
    assert locked.ask("GET", path).status == 200


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_of_a_dialect_asks_for_the_key(locked: ServerProcess, route: Route) -> None:
    path = re.sub(r"\{\w+\}", "1", route.path)
    without = locked.ask(route.method, path, GOOD if route.method == "POST" else None)
    assert without.status == 401
    assert without.headers["www-authenticate"] == "Bearer"
    assert b"Authorization: Bearer KEY" in without.body
    for given in (f"Bearer {KEY}", KEY):
        assert locked.ask(route.method, path, None, {"Authorization": given}).status != 401


def test_openapi_marks_routes_that_need_a_key(locked: ServerProcess, shared_server: ServerProcess) -> None:
    described = locked.ask("GET", "/openapi.json").json
    assert described["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    marks = {
        (method.upper(), path): operation.get("security")
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    closed = {route for route in marks if route[1].startswith("/v1/")} | {(one.method, one.path) for one in CLOSED}
    assert {route for route, security in marks.items() if security == [{"key": []}]} == closed
    assert {route for route, security in marks.items() if not security} == set(marks) - closed
    without = shared_server.ask("GET", "/openapi.json").body
    assert b"securitySchemes" not in without
    assert b'"security"' not in without
