"""LiteLLM, as a client of the APIs that it has providers for."""

import asyncio
from collections.abc import Iterator
from inspect import isawaitable
from typing import Any

import litellm
import numpy as np
import pytest

from tests.clients.conftest import answers, code_of_page
from tests.support import ServerProcess

# What LiteLLM's own types make pydantic say.
pytestmark = pytest.mark.filterwarnings("ignore:Item:UserWarning")

CASE = answers("bert-embed")["cases"][0]
# Stored with 7 digits; another CPU rounds the last ones otherwise.
CLOSE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def _close() -> Iterator[None]:
    """Close what LiteLLM keeps for its next calls: connections, and the event loop that it takes or makes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
        closing = client.close()
        if isawaitable(closing):
            loop.run_until_complete(closing)
    asyncio.set_event_loop(None)
    loop.close()


def test_embeddings_are_those_of_the_reference(server: ServerProcess) -> None:
    answer = litellm.embedding(
        model="openai/bert-embed", input=[CASE["input"]], api_base=f"{server.url}/v1", api_key="none"
    )
    np.testing.assert_allclose(answer.data[0]["embedding"], CASE["answers"][0]["prediction"], atol=CLOSE)


def test_a_model_that_is_not_there_is_not_found(server: ServerProcess) -> None:
    with pytest.raises(litellm.NotFoundError, match="There is no such model"):
        litellm.embedding(model="openai/nobody", input=["a"], api_base=f"{server.url}/v1", api_key="none")


@pytest.mark.parametrize("provider", ["cohere", "jina_ai"])
def test_documents_are_ranked_as_the_reference_ranks_them(server: ServerProcess, provider: str) -> None:
    case = answers("roberta-rerank")["cases"][0]
    logits = np.array([pair["logits"][0] for pair in case["pairs"]])
    best = np.argsort(-logits).tolist()
    query, texts = case["input"]["query"], case["input"]["texts"]
    answer = litellm.rerank(
        model=f"{provider}/roberta-rerank", query=query, documents=texts, api_base=server.url, api_key="none"
    )
    assert answer.results is not None
    assert [one["index"] for one in answer.results] == best
    scores = [one["relevance_score"] for one in answer.results]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits[best])), atol=CLOSE)
    assert [one["document"]["text"] for one in answer.results] == [texts[index] for index in best]


def test_the_code_of_the_page_runs(server: ServerProcess) -> None:
    variables: dict[str, Any] = {}
    exec(code_of_page("import litellm", server), variables)
    assert len(variables["answer"].data) == 1
    assert len(variables["ranked"].results) == 1
