"""OpenAI's client: embeddings, models, and its exceptions."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.clients.conftest import KEY, PYTHON, answers, code_of_page, models
from tests.support import ServerProcess, eventually, starting

CASES = [case for case in answers("bert-embed")["cases"] if case["answers"][0]["parameters"] == {}]
TEXTS = [case["input"] for case in CASES]
EXPECTED = [case["answers"][0]["prediction"] for case in CASES]
# Stored with 7 digits; another CPU rounds the last ones otherwise.
CLOSE = 1e-5


def client_of(server: ServerProcess, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def test_embeddings_are_those_of_the_reference(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(input=TEXTS, model="bert-embed")
    assert (answer.object, answer.model) == ("list", "bert-embed")
    assert answer.usage.prompt_tokens == sum(len(case["input_ids"]) for case in CASES)
    assert [one.index for one in answer.data] == list(range(len(TEXTS)))
    np.testing.assert_allclose([one.embedding for one in answer.data], EXPECTED, atol=CLOSE)
    # By default the client asks for base64, and decodes it.
    plain = client.embeddings.create(input=TEXTS, model="bert-embed", encoding_format="float")
    np.testing.assert_array_equal([one.embedding for one in plain.data], [one.embedding for one in answer.data])


@pytest.mark.parametrize("parameters", [{"dimensions": 8}, {"input_type": "query"}, {"prompt_name": "document"}])
def test_parameters_change_embeddings_as_in_the_reference(client: openai.OpenAI, parameters: dict[str, Any]) -> None:
    case = answers("bert-embed-dense")["cases"][0]
    [expected] = [one["prediction"] for one in case["answers"] if one["parameters"] == parameters]
    size = parameters.get("dimensions", openai.omit)
    more = {key: value for key, value in parameters.items() if key != "dimensions"}
    answer = client.embeddings.create(input=case["input"], model="bert-embed-dense", dimensions=size, extra_body=more)
    np.testing.assert_allclose(answer.data[0].embedding, expected, atol=CLOSE)


def test_the_asynchronous_client_gets_them_too(server: ServerProcess) -> None:
    async def main() -> list[float]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return (await client.embeddings.create(input=TEXTS[0], model="bert-embed")).data[0].embedding

    np.testing.assert_allclose(asyncio.run(main()), EXPECTED[0], atol=CLOSE)


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    listed = client.models.list()
    assert listed.object == "list"
    assert "bert-embed" in [model.id for model in listed.data]
    model = client.models.retrieve("bert-embed")
    assert model in listed.data
    assert (model.id, model.object, model.owned_by) == ("bert-embed", "model", "local")
    assert model.created > 0


def test_what_cannot_be_answered_raises_what_openai_raises(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="token ids") as bad:
        client.embeddings.create(input=[1, 2], model="bert-embed")
    assert (bad.value.param, bad.value.type) == ("input", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.embeddings.create(input="", model="bert-embed")
    with pytest.raises(openai.NotFoundError, match="There is no such model") as missing:
        client.embeddings.create(input="a", model="text-embedding-3-small")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("text-embedding-3-small")


def test_the_key_of_the_client_is_the_key_of_the_server(locked: ServerProcess) -> None:
    with client_of(locked, KEY) as client:
        assert client.embeddings.create(input="a", model="bert-embed").data
        assert client.models.list().data
    with client_of(locked, "wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="API key") as refused:
            client.embeddings.create(input="a", model="bert-embed")
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_full_queue_raises_the_error_that_says_when_to_retry(tmp_path: Path) -> None:
    assert models is not None
    arguments = ("--threads", "1", "--max-queue-s", "0.0001", "--batch-tokens", "64")
    folder, faults, hold = Path(models, "bert-embed"), {"FAULTS": str(tmp_path)}, tmp_path / "hold"
    with (
        ThreadPoolExecutor(1) as threads,
        starting(folder, *arguments, environment=faults, module="tests.e2e.faulty", python=PYTHON) as server,
        client_of(server) as client,
    ):
        hold.touch()
        bulk = threads.submit(client.embeddings.create, input=TEXTS * 8, model="bert-embed")
        eventually(lambda: server.metric("bert_queue_sequences") > 0)
        with pytest.raises(openai.RateLimitError) as full:
            client.embeddings.create(input="a", model="bert-embed")
        assert full.value.code == "rate_limit_exceeded"
        assert int(full.value.response.headers["retry-after"]) >= 1
        hold.unlink()
        assert len(bulk.result().data) == 8 * len(TEXTS)
        assert server.stop() == 0


def test_the_code_of_the_page_runs(server: ServerProcess) -> None:
    variables: dict[str, Any] = {}
    exec(code_of_page("import openai", server), variables)
    assert len(variables["embeddings"]) == 2
