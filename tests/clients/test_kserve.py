"""KServe's client for HTTP, in both versions of its protocol."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from tests.clients.conftest import KEY, TOLERANCE, code_of_page, stored
from tests.support import ServerProcess


def ask(version: str, what: Callable[[Any], Awaitable[Any]]) -> Any:
    """Ask with a client of a version of the protocol."""

    async def main() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=version)) as client:
            return await what(client)

    return asyncio.run(main())


def test_a_server_and_its_models_are_ready(server: ServerProcess) -> None:
    assert ask("v2", lambda client: client.is_server_live(server.url)) is True
    assert ask("v2", lambda client: client.is_server_ready(server.url)) is True
    assert ask("v2", lambda client: client.is_model_ready(server.url, "bert-embed")) is True
    assert ask("v2", lambda client: client.is_model_ready(server.url, "nobody")) is False
    assert ask("v1", lambda client: client.is_server_live(server.url)) is True
    assert ask("v1", lambda client: client.is_model_ready(server.url, "bert-embed")) is True


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "json"])
def test_tensors_are_those_of_the_reference(server: ServerProcess, binary: bool) -> None:
    texts, expected = zip(*stored("bert-embed"), strict=True)
    tensor = InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array(texts, dtype=object), binary_data=binary)
    request = InferRequest("bert-embed", [tensor], request_id="7", parameters={"binary_data_output": binary})
    response = ask("v2", lambda client: client.infer(server.url, request, model_name="bert-embed"))
    assert response.id == "7"
    [embedding] = [one.as_numpy() for one in response.outputs if one.name == "embedding"]
    np.testing.assert_allclose(embedding, np.array(expected), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["bert-single-label", "demo-classify"])
def test_predictions_are_those_of_the_reference(server: ServerProcess, name: str) -> None:
    cases = stored(name, top_k=1)
    body = {"instances": [text for text, _ in cases], "parameters": {"top_k": 1}}
    predictions = ask("v1", lambda client: client.infer(server.url, body, model_name=name))
    found = [best for [best] in predictions["predictions"]]
    assert [best["label"] for best in found] == [best["label"] for _, [best] in cases]
    expected = [best["score"] for _, [best] in cases]
    assert [best["score"] for best in found] == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE)


def test_explanations_are_of_the_best_labels(server: ServerProcess) -> None:
    [(text, [best])] = stored("bert-single-label", top_k=1)[:1]
    body = {"instances": [text]}
    answer = ask("v1", lambda client: client.explain(server.url, "bert-single-label", body))
    [explanation] = answer["explanations"]
    assert explanation["target"] == best["label"]
    assert explanation["score"] == pytest.approx(best["score"], abs=TOLERANCE, rel=TOLERANCE)


def test_an_error_is_the_client_s_own(server: ServerProcess) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="instances: is missing; rename inputs to that, '422"):
        ask("v1", lambda client: client.infer(server.url, {"inputs": ["a"]}, model_name="bert-embed"))
    with pytest.raises(httpx.HTTPStatusError, match="That model does embed, not explain"):
        ask("v1", lambda client: client.explain(server.url, "bert-embed", {"instances": ["a"]}))
    with pytest.raises(httpx.HTTPStatusError, match="There is no such model"):
        ask("v2", lambda client: client.infer(server.url, {"inputs": []}, model_name="nobody"))


def test_the_key_is_sent_as_a_header(locked: ServerProcess) -> None:
    body = {"instances": ["Good"]}
    with pytest.raises(httpx.HTTPStatusError, match="API key"):
        ask("v1", lambda client: client.infer(locked.url, body, model_name="bert-embed"))
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = ask("v1", lambda client: client.infer(locked.url, body, model_name="bert-embed", headers=headers))
    assert len(answer["predictions"]) == 1


def test_the_code_of_the_page_runs(server: ServerProcess) -> None:
    variables: dict[str, Any] = {}
    exec(code_of_page("from kserve", server), variables)
    [[best]] = variables["predictions"]
    assert best.keys() == {"label", "score"}
