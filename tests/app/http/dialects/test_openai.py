"""OpenAI's embeddings and list of models, as they come over the wire."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ModelsOf
from tests.support import Reply, ServerProcess, serving

KEY = "s3cret"
TEXTS = ["The cat sat on the mat.", "  Good  morning ", "東京"]
LONG = "the cat sat on the mat " * 20


@pytest.fixture(scope="module")
def models(models_of: ModelsOf) -> Path:
    return models_of({"mean": "bert-embed", "first": "distilbert-embed-cls", "prompted": "bert-embed-dense"})


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    arguments = ("--threads", "1", "--max-inputs", "64", "--default-models", "embed=first")
    with serving(models, *arguments, BERT_API_KEY=KEY) as server:
        yield server
        assert server.stop() == 0, server.log
        assert "cat" not in server.log


def ask(server: ServerProcess, body: Any, key: str = f"Bearer {KEY}") -> Reply:
    return server.post("/v1/embeddings", body, authorization=key)


def native(server: ServerProcess, **body: Any) -> Any:
    reply = server.post("/v1/embed", body, authorization=f"Bearer {KEY}")
    assert reply.status == 200, reply.body
    return reply.json


def refusal(server: ServerProcess, body: Any) -> tuple[int, Any]:
    reply = ask(server, body)
    document = reply.json
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"message", "type", "param", "code"}
    return reply.status, document["error"]


@pytest.mark.parametrize("count", [1, 3, 64])
def test_embeddings_are_the_native_ones_of_unit_length(server: ServerProcess, count: int) -> None:
    texts = (TEXTS * count)[:count]
    expected = native(server, model="first", inputs=texts, parameters={"normalize": True})
    assert ask(server, {"input": texts, "model": "first"}).json == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": embedding}
            for i, embedding in enumerate(expected["predictions"])
        ],
        "model": "first",
        "usage": {"prompt_tokens": expected["usage"]["tokens"], "total_tokens": expected["usage"]["tokens"]},
    }


def test_base64_holds_the_same_numbers(server: ServerProcess) -> None:
    asked = {"input": TEXTS[0], "model": "mean"}
    [plain] = ask(server, asked | {"encoding_format": "float"}).json["data"]
    [coded] = ask(server, asked | {"encoding_format": "base64"}).json["data"]
    assert np.frombuffer(base64.b64decode(coded["embedding"]), "<f4").tolist() == plain["embedding"]


def test_a_request_without_a_model_is_answered_by_the_default(server: ServerProcess) -> None:
    assert ask(server, {"input": "Good"}).json["model"] == "first"


@pytest.mark.parametrize(
    ("more", "parameters"),
    [
        ({"normalize": False}, {"normalize": False}),
        ({"truncate": "START"}, {"truncation_direction": "left"}),
        ({"truncate": "END", "truncation_side": "left"}, {}),
        ({"truncation_side": "left"}, {"truncation_direction": "left"}),
        ({"dimensions": 8}, {"dimensions": 8}),
        ({"input_type": "query"}, {"input_type": "query"}),
        ({"input_type": "document"}, {"input_type": "document"}),
        ({"input_type": "passage"}, {"input_type": "document"}),
        ({"prompt_name": "topic"}, {}),
        ({"prompt_name": ""}, {"prompt_name": ""}),
        ({"user": "me", "unknown": 1, "dimensions": None, "encoding_format": None}, {}),
        ({"add_special_tokens": True, "truncate_prompt_tokens": -1, "embed_dtype": "float32"}, {}),
    ],
)
def test_keys_are_honoured_or_change_nothing(
    server: ServerProcess, more: dict[str, Any], parameters: dict[str, Any]
) -> None:
    embedding = ask(server, {"input": LONG, "model": "prompted"} | more).json["data"][0]["embedding"]
    expected = native(server, model="prompted", inputs=LONG, parameters={"normalize": True} | parameters)
    assert [embedding] == expected["predictions"]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": [1, 2]}, "input", "input: holds token ids"),
        ({"input": [[1, 2], [3]]}, "input", "input: holds token ids"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ""}, "input", "input: is an empty string"),
        ({"input": ["a", ""]}, "input", "input[1]: is an empty string"),
        ({"input": {"text": "a"}}, "input", "input: should be a text or a list of texts"),
        ({"model": "mean"}, "input", "input: is missing"),
        ({"input": LONG, "truncate": "NONE"}, "input", "input[0] has more than 32 tokens"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": 33}, "dimensions", "dimensions: this model's embeddings have 32 numbers"),
        ({"input": "a", "prompt_name": "query"}, "prompt_name", "prompt_name: this model has no such prompt"),
        ({"input": "a", "prompt_name": "", "input_type": "query"}, "prompt_name", "prompt_name and input_type both"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "integer"),
        ({"input": "a", "add_special_tokens": False}, "add_special_tokens", "True"),
        ({"input": "a", "truncate_prompt_tokens": 9}, "truncate_prompt_tokens", "-1"),
        ([], None, "body"),
    ],
)
def test_what_cannot_be_answered_is_a_bad_request(
    server: ServerProcess, body: Any, param: str | None, says: str
) -> None:
    if isinstance(body, dict):
        body = {"model": "mean"} | body
    status, error = refusal(server, body)
    assert (status, error["type"], error["param"], error["code"]) == (400, "invalid_request_error", param, "validation")
    assert says in error["message"]


def test_too_many_texts_are_a_bad_request(server: ServerProcess) -> None:
    status, error = refusal(server, {"input": ["a"] * 65})
    assert status == 400
    assert "at most 64 are allowed" in error["message"]


def test_other_errors_keep_their_status(server: ServerProcess) -> None:
    status, error = refusal(server, {"input": "a", "model": "text-embedding-3-small"})
    assert (status, error["code"]) == (404, "model_not_found")
    assert "mean" in error["message"]
    assert "text-embedding" not in error["message"]
    assert refusal(server, b"{")[1]["code"] == "invalid_json"
    reply = ask(server, {"input": "a"}, key="Bearer wrong")
    assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert server.ask("GET", "/v1/embeddings").status == 405


def test_requests_are_counted_as_openai(server: ServerProcess) -> None:
    before = server.metric("bert_requests_total", api="openai", model="mean", task="embed", status="200")
    assert ask(server, {"input": "a", "model": "mean"}).status == 200
    assert server.metric("bert_requests_total", api="openai", model="mean", status="200") == before + 1


def test_models_are_listed_as_openai_does(server: ServerProcess, models: Path) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    document = server.ask("GET", "/v1/models", headers=headers).json
    assert document["object"] == "list"
    assert document["data"] == document["models"]
    assert [card["id"] for card in document["data"]] == ["first", "mean", "prompted"]
    card = server.ask("GET", "/v1/models/mean", headers=headers).json
    assert card in document["data"]
    assert (card["object"], card["owned_by"], card["ready"]) == ("model", "local", True)
    assert card["created"] == int((models / "mean" / "manifest.json").stat().st_mtime)
