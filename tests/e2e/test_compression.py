"""Compressed requests to a real server, and its compressed answers."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.settings import Settings
from tests.conftest import ModelsOf
from tests.support import Reply, ServerProcess, serving

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = Settings.model_fields["max_body_bytes"].default

BODIES: list[tuple[str, Any]] = [
    ("/v1/classify", {"model": "sentiment", "inputs": ["Good."]}),
    ("/v1/models/sentiment:predict", {"instances": ["Good."]}),
    (
        "/v2/models/sentiment/infer",
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Good."]}]},
    ),
    ("/models/sentiment", {"inputs": "Good."}),
    ("/v2/repository/index", {"ready": True}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd.compress)]
)
def test_every_api_reads_compressed_bodies(
    shared_server: ServerProcess, path: str, body: Any, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    plain = shared_server.post(path, body)
    assert plain.status == 200, plain.body
    reply = shared_server.post(path, compress(json.dumps(body).encode()), content_encoding=coding)
    assert (reply.status, reply.body) == (200, plain.body)


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/repository/index"])
def test_compressed_bodies_that_cannot_be_read_are_refused(shared_server: ServerProcess, path: str) -> None:
    def refused(body: bytes, coding: str) -> tuple[int, str]:
        reply = shared_server.post(path, body, content_encoding=coding)
        return reply.status, reply.json["error_type"]

    assert refused(gzip.compress(bytes(64 * LIMIT)), "gzip") == (413, "payload_too_large")
    assert refused(gzip.compress(b"{}")[:-1], "gzip") == (400, "invalid_encoding")
    assert refused(gzip.compress(b"{"), "gzip") == (400, "invalid_json")
    reply = shared_server.post(path, b"{}", content_encoding="br")
    assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
    assert "Content-Encoding is not read here" in reply.error


ACCEPTED: list[tuple[str, str | None]] = [
    ("gzip", "gzip"),
    ("gzip, deflate", "gzip"),
    ("gzip, deflate, br, zstd", "zstd"),
    ("zstd;q=0.5, gzip", "gzip"),
    ("zstd;q=0.5, *", "gzip"),
    ("x-gzip;q=0.1", "gzip"),
    ("GZIP; q=1.000", "gzip"),
    ("*", "zstd"),
    ("identity;q=0, gzip", "gzip"),
    ("gzip;q=0, zstd;q=0.0", None),
    ("gzip;q=0.5, identity", None),
    ("identity", None),
    ("br, deflate", None),
    ("gzip;q=high", None),
    ("", None),
]


@pytest.fixture(scope="module")
def compressing(models_of: ModelsOf) -> Iterator[ServerProcess]:
    models = models_of({"sentiment": "bert-single-label", "embed": "bert-embed"})
    with serving(models, "--threads", "1", "--http-compression") as server:
        yield server


def decompressed(reply: Reply) -> bytes:
    """Return what a whole answer holds."""
    assert reply.headers["content-length"] == str(len(reply.body))
    match reply.headers.get("content-encoding"):
        case "gzip":
            return gzip.decompress(reply.body)
        case "zstd":
            return zstd.decompress(reply.body)
    return reply.body


@pytest.mark.parametrize(("accepts", "coding"), ACCEPTED)
def test_an_answer_is_compressed_as_the_caller_likes_best(
    compressing: ServerProcess, accepts: str, coding: str | None
) -> None:
    body = {"model": "sentiment", "inputs": ["Good."] * 64}
    plain = compressing.post("/v1/classify", body)
    reply = compressing.post("/v1/classify", body, accept_encoding=accepts)
    assert reply.headers.get("content-encoding") == coding
    assert decompressed(reply) == plain.body
    assert len(reply.body) < len(plain.body) / 2 or coding is None
    assert {one.headers["vary"] for one in (plain, reply)} == {"Accept-Encoding"}


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("inputs", [40, 512])
def test_large_answers_of_every_api_are_compressed(compressing: ServerProcess, inputs: int, coding: str) -> None:
    texts = ["The trains leave from there."] * inputs
    tensor = {"name": "text", "datatype": "BYTES", "shape": [inputs], "data": texts}
    for path, body in [
        ("/v1/embed", {"model": "embed", "inputs": texts}),
        ("/models/embed", {"inputs": texts}),
        ("/v2/models/embed/infer", {"inputs": [tensor], "parameters": {"binary_data_output": True}}),
    ]:
        plain, reply = compressing.post(path, body), compressing.post(path, body, accept_encoding=coding)
        assert reply.headers["content-encoding"] == coding
        assert decompressed(reply) == plain.body
        kept = {"content-type", "inference-header-content-length"} & set(plain.headers)
        assert {name: reply.headers[name] for name in kept} == {name: plain.headers[name] for name in kept}


def test_small_answers_and_errors_are_not_compressed(compressing: ServerProcess) -> None:
    for body in ({"model": "sentiment", "inputs": "Good."}, {}):
        reply = compressing.post("/v1/classify", body, accept_encoding="gzip")
        assert not {"vary", "content-encoding"} & set(reply.headers)


def test_answers_of_models_are_compressed_only_if_asked_for_at_the_start(shared_server: ServerProcess) -> None:
    body = {"model": "sentiment", "inputs": ["Good."] * 64}
    reply = shared_server.post("/v1/classify", body, accept_encoding="gzip")
    assert not {"vary", "content-encoding"} & set(reply.headers)


@pytest.mark.parametrize(
    ("path", "headers"), [("/", {"accept": "text/html"}), ("/metrics", {}), ("/openapi.json", {}), ("/v1/models", {})]
)
def test_what_is_no_answer_of_a_model_is_always_compressed(
    shared_server: ServerProcess, path: str, headers: dict[str, str]
) -> None:
    plain = shared_server.ask("GET", path, headers=headers)
    reply = shared_server.ask("GET", path, headers={**headers, "accept-encoding": "gzip"})
    assert reply.headers["content-encoding"] == "gzip"
    assert len(reply.body) < len(plain.body) / 2
    if path != "/metrics":
        assert decompressed(reply) == plain.body
        head = shared_server.ask("HEAD", path, headers={**headers, "accept-encoding": "gzip"})
        assert (head.body, head.headers["content-length"]) == (b"", reply.headers["content-length"])
    for one in (plain, reply):
        assert "Accept-Encoding" in one.headers["vary"]


def test_a_compressed_page_has_a_weak_tag_by_which_it_is_known(shared_server: ServerProcess) -> None:
    asks = {"accept": "text/html", "accept-encoding": "gzip"}
    tag = shared_server.ask("GET", "/", headers=asks).headers["etag"]
    assert tag == "W/" + shared_server.ask("GET", "/", headers={"accept": "text/html"}).headers["etag"]
    assert shared_server.ask("GET", "/", headers={**asks, "if-none-match": tag}).status == 304
