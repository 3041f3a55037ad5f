"""Cohere's and Jina's reranking, as it comes over the wire, and native requests on the path that they share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ModelsOf
from tests.support import Reply, ServerProcess, serving

KEY = "s3cret"
QUERY = "What is the capital of France?"
TEXTS = ["The cat sat on the mat.", "The capital of France is Paris.", "", "東京"]
LONG = "the cat sat on the mat " * 20
BOTH = pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])


@pytest.fixture(scope="module")
def models(models_of: ModelsOf) -> Path:
    return models_of({"ranker": "roberta-rerank", "scorer": "distilbert-one-label", "sentiment": "bert-single-label"})


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with serving(models, "--threads", "1", "--max-inputs", "64", BERT_API_KEY=KEY) as server:
        yield server
        assert server.stop() == 0, server.log
        assert "cat" not in server.log


def ask(server: ServerProcess, path: str, body: Any, key: str = f"Bearer {KEY}") -> Reply:
    return server.post(path, body, authorization=key)


def native(server: ServerProcess, texts: Sequence[str], model: str = "ranker", **parameters: Any) -> Any:
    inputs = {"query": QUERY, "texts": texts}
    reply = ask(server, "/v1/rerank", {"model": model, "inputs": inputs, "parameters": parameters})
    assert reply.status == 200, reply.body
    return reply.json


@BOTH
@pytest.mark.parametrize("model", ["ranker", "scorer"])
def test_scores_are_the_native_ones_between_0_and_1(server: ServerProcess, path: str, model: str) -> None:
    expected = native(server, TEXTS, model, function_to_apply="sigmoid")
    tokens = expected["usage"]["tokens"]
    reply = ask(server, path, {"query": QUERY, "documents": TEXTS, "model": model})
    assert reply.json == {
        "id": reply.headers["x-request-id"],
        "model": model,
        "results": [{"index": one["index"], "relevance_score": one["score"]} for one in expected["predictions"][0]],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {"api_version": {"version": path[2]}, "tokens": {"input_tokens": tokens, "output_tokens": 0}},
    }


def test_without_a_model_the_one_that_was_exported_for_it_answers(server: ServerProcess) -> None:
    assert ask(server, "/v2/rerank", {"query": QUERY, "documents": TEXTS}).json["model"] == "ranker"


@BOTH
def test_documents_come_back_as_they_were_sent(server: ServerProcess, path: str) -> None:
    documents = [TEXTS[0], {"text": TEXTS[1], "title": "Paris", "page": 3}]
    body = {"query": QUERY, "documents": documents, "return_documents": True}
    results = ask(server, path, body).json["results"]
    sent = [{"text": TEXTS[0]}, documents[1]]
    assert [one["document"] for one in results] == [sent[one["index"]] for one in results]
    body = {"query": QUERY, "documents": TEXTS, "top_n": 1, "return_documents": False}
    [best] = ask(server, path, body).json["results"]
    assert best.keys() == {"index", "relevance_score"}
    assert best["index"] == native(server, TEXTS)["predictions"][0][0]["index"]


@pytest.mark.parametrize(
    ("more", "parameters"),
    [
        ({"raw_scores": True}, {"function_to_apply": "none"}),
        ({"priority": 1, "unknown": 1, "top_n": None, "rank_fields": None}, {"function_to_apply": "sigmoid"}),
        (
            {"max_tokens_per_doc": 40, "max_chunks_per_doc": 1, "rank_fields": ["text"]},
            {"function_to_apply": "sigmoid"},
        ),
    ],
)
def test_keys_are_honoured_or_change_nothing(
    server: ServerProcess, more: dict[str, Any], parameters: dict[str, Any]
) -> None:
    results = ask(server, "/v1/rerank", {"query": QUERY, "documents": [*TEXTS, LONG], "model": "ranker"} | more).json
    [expected] = native(server, [*TEXTS, LONG], **parameters)["predictions"]
    assert [(one["index"], one["relevance_score"]) for one in results["results"]] == [
        (one["index"], one["score"]) for one in expected
    ]


@BOTH
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"documents": []}, "documents: list should have at least 1 item"),
        ({"documents": [1]}, 'documents[0]: should be a text or {"text": ...}'),
        ({"documents": ["a", {"image": "x"}]}, "documents[1].text: is missing"),
        ({"documents": ["a", "\0"]}, "documents[1].text: contains a NUL"),
        ({"documents": ["a"] * 65}, "at most 64 are allowed"),
        ({"documents": "a"}, "documents: input should be a valid array"),
        ({"query": ""}, "query: is an empty string"),
        ({"query": "\0"}, "query: contains a NUL"),
        ({"top_n": 0}, "top_n: input should be greater than or equal to 1"),
        ({"max_tokens_per_doc": 39}, "max_tokens_per_doc: documents are cut where query and document reach 40 tokens"),
        ({"max_chunks_per_doc": 10}, "max_chunks_per_doc: input should be 1"),
        ({"rank_fields": ["title"]}, "rank_fields[0]: input should be 'text'"),
        ({"relevant_spans": {}}, "relevant_spans: input should be null"),
        ({"documents": ["a", LONG], "truncation": False}, "documents[1] with the query has more than 40 tokens"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(
    server: ServerProcess, path: str, body: dict[str, Any], says: str
) -> None:
    reply = ask(server, path, {"model": "ranker", "query": QUERY, "documents": TEXTS} | body)
    document = reply.json
    assert reply.status == 422
    assert document.keys() == {"error", "error_type", "request_id", "message", "detail"}
    assert document["error"] == document["message"] == document["detail"]
    assert says in document["message"]


@BOTH
def test_other_errors_keep_their_status(server: ServerProcess, path: str) -> None:
    body = {"query": QUERY, "documents": TEXTS}
    missing = ask(server, path, body | {"model": "rerank-v3.5"})
    assert missing.status == 404
    assert "ranker" in missing.json["message"]
    other = ask(server, path, body | {"model": "sentiment"})
    assert other.status == 404
    assert "Models for rerank: ranker, scorer" in other.json["message"]
    assert ask(server, path, b"{").status == 400
    assert ask(server, path, []).status == 422
    assert ask(server, path, body, key="Bearer wrong").status == 401


def test_a_body_with_inputs_is_read_strictly_as_a_native_one(server: ServerProcess) -> None:
    body = {"model": "ranker", "inputs": {"query": QUERY, "texts": TEXTS}, "top_n": 1}
    told = ask(server, "/v1/rerank", body).error
    assert told == 'top_n: is not a parameter of this endpoint; did you mean {"parameters": {"top_n": ...}}?'
    missing = ask(server, "/v2/rerank", body)
    assert missing.status == 422
    assert "query: is missing" in missing.json["message"]


def test_requests_are_counted_by_the_form_of_their_body(server: ServerProcess) -> None:
    def counts() -> list[float]:
        labels = {"model": "scorer", "status": "200"}
        return [server.metric("bert_requests_total", api=api, **labels) for api in ("native", "rerank")]

    before = counts()
    native(server, TEXTS, "scorer")
    for path in ("/v1/rerank", "/v2/rerank"):
        assert ask(server, path, {"query": QUERY, "documents": TEXTS, "model": "scorer"}).status == 200
    assert counts() == [before[0] + 1, before[1] + 2]


def test_openapi_says_that_the_native_path_takes_the_other_form(server: ServerProcess) -> None:
    paths = server.ask("GET", "/openapi.json").json["paths"]
    assert "Cohere's and Jina's" in paths["/v1/rerank"]["post"]["description"]
    assert paths["/v1/rerank"]["post"]["operationId"] == "rerank"
    assert paths["/v2/rerank"]["post"]["tags"] == ["rerank"]


def test_without_the_dialect_the_native_route_is_alone(models: Path) -> None:
    with serving(models, "--threads", "1", "--apis", "none") as server:
        body = {"model": "ranker", "inputs": {"query": QUERY, "texts": TEXTS}}
        assert server.post("/v1/rerank", body).status == 200
        refused = server.post("/v1/rerank", {"model": "ranker", "query": QUERY, "documents": TEXTS})
        assert refused.status == 422
        assert refused.json.keys() == {"error", "error_type", "request_id"}
        assert server.post("/v2/rerank", body).status == 404
        assert server.stop() == 0, server.log
