"""Compressed requests to a real server."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from app.settings import Settings
from tests.support import ServerProcess

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
