"""What is told of a path that there is no route for."""

import pytest

from app.http.nearest import Nearest

ROUTES = ["/v1/classify", "/v1/embed", "/v1/embeddings", "/v1/models", "/livez", "/models/{model}/embed", "/"]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/classify/", "/v1/classify"),
        ("/V1/Classify", "/v1/classify"),
        ("/v1/clasify", "/v1/classify"),
        ("/classify", "/v1/classify"),
        ("/api/v1/classify", "/v1/classify"),
        ("/v1/embedding", "/v1/embeddings"),
        ("/v1/model", "/v1/models"),
        ("/livez/", "/livez"),
        ("/live", "/livez"),
        ("/models/my-secret/embd", "/models/{model}/embed"),
        ("/nowhere", None),
        ("/v1/chat/completions", None),
        ("/favicon.ico", None),
        ("/v1/classify" + "/" * 60_000, None),
        ("/v1/" + "classify" * 5000, None),
    ],
)
def test_the_route_that_is_most_alike_is_named(path: str, meant: str | None) -> None:
    assert Nearest(ROUTES).to(path) == meant
