"""The Hugging Face Inference API over a socket: the answers are those of the native API in another form."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ModelsOf
from tests.support import ServerProcess, serving

NAMES = ("bert-single-label", "bert-next-sentence", "bert-entities", "bert-fill-mask", "bert-answer", "bert-embed")
KEY = "s3cret"
AS_KEY = f"Bearer {KEY}"
TEXT = "The cat sat on the mat in Paris."
PAIR = {"text": TEXT, "text_pair": "It is good."}
QUESTION = {"question": "Where is it?", "context": TEXT}


@pytest.fixture(scope="module")
def server(models_of: ModelsOf) -> Iterator[ServerProcess]:
    folder = models_of({name: name for name in NAMES})
    with serving(folder, "--threads", "1", "--default-models", "embed=bert-embed", BERT_API_KEY=KEY) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "task", "inputs", "theirs", "ours"),
    [
        ("bert-single-label", "classify", [PAIR, TEXT], {"top_k": 2}, {"top_k": 2}),
        ("bert-entities", "entities", [TEXT], {"aggregation_strategy": "first"}, {"aggregation_strategy": "first"}),
        ("bert-fill-mask", "fill-mask", ["[MASK] [MASK]", "[MASK] and [MASK]"], {}, {}),
        (
            "bert-answer",
            "answer",
            [QUESTION, QUESTION | {"context": TEXT * 9}],
            {"max_answer_len": 4, "top_k": 2, "doc_stride": 3},
            {"max_answer_length": 4, "top_k": 2, "stride": 3},
        ),
        ("bert-embed", "embed", [TEXT, "Good"], {"truncate": True}, {"truncation": True}),
    ],
)
def test_a_list_is_answered_with_the_native_predictions(
    server: ServerProcess, name: str, task: str, inputs: Any, theirs: Any, ours: Any
) -> None:
    native = server.post(
        f"/v1/{task}", {"model": name, "inputs": inputs, "parameters": ours}, authorization=AS_KEY
    ).json
    body = {"inputs": inputs, "parameters": theirs, "options": {"use_cache": False}}
    assert server.post(f"/models/{name}", body, authorization=AS_KEY).json == native["predictions"]
    assert server.post("/", {"model": name, **body}, authorization=AS_KEY).json == native["predictions"]


def test_next_sentence_is_a_classification_of_pairs(server: ServerProcess) -> None:
    [native] = server.post("/v1/next-sentence", {"inputs": PAIR}, authorization=AS_KEY).json["predictions"]
    [labels] = server.post("/models/bert-next-sentence", {"inputs": PAIR}, authorization=AS_KEY).json
    assert {one["label"]: one["score"] for one in labels}["IS_NEXT"] == native["score"]


def test_a_pipeline_may_be_named_in_the_path(server: ServerProcess) -> None:
    named = server.post("/models/bert-embed/pipeline/feature-extraction", {"inputs": TEXT}, authorization=AS_KEY)
    assert named.json == server.post("/", {"inputs": TEXT}, authorization=AS_KEY).json


@pytest.mark.parametrize(
    ("path", "body", "key", "status", "error_type"),
    [
        ("/models/bert-embed", {"inputs": TEXT}, None, 401, "unauthorized"),
        ("/models/nowhere", {"inputs": TEXT}, AS_KEY, 404, "not_found"),
        ("/models/bert-embed/pipeline/ner", {"inputs": TEXT}, AS_KEY, 404, "not_found"),
        ("/models/bert-embed", {"inputs": TEXT, "parameters": {"top_k": 1}}, AS_KEY, 422, "validation"),
        ("/models/bert-embed", b"{", AS_KEY, 400, "invalid_json"),
        ("/", {"inputs": ["a"] * 513}, AS_KEY, 422, "validation"),
    ],
)
def test_errors_are_those_of_the_catalogue(
    server: ServerProcess, path: str, body: Any, key: str | None, status: int, error_type: str
) -> None:
    reply = server.post(path, body, **({"authorization": key} if key else {}))
    assert (reply.status, reply.json["error_type"]) == (status, error_type)
    assert TEXT not in reply.error


def test_the_health_of_a_model_is_that_of_the_server(server: ServerProcess) -> None:
    asked = {"authorization": AS_KEY}
    reply = server.ask("GET", "/models/bert-embed/health", headers=asked)
    assert (reply.status, reply.json) == (200, {"status": "ready"})
    assert server.ask("GET", "/models/nowhere/health", headers=asked).status == 404
    assert server.ask("GET", "/models/bert-embed/health").status == 401


def test_requests_are_counted_by_api_and_model(server: ServerProcess) -> None:
    labels = {"api": "huggingface", "model": "bert-entities", "task": "entities", "status": "200"}
    before = server.metric("bert_requests_total", api="huggingface")
    server.post("/models/bert-entities", {"inputs": TEXT}, authorization=KEY)
    assert server.metric("bert_requests_total", api="huggingface") == before + 1
    assert server.metric("bert_requests_total", **labels) >= 1
