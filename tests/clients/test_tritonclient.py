"""Triton's client for HTTP, synchronous and asynchronous, as bytes and as JSON."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.clients.conftest import KEY, TOLERANCE, code_of_page, stored
from tests.support import ServerProcess


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Any]:
    with triton.InferenceServerClient(urlsplit(server.url).netloc, concurrency=4) as client:
        yield client


def tensor(name: str, texts: list[str], *, binary: bool = True) -> Any:
    one = triton.InferInput(name, [len(texts)], "BYTES")
    one.set_data_from_numpy(np.array(texts, dtype=object), binary_data=binary)
    return one


def near(value: Any) -> Any:
    """Compare as JSON does, with numbers up to the tolerance."""
    if isinstance(value, dict):
        return {key: near(one) for key, one in value.items()}
    if isinstance(value, list):
        return [near(one) for one in value]
    return pytest.approx(value, abs=TOLERANCE, rel=TOLERANCE) if isinstance(value, float) else value


def test_the_server_and_its_models_are_described(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("bert-embed")
    assert client.is_model_ready("bert-embed", "1")
    assert not client.is_model_ready("bert-embed", "2")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("bert-embed")["inputs"][0]["name"] == "text"
    assert client.get_model_config("bert-embed")["output"][0]["data_type"] == "TYPE_FP32"
    assert {"name": "bert-embed", "version": "1", "state": "READY", "reason": ""} in client.get_model_repository_index()


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "json"])
def test_embeddings_are_those_of_the_reference(client: Any, binary: bool) -> None:
    texts, expected = zip(*stored("bert-embed"), strict=True)
    wanted = [triton.InferRequestedOutput("embedding", binary_data=binary)]
    result = client.infer("bert-embed", [tensor("text", list(texts), binary=binary)], outputs=wanted, request_id="7")
    assert result.get_response()["id"] == "7"
    np.testing.assert_allclose(result.as_numpy("embedding"), np.array(expected), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["bert-single-label", "demo-classify"])
def test_labels_are_those_of_the_reference(client: Any, name: str) -> None:
    cases = [(text, best) for text, best in stored(name, top_k=1) if isinstance(text, str)]
    texts = [text for text, _ in cases]
    result = client.infer(name, [tensor("text", texts)], model_version="1", parameters={"top_k": 1})
    assert [label.decode() for [label] in result.as_numpy("label")] == [best["label"] for _, [best] in cases]
    assert result.as_numpy("score")[:, 0].tolist() == near([best["score"] for _, [best] in cases])


@pytest.mark.parametrize(
    "name", ["bert-next-sentence", "bert-fill-mask", "demo-fill-mask", "bert-entities", "bert-answer"]
)
def test_predictions_are_those_of_the_reference(client: Any, name: str) -> None:
    asked, expected = zip(*stored(name), strict=True)
    rows = [one if isinstance(one, dict) else {"text": one} for one in asked]
    inputs = [tensor(key, [row[key] for row in rows]) for key in rows[0]]
    result = client.infer(name, inputs, request_compression_algorithm="gzip", response_compression_algorithm="gzip")
    assert [json.loads(document) for document in result.as_numpy("prediction")] == near(list(expected))


def test_requests_at_once_are_answered(client: Any) -> None:
    texts = [f"text {i}" for i in range(8)]
    expected = client.infer("bert-embed", [tensor("text", texts)]).as_numpy("embedding")
    waiting = [client.async_infer("bert-embed", [tensor("text", [text])]) for text in texts]
    found = [one.get_result().as_numpy("embedding")[0] for one in waiting]
    assert np.array_equal(found, expected)


def test_the_asynchronous_client_is_answered(server: ServerProcess, client: Any) -> None:
    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(urlsplit(server.url).netloc) as one:
            assert await one.is_server_ready()
            with pytest.raises(InferenceServerException, match="There is no such model"):
                await one.infer("nobody", [tensor("text", ["Good"])])
            return await one.infer("bert-embed", [tensor("text", ["Good"])], request_compression_algorithm="deflate")

    expected = client.infer("bert-embed", [tensor("text", ["Good"])])
    assert np.array_equal(asyncio.run(ask()).as_numpy("embedding"), expected.as_numpy("embedding"))


def test_an_error_is_the_client_s_own(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="this model takes text") as caught:
        client.infer("bert-embed", [tensor("texts", ["Good"])])
    assert caught.value.status() == "422"
    with pytest.raises(InferenceServerException, match="There is no such route"):
        client.load_model("bert-embed")


def test_the_key_is_sent_as_a_header(locked: ServerProcess) -> None:
    with triton.InferenceServerClient(urlsplit(locked.url).netloc) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="API key") as caught:
            client.infer("bert-embed", [tensor("text", ["Good"])])
        assert caught.value.status() == "401"
        headers = {"Authorization": f"Bearer {KEY}"}
        result = client.infer("bert-embed", [tensor("text", ["Good"])], headers=headers)
        assert result.as_numpy("embedding").shape[0] == 1


def test_the_code_of_the_page_runs(server: ServerProcess) -> None:
    variables: dict[str, Any] = {}
    exec(code_of_page("import tritonclient", server), variables)
    assert len(variables["embeddings"]) == 2
