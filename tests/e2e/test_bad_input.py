"""Bad input gets a clear error in the one shape, is repeated nowhere, and nothing else suffers."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.e2e.wire import head, message, wire
from tests.support import ServerProcess, eventually, serving

# Stands for what a caller wrote. It must not come back and not be logged.
SECRET = "Zwetschgenknoedel"
MAX_BODY_BYTES: int = Settings.model_fields["max_body_bytes"].default
MAX_INPUTS: int = Settings.model_fields["max_inputs"].default
GOOD = {"model": "sentiment", "inputs": "The cat sat on the mat."}


@dataclass(frozen=True)
class Case:
    name: str
    body: bytes
    status: int
    says: tuple[str, ...]
    path: str = "/v1/classify"


def case(name: str, body: bytes | dict[str, Any], status: int, *says: str) -> Case:
    return Case(name, body if isinstance(body, bytes) else json.dumps(body).encode(), status, says)


def classify(name: str, inputs: Any, *says: str, **parameters: Any) -> Case:
    return case(name, {"model": "sentiment", "inputs": inputs, "parameters": parameters}, 422, *says)


def fill_mask(name: str, inputs: Any, *says: str, **parameters: Any) -> Case:
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    return Case(name, body, 422, says, "/v1/fill-mask")


def raw(name: str, inputs: bytes, status: int, *says: str) -> Case:
    return case(name, b'{"model": "sentiment", "inputs": ' + inputs + b"}", status, *says)


SECRET_BYTES = SECRET.encode()
CASES = [
    # Not JSON
    case("nothing", b"", 400, "not valid JSON"),
    case("text", SECRET_BYTES, 400, "not valid JSON"),
    case("cut off", b'{"inputs": "' + SECRET_BYTES, 400, "EOF", "column"),
    case("more than one document", b'{"inputs": "' + SECRET_BYTES + b'"} {}', 400, "trailing"),
    case("quoted as Python does", b"{'inputs': '" + SECRET_BYTES + b"'}", 400, "key must be a string"),
    case("UTF-16", ('{"inputs": "' + SECRET + '"}').encode("utf-16"), 400, "UTF-8"),
    case("byte order mark", ('{"inputs": "' + SECRET + '"}').encode("utf-8-sig"), 400, "UTF-8"),
    raw("Latin-1", f'"{SECRET} é"'.encode("latin-1"), 400, "unicode", "column"),
    raw("overlong UTF-8", b'"' + SECRET_BYTES + b'\xc0\xaf"', 400, "unicode"),
    raw("UTF-8 of a surrogate", b'"' + SECRET_BYTES + b'\xed\xa0\x80"', 400, "unicode"),
    raw("lone surrogate", b'"' + SECRET_BYTES + rb'\ud800"', 400, "hex escape"),
    raw("lone second surrogate", b'"' + SECRET_BYTES + rb'\udc00 x"', 400, "surrogate"),
    raw("control character", b'"' + SECRET_BYTES + b'\x01"', 400, "control character"),
    raw("deep nesting", b"[" * 60_000 + b"]" * 60_000, 400, "recursion"),
    case("huge number", b'{"inputs": "a", "parameters": {"top_k": ' + b"9" * 100_000 + b"}}", 400, "number"),
    # JSON, but no request
    case("a list", [SECRET], 422, "body", "object"),  # type: ignore[arg-type]
    case("null", b"null", 422, "body", "object"),
    case("no inputs", {"model": "sentiment"}, 422, "inputs", "missing"),
    case("unknown key", {"inputs": "a", "model": "sentiment", "texts": SECRET}, 422, "texts", "remove it"),
    case("unknown key that is a text", {"inputs": "a", f"{SECRET} is late": 1}, 422, "(a key)", "remove it"),
    case("60000 unknown keys", {SECRET + str(i): 1 for i in range(60_000)}, 422, "60001 problems"),
    case("parameters is null", {"inputs": SECRET, "parameters": None}, 422, "parameters", "object"),
    case("model is a number", {"inputs": SECRET, "model": 5}, 422, "model", "string"),
    # Inputs
    classify("null", None, "inputs", "text_pair", "list"),
    classify("number", 5, "inputs", "list"),
    classify("empty text", "", "inputs: is an empty string", "send some text"),
    classify("empty list", [], "inputs", "at least 1 item"),
    classify("empty text in a list", [SECRET, ""], "inputs[1]", "empty string"),
    classify("list in a list", [[SECRET]], "inputs[0]", "text_pair"),
    classify("pair without text", {"text_pair": SECRET}, "inputs.text", "missing"),
    classify("pair of a number", {"text": SECRET, "text_pair": 5}, "inputs.text_pair", "string"),
    classify("pair with an empty text", {"text": "", "text_pair": SECRET}, "inputs.text:", "empty string"),
    classify("pair as a list", [[SECRET, SECRET]], "inputs[0]"),
    classify("unknown key in a pair", [{"text": SECRET, "pair": SECRET}], "inputs[0].pair", "remove it"),
    classify("NUL", f"{SECRET}\0", "inputs", "NUL", "remove it"),
    classify("NUL in a pair", {"text": "a", "text_pair": f"{SECRET}\0"}, "inputs.text_pair", "NUL"),
    classify("seven bad inputs", [5] * 7, "inputs[0]", "inputs[4]", "and 2 more"),
    classify("too many inputs", [SECRET] * (MAX_INPUTS + 1), str(MAX_INPUTS), "BERT_MAX_INPUTS"),
    classify("200000 bad inputs", [5] * 200_000, "inputs", "at most"),
    classify("too long", f"{SECRET} " * 100, "inputs[0]", "40 tokens", "Shorten it", truncation=False),
    classify("second too long", ["a", "a " * 100], "inputs[1]", "40 tokens", truncation=False),
    # Parameters
    classify("unknown parameter", SECRET, "parameters.temperature", "remove it", temperature=1),
    classify("parameter of the other task", SECRET, "parameters.targets", "remove it", targets=["a"]),
    classify("top_k 0", SECRET, "parameters.top_k", "greater than or equal to 1", top_k=0),
    classify("top_k -1", SECRET, "parameters.top_k", top_k=-1),
    classify("top_k a million", SECRET, "parameters.top_k", "less than or equal to 1000", top_k=1_000_000),
    classify("top_k of 40 digits", SECRET, "parameters.top_k", "less than or equal to 1000", top_k=10**40),
    classify("top_k true", SECRET, "parameters.top_k", "integer", top_k=True),
    classify("top_k a text", SECRET, "parameters.top_k", "integer", top_k="3"),
    classify("top_k a fraction", SECRET, "parameters.top_k", "integer", top_k=1.5),
    classify("top_k not a number", SECRET, "parameters.top_k", "integer", top_k=float("nan")),
    classify("unknown function", SECRET, "function_to_apply", "'softmax'", function_to_apply=SECRET),
    classify("truncation is a text", SECRET, "parameters.truncation", "boolean", truncation="false"),
    classify("unknown direction", SECRET, "truncation_direction", "'left'", truncation_direction=SECRET),
    # Masked tokens
    fill_mask("no mask", f"{SECRET} is good.", "inputs[0]", "[MASK]"),
    fill_mask("no mask in the second", ["[MASK]", SECRET], "inputs[1]", "[MASK]"),
    fill_mask("mask of another family", f"{SECRET} is <mask>.", "inputs[0]", "[MASK]"),
    fill_mask("pair", {"text": SECRET}, "inputs", "list of texts"),
    fill_mask("too long", f"[MASK] {SECRET} " * 40, "inputs[0]", "40 tokens", "Shorten it"),
    fill_mask("unknown target", "[MASK]", "parameters.targets[1]", "vocabulary", targets=["good", SECRET]),
    fill_mask("target of two words", "[MASK]", "parameters.targets[0]", targets=["good day"]),
    fill_mask("target of 1 MB", "[MASK]", "parameters.targets[0]", targets=["good" * 250_000]),
    fill_mask("no targets", "[MASK]", "parameters.targets", "at least 1", targets=[]),
    fill_mask("empty target", "[MASK]", "parameters.targets[0]", "empty", targets=[""]),
    fill_mask("target with NUL", "[MASK]", "parameters.targets[0]", "NUL", targets=["good\0"]),
    fill_mask("200000 targets", "[MASK]", "parameters.targets", "at most 1000", targets=["a"] * 200_000),
    fill_mask("top_k 0", "[MASK]", "parameters.top_k", top_k=0),
    fill_mask("top_k a million", "[MASK]", "parameters.top_k", "1000", top_k=1_000_000),
    fill_mask("more tokens than an answer may list", ["[MASK]" * 30] * 100, "1310720", "top_k", top_k=400),
    fill_mask("may not be cut", "[MASK]", "parameters.truncation", "remove it", truncation=True),
]
TYPES = {400: "invalid_json", 404: "not_found", 413: "payload_too_large", 422: "validation"}


@pytest.fixture(autouse=True)
def _nothing_else_suffers(shared_server: ServerProcess) -> Iterator[None]:
    yield
    assert shared_server.post("/v1/classify", GOOD).status == 200
    assert SECRET not in shared_server.log


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.path[4:]} {case.name}")
def test_a_bad_body_is_refused(shared_server: ServerProcess, case: Case) -> None:
    reply = shared_server.post(case.path, case.body, x_request_id="asked-1")
    assert reply.status == case.status
    assert reply.json["error_type"] == TYPES[case.status]
    assert reply.headers["x-request-id"] == "asked-1"
    assert reply.headers["content-type"] == "application/json"
    assert all(said in reply.error for said in case.says), reply.error
    assert SECRET not in reply.error
    assert len(reply.error) < 600


@pytest.mark.parametrize(
    ("path", "model", "status", "says"),
    [
        ("/v1/classify", SECRET, 404, ("no such model", "sentiment")),
        ("/v1/classify", "", 404, ("no such model", "sentiment")),
        ("/v1/classify", "masked", 404, ("does fill-mask", "sentiment, toxicity")),
        ("/v1/classify", None, 422, ("several", "sentiment, toxicity")),
        ("/v1/fill-mask", "sentiment", 404, ("does classify", "masked")),
    ],
)
def test_an_unknown_model_is_not_found(
    shared_server: ServerProcess, path: str, model: str | None, status: int, says: tuple[str, ...]
) -> None:
    reply = shared_server.post(path, {"model": model, "inputs": "[MASK]"})
    assert reply.status == status
    assert reply.json["error_type"] == TYPES[status]
    assert all(said in reply.error for said in says), reply.error
    assert SECRET not in reply.error


@pytest.mark.parametrize(
    "path", ["/v1/classify/", "/v1", f"/{SECRET}", "/v1/models/", "/v1/summarize", "/%00", "//livez"]
)
def test_an_unknown_route_is_not_found(shared_server: ServerProcess, path: str) -> None:
    reply = shared_server.ask("GET", path)
    assert reply.status == 404
    assert reply.json["error_type"] == "not_found"
    assert "/docs" in reply.error
    assert SECRET not in reply.error


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/fill-mask"])
def test_a_wrong_method_is_not_allowed(shared_server: ServerProcess, path: str, method: str) -> None:
    reply = shared_server.ask(method, path)
    assert reply.status == 405
    assert reply.headers["allow"] == "POST"
    if method == "HEAD":
        assert reply.body == b""
    else:
        assert reply.json["error_type"] == "method_not_allowed"
        assert "POST" in reply.error


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v1/models", "/v1/models/sentiment"])
def test_read_only_routes_take_get_and_head_only(shared_server: ServerProcess, path: str) -> None:
    reply = shared_server.post(path, GOOD)
    assert reply.status == 405
    assert reply.headers["allow"] == "GET"
    assert reply.json["error_type"] == "method_not_allowed"
    assert "GET" in reply.error
    with wire(shared_server.url) as line:
        line.send(head(method="HEAD", path=path))
        assert line.reply(without_body=True).status == 200


def test_an_unknown_model_has_no_card(shared_server: ServerProcess) -> None:
    reply = shared_server.ask("GET", f"/v1/models/{SECRET}")
    assert reply.status == 404
    assert "sentiment" in reply.error
    assert SECRET not in reply.error


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([f"Content-Length: {MAX_BODY_BYTES + 1}", "Expect: 100-continue"], id="the caller asks first"),
        pytest.param([f"Content-Length: {10**12}"], id="a terabyte"),
    ],
)
def test_a_body_that_says_it_is_too_large_is_not_read(shared_server: ServerProcess, headers: list[str]) -> None:
    with wire(shared_server.url) as line:
        line.send(head(*headers))
        reply = line.reply()  # and no 100 Continue before it
        assert reply.status == 413
        assert reply.json["error_type"] == "payload_too_large"
        assert str(MAX_BODY_BYTES) in reply.error
        assert "BERT_MAX_BODY_BYTES" in reply.error
        assert line.is_closed()


def test_a_chunked_body_over_the_limit_is_refused(shared_server: ServerProcess) -> None:
    chunk = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)
    with wire(shared_server.url) as line:
        line.send(head("Transfer-Encoding: chunked"))
        for _ in range(MAX_BODY_BYTES // 2**16):
            line.send(chunk)
        line.send(b"1\r\n \r\n0\r\n\r\n")
        reply = line.reply()
        assert reply.status == 413
        assert "BERT_MAX_BODY_BYTES" in reply.error
        assert line.is_closed()


def test_an_endless_chunked_body_is_cut_off(shared_server: ServerProcess) -> None:
    chunk = b"%x\r\n%s\r\n" % (2**20, b" " * 2**20)
    with wire(shared_server.url) as line:
        line.send(head("Transfer-Encoding: chunked"))
        with pytest.raises(OSError, match=r"reset|Broken"):
            line.send(chunk * (20 * MAX_BODY_BYTES // 2**20))


def test_a_body_of_just_the_limit_is_read(shared_server: ServerProcess) -> None:
    good = json.dumps(GOOD).encode()
    assert shared_server.post("/v1/classify", good.ljust(MAX_BODY_BYTES)).status == 200
    assert shared_server.post("/v1/classify", good.ljust(MAX_BODY_BYTES + 1)).status == 413


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(head("Content-Length: many"), id="Content-Length is no number"),
        pytest.param(head("Content-Length: -5"), id="negative Content-Length"),
        pytest.param(head("Content-Length: +5"), id="Content-Length with a sign"),
        pytest.param(head(f"Content-Length: {'0' * 4300}5"), id="Content-Length of 4300 zeros"),
        pytest.param(head("Content-Length: 5, 5"), id="a list of Content-Lengths"),
        pytest.param(head("Content-Length: 5", "Content-Length: 5"), id="Content-Length twice"),
        pytest.param(head(f"Content-Length: {10**40}"), id="Content-Length of 40 digits"),
        pytest.param(head("Content-Length: 5", "Content-Length: 6"), id="two Content-Lengths"),
        pytest.param(head("Content-Length: 5", "Transfer-Encoding: chunked"), id="Content-Length and chunks"),
        pytest.param(head("Transfer-Encoding: chunked") + b"zz\r\nhello\r\n", id="broken chunk"),
        pytest.param(message(b"{}", path="/caf\xe9"), id="path that is not ASCII"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(SECRET.encode() + b"\r\n\r\n", id="no HTTP"),
    ],
)
def test_invalid_http_is_refused(shared_server: ServerProcess, data: bytes) -> None:
    with wire(shared_server.url) as line:
        line.send(data)
        reply = line.reply()
        assert reply.status == 400
        assert "HTTP/1.1" in reply.error
        assert line.is_closed()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(message(b"{}", path="/" + "a" * 2**17), id="path of 128 KiB"),
        pytest.param(message(b"{}", *[f"X-{i}: {'a' * 1000}" for i in range(200)]), id="200 headers"),
        pytest.param(head()[:-2] + b"x: y\r\n" * 2**17, id="headers without end"),
    ],
)
def test_a_long_head_is_refused(shared_server: ServerProcess, data: bytes) -> None:
    with wire(shared_server.url) as line:
        line.send(data)
        reply = line.reply()
        assert reply.status == 431
        assert reply.json["error_type"] == "head_too_large"
        assert "65536 bytes" in reply.error
        assert line.is_closed()


def test_a_body_that_does_not_come_is_a_timeout_and_counted(shared_models: Path) -> None:
    with serving(shared_models / "sentiment", "--threads", "1", "--read-timeout-s", "2") as server:
        with wire(server.url) as line:
            line.send(head("Content-Length: 100", "X-Request-Id: late") + b'{"inputs": "a')
            reply = line.reply()
            assert reply.status == 408
            assert reply.json["error_type"] == "timeout"
            assert "BERT_READ_TIMEOUT_S" in reply.error
            assert reply.headers["x-request-id"] == "late"
            assert line.is_closed()
        assert server.metric("bert_requests_total", status="408") == 1
        told = server.told("late")
        assert (told["status"], told["error_type"]) == (408, "timeout")


def test_input_beyond_the_content_length_is_refused(shared_server: ServerProcess) -> None:
    body = json.dumps(GOOD).encode()
    with wire(shared_server.url) as line:
        line.send(head(f"Content-Length: {len(body) - 5}") + body)
        assert line.reply().status == 400
        assert line.is_closed()


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_caller_that_disconnects_in_its_body_is_logged(shared_server: ServerProcess, framing: str) -> None:
    count = shared_server.log.count('"status": 499')
    with wire(shared_server.url) as line:
        line.send(head(framing) + b'{"inputs": "a')
    eventually(lambda: shared_server.log.count('"status": 499') == count + 1)
    assert shared_server.metric("bert_inflight_requests") == 0


def test_a_compressed_body_that_does_not_say_so_is_refused(shared_server: ServerProcess) -> None:
    reply = shared_server.post("/v1/classify", gzip.compress(json.dumps(GOOD).encode()))
    assert reply.status == 400
    assert "send Content-Encoding: gzip, too" in reply.error


def test_of_a_duplicate_key_the_last_value_counts(shared_server: ServerProcess) -> None:
    twice = shared_server.post(
        "/v1/classify", b'{"model": "sentiment", "inputs": "Bad.", "inputs": "The cat sat on the mat."}'
    )
    assert twice.json == shared_server.post("/v1/classify", GOOD).json


@pytest.mark.parametrize("text", ["a" * 1_000_000, "a " * 500_000, "天" * 300_000, " " * 1_000_000, "́" * 300_000])
@pytest.mark.parametrize("model", ["sentiment", "toxicity"])
def test_a_text_of_a_megabyte_is_answered(shared_server: ServerProcess, model: str, text: str) -> None:
    reply = shared_server.post("/v1/classify", {"model": model, "inputs": text})
    assert reply.status == 200
    assert len(reply.json["predictions"]) == 1
    assert reply.json["usage"]["tokens"] <= 40


@pytest.mark.parametrize("model", ["sentiment", "toxicity"])
def test_a_pair_of_two_megabytes_is_answered(shared_server: ServerProcess, model: str) -> None:
    pair = {"text": "a b " * 500_000, "text_pair": "c " * 1_000_000}
    reply = shared_server.post("/v1/classify", {"model": model, "inputs": pair})
    assert reply.status == 200
    assert reply.json["usage"] == {"tokens": 40, "truncated": 1}


def test_a_long_text_delays_nobody(shared_server: ServerProcess) -> None:
    """One that is read to its end: most of others is not."""
    body = {"model": "sentiment", "inputs": " " * 1_000_000 + "a"}
    answered = 0
    with ThreadPoolExecutor(1) as threads:
        long = threads.submit(shared_server.post, "/v1/classify", body)
        while not long.done():
            assert shared_server.post("/v1/classify", GOOD).status == 200
            answered += 1
    assert long.result().json["usage"] == {"tokens": 3, "truncated": 0}
    assert answered > 20  # hundreds; one to three if the tokenizer keeps the GIL
