"""What a browser needs before pages of other origins may ask and read answers."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import ServerProcess, serving

PAGE = "https://page.example"
KEY = "s3cret"
ROUTES = ["/v1/classify", "/v1/models", "/v2/models/a/infer", "/embed", "/readyz", "/metrics", "/openapi.json", "/"]


@pytest.fixture(scope="module", params=["1", "2"])
def server(request: pytest.FixtureRequest, shared_models: Path) -> Iterator[ServerProcess]:
    origins = f"{PAGE},http://localhost:3000"
    arguments = ("--workers", request.param, "--threads", "1", "--api-key", KEY)
    with serving(shared_models / "sentiment", *arguments, "--cors-allow-origin", origins) as server:
        yield server


def allowed(headers: Mapping[str, str]) -> str | None:
    return headers.get("access-control-allow-origin")


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_answers_preflights_without_a_key(server: ServerProcess, path: str) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    reply = server.ask("OPTIONS", path, headers={"origin": PAGE, **asks})
    assert reply.status == 200
    assert allowed(reply.headers) == PAGE
    assert reply.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "Origin" in reply.headers["vary"]
    assert "access-control-allow-credentials" not in reply.headers
    stranger = server.ask("OPTIONS", path, headers={"origin": "https://other.example", **asks})
    assert (stranger.status, allowed(stranger.headers)) == (400, None)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/classify", {"authorization": f"Bearer {KEY}"}, 200),
        ("POST", "/v1/classify", {}, 401),
        ("POST", "/v1/classify", {"authorization": f"Bearer {KEY}", "content-encoding": "br"}, 415),
        ("DELETE", "/v1/classify", {}, 405),
        ("OPTIONS", "/v1/classify", {}, 405),
        ("GET", "/v1/models", {"authorization": f"Bearer {KEY}"}, 200),
        ("POST", "/nothing", {}, 404),
        ("GET", "/readyz", {}, 200),
        ("GET", "/openapi.json", {}, 200),
    ],
)
def test_answers_and_errors_may_be_read_by_the_pages_that_are_listed(
    server: ServerProcess, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    body = {"inputs": "Good."} if method == "POST" else None
    reply = server.ask(method, path, body, {"origin": PAGE, **headers})
    assert reply.status == status
    assert allowed(reply.headers) == PAGE
    assert reply.headers["access-control-expose-headers"] == "*"
    assert "Origin" in reply.headers["vary"]
    for others in ({"origin": "https://other.example"}, {"origin": f"{PAGE}.evil.example"}, {"origin": "null"}, {}):
        other = server.ask(method, path, body, {**others, **headers})
        assert (other.status, allowed(other.headers)) == (status, None)
        assert "Origin" in other.headers["vary"]  # a cache may not give it to a page


def test_nothing_is_said_of_origins_unless_some_are_listed(shared_server: ServerProcess) -> None:
    for method in ("POST", "OPTIONS"):
        asks = {"origin": PAGE, "access-control-request-method": "POST"}
        reply = shared_server.ask(method, "/v1/classify", {"model": "sentiment", "inputs": "Good."}, asks)
        assert not {"vary", "access-control-allow-origin"} & set(reply.headers)
