"""What is told of a path that there is no route for."""

import pytest

from app.http.nearest import Nearest

ROUTES = [
    ("POST", "/v1/classify"), ("POST", "/v1/embed"), ("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/livez"),
    ("POST", "/models/{model}/embed"), ("GET", "/"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/classify/", "POST /v1/classify"),
        ("/V1/Classify", "POST /v1/classify"),
        ("/v1/clasify", "POST /v1/classify"),
        ("/classify", "POST /v1/classify"),
        ("/api/v1/classify", "POST /v1/classify"),
        ("/v1/embedding", "POST /v1/embeddings"),
        ("/v1/model", "GET /v1/models"),
        ("/livez/", "GET /livez"),
        ("/live", "GET /livez"),
        ("/models/my-secret/embd", "POST /models/{model}/embed"),
        ("/nowhere", None),
        ("/v1/chat/completions", None),
        ("/favicon.ico", None),
        ("/v1/classify" + "/" * 60_000, None),
        ("/v1/" + "classify" * 5000, None),
    ],
)
def test_the_route_that_is_most_alike_is_named(path: str, meant: str | None) -> None:
    assert Nearest(ROUTES).to(path) == meant
