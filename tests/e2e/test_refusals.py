"""What reaches no endpoint is counted and logged as well, and the log says who called."""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.e2e.wire import head, message, wire
from tests.support import ServerProcess, serving

GOOD = b'{"inputs": "The cat sat on the mat."}'


@pytest.fixture(scope="module")
def proxied(shared_models: Path) -> Iterator[ServerProcess]:
    """A server behind a proxy on this machine, below a path."""
    options = ("--root-path", "/bert/", "--forwarded-allow-ips", "127.0.0.1,10.0.0.0/8", "--timeout-keep-alive", "1")
    with serving(shared_models / "sentiment", "--threads", "1", *options) as server:
        yield server
        assert server.stop() == 0, server.log


@pytest.mark.parametrize(
    ("method", "path", "status", "error_type", "says"),
    [
        ("GET", "/v1/classify/", 404, "not_found", "Did you mean POST /v1/classify?"),
        ("POST", "/v1/clasify", 404, "not_found", "Did you mean POST /v1/classify?"),
        ("GET", "/metric", 404, "not_found", "Did you mean GET /metrics?"),
        ("GET", "/v1/modles", 404, "not_found", "Did you mean GET /v1/models?"),
        ("GET", "/.env", 404, "not_found", "no such route. /docs"),
        ("DELETE", "/livez", 405, "method_not_allowed", "GET only"),
    ],
)
def test_a_request_for_no_route_is_counted_and_logged(
    shared_server: ServerProcess, method: str, path: str, status: int, error_type: str, says: str
) -> None:
    def count() -> float:
        return shared_server.metric("bert_requests_total", api="none", model="none", status=str(status))

    before = count()
    request_id = f"{method}-{status}-{len(path)}"
    reply = shared_server.ask(method, path, headers={"X-Request-Id": request_id})
    assert reply.status == status
    assert says in reply.error
    assert count() == before + 1
    told = shared_server.told(request_id)
    assert (told["message"], told["api"], told["status"]) == ("request", "none", status)
    assert (told["error_type"], told["client"]) == (error_type, "127.0.0.1")
    assert path not in str(told)


def test_a_method_that_a_path_lacks_is_refused_with_all_that_it_has(shared_server: ServerProcess) -> None:
    reply = shared_server.ask("PUT", "/")  # the page's and, of another API, to a model
    assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize(
    ("method", "path", "body", "api", "status", "error_type"),
    [
        ("POST", "/models/sentiment/tokenize", {"inputs": "good"}, "tei", 200, None),
        ("POST", "/models/sentiment/tokenize", {"input": "good"}, "tei", 422, "validation"),
        ("GET", "/models/nobody/info", None, "tei", 404, "not_found"),
        ("PUT", "/v2/models/sentiment/config", {}, "open-inference", 405, "method_not_allowed"),
        ("GET", "/v1/models", None, "native", 200, None),
        ("GET", "/v1/models/nobody/", None, "none", 404, "not_found"),
        ("POST", "/v1/models", {}, "none", 405, "method_not_allowed"),
    ],
)
def test_a_request_that_runs_no_model_is_counted_and_logged(
    shared_server: ServerProcess, method: str, path: str, body: object, api: str, status: int, error_type: str | None
) -> None:
    def count() -> float:
        return shared_server.metric("bert_requests_total", api=api, model="none", status=str(status))

    before = count()
    request_id = f"no-model-{method}-{status}-{len(path)}"
    reply = shared_server.ask(method, path, body, {"X-Request-Id": request_id})
    assert reply.status == status
    assert count() == before + 1
    told = shared_server.told(request_id)
    assert (told["api"], told["status"], told.get("error_type")) == (api, status, error_type)
    assert told["client"] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/ping", "/metrics"])
def test_health_is_in_no_log(shared_server: ServerProcess, path: str) -> None:
    assert shared_server.ask("GET", path, headers={"X-Request-Id": "is-silent"}).status == 200
    shared_server.ask("GET", "/v1/models", headers={"X-Request-Id": f"after-{path[1:3]}"})
    shared_server.told(f"after-{path[1:3]}")
    assert "is-silent" not in shared_server.log


def test_a_route_that_is_nearly_one_of_an_api_answers_in_its_form(shared_server: ServerProcess) -> None:
    openai = shared_server.ask("POST", "/v1/embeddings/", {}).json["error"]
    assert "Did you mean POST /v1/embeddings?" in openai["message"]
    cohere = shared_server.ask("POST", "/v2/rerank/", {}).json
    assert cohere["message"] == cohere["error"]


@pytest.mark.parametrize(
    ("data", "status", "error_type", "says"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_http", "cannot be read"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400, "invalid_http", "This is TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_http", "This is HTTP/2"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + head(), 400, "invalid_http", "PROXY protocol"),
        (b"\r\n\r\n\x00\r\nQUIT\n" + bytes(16) + head(), 400, "invalid_http", "PROXY protocol"),
        (head(f"X: {'a' * 70_000}"), 431, "head_too_large", "over 65536 bytes"),
    ],
    ids=["no HTTP", "TLS", "HTTP/2", "PROXY", "PROXY 2", "head"],
)
def test_input_that_is_no_request_is_counted_and_logged(
    shared_server: ServerProcess, data: bytes, status: int, error_type: str, says: str
) -> None:
    before = shared_server.metric("bert_requests_total", api="none", status=str(status))
    with wire(shared_server.url) as line:
        line.send(data)
        reply = line.reply()
    assert reply.status == status
    assert says in reply.error
    assert shared_server.metric("bert_requests_total", api="none", status=str(status)) == before + 1
    told = shared_server.told(reply.headers["x-request-id"])
    assert says in str(told["message"])
    assert (told["status"], told["error_type"], told["client"]) == (status, error_type, "127.0.0.1")


def test_the_log_has_the_address_that_a_trusted_proxy_names(proxied: ServerProcess) -> None:
    forwarded = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.2.3"}
    for path in ("/v1/classify", "/nowhere"):
        request_id = f"by-proxy{len(path)}"
        proxied.ask("POST", path, GOOD, forwarded | {"X-Request-Id": request_id})
        assert proxied.told(request_id)["client"] == "203.0.113.9"


def test_a_path_prefix_may_be_there_or_removed_by_the_proxy(proxied: ServerProcess) -> None:
    for prefix in ("", "/bert"):
        assert proxied.ask("POST", f"{prefix}/v1/classify", GOOD).status == 200
        assert proxied.ask("GET", f"{prefix}/readyz").status == 200
        assert proxied.ask("GET", f"{prefix}/v1/models/sentiment").status == 200
        page = proxied.ask("GET", f"{prefix}/docs").body.decode()
        assert "'/bert/openapi.json'" in page
        assert '"/bert/static-offline-docs/swagger-ui-bundle.js"' in page
        assert proxied.ask("GET", f"{prefix}/static-offline-docs/swagger-ui.css").status == 200
        description = proxied.ask("GET", f"{prefix}/openapi.json").json
        assert description["servers"] == [{"url": "/bert"}]
        assert "/v1/classify" in description["paths"]
        assert "Did you mean POST /v1/classify?" in proxied.ask("POST", f"{prefix}/v1/clasify", GOOD).error
    assert proxied.ask("POST", "/bertha/v1/classify", GOOD).status == 404


def test_an_idle_connection_stays_open_as_long_as_is_set(proxied: ServerProcess) -> None:
    with wire(proxied.url) as line:
        line.send(message(GOOD))
        assert line.reply().status == 200
        answered_at = monotonic()
        assert line.is_closed()
        assert monotonic() - answered_at > 0.9  # a clock of its own


def test_only_one_key_is_used_and_the_other_is_told(shared_models: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("of the file")
    keys = {"BERT_API_KEY": "of the variable", "BERT_API_KEY_FILE": str(tmp_path / "key")}
    with serving(shared_models / "sentiment", "--threads", "1", "--workers", "2", **keys) as server:
        assert server.post("/v1/classify", GOOD, authorization="Bearer of the file").status == 200
        assert server.post("/v1/classify", GOOD, authorization="Bearer of the variable").status == 401
        [told] = [one["message"] for one in server.records if one["level"] == "warning"]
    assert told.startswith("BERT_API_KEY and BERT_API_KEY_FILE are both set: the key of the file counts.")
