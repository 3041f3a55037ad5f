"""Cohere's clients of both versions, and LlamaIndex's of Jina's API."""

import asyncio
from typing import Any

import cohere
import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank

from tests.clients.conftest import KEY, answers, code_of_page
from tests.support import ServerProcess

MODEL = "roberta-rerank"
ASKED: Any = answers(MODEL)["cases"][0]["input"]
QUERY, TEXTS = ASKED["query"], ASKED["texts"]
LOGITS = [pair["logits"][0] for pair in answers(MODEL)["cases"][0]["pairs"]]
EXPECTED = 1 / (1 + np.exp(-np.array(LOGITS)))
BEST = np.argsort(-EXPECTED).tolist()
# Stored with 7 digits; another CPU rounds the last ones otherwise.
CLOSE = 1e-5


def check(results: Any) -> None:
    assert [one.index for one in results] == BEST
    np.testing.assert_allclose([one.relevance_score for one in results], EXPECTED[BEST], atol=CLOSE)


def test_cohere_gets_the_scores_of_the_reference(server: ServerProcess) -> None:
    with cohere.Client("none", base_url=server.url) as client:
        answer = client.rerank(query=QUERY, documents=TEXTS, model=MODEL)
    check(answer.results)
    assert answer.results[0].document is None
    assert answer.id
    assert answer.meta is not None
    assert answer.meta.api_version is not None
    assert answer.meta.api_version.version == "1"
    assert answer.meta.tokens is not None
    assert answer.meta.tokens.input_tokens
    with cohere.ClientV2("none", base_url=server.url) as newer:
        check(newer.rerank(query=QUERY, documents=TEXTS, model=MODEL).results)


def test_cohere_gets_documents_back(server: ServerProcess) -> None:
    documents = [{"text": text, "page": str(page)} for page, text in enumerate(TEXTS)]
    with cohere.Client("none", base_url=server.url) as client:
        answer = client.rerank(query=QUERY, documents=documents, model=MODEL, top_n=2, return_documents=True)
    returned = [one.document for one in answer.results]
    assert [one.model_dump() for one in returned if one is not None] == [documents[index] for index in BEST[:2]]


def test_the_asynchronous_clients_of_cohere_get_them_too(server: ServerProcess) -> None:
    async def main() -> None:
        for client in (cohere.AsyncClient, cohere.AsyncClientV2):
            async with client("none", base_url=server.url) as connected:
                check((await connected.rerank(query=QUERY, documents=TEXTS, model=MODEL)).results)

    asyncio.run(main())


def test_cohere_raises_its_own_errors_with_our_message(server: ServerProcess) -> None:
    for version in (cohere.Client, cohere.ClientV2):
        with version("none", base_url=server.url) as client:
            with pytest.raises(cohere.NotFoundError) as missing:
                client.rerank(query=QUERY, documents=TEXTS, model="rerank-v3.5")
            assert "There is no such model" in missing.value.body["message"]
            with pytest.raises(cohere.UnprocessableEntityError) as bad:
                client.rerank(query="", documents=TEXTS, model=MODEL)
            assert bad.value.body["message"] == "query: is an empty string; send some text"


@pytest.mark.parametrize("version", [cohere.Client, cohere.ClientV2])
def test_the_key_of_cohere_is_the_key_of_the_server(locked: ServerProcess, version: Any) -> None:
    with version("wrong", base_url=locked.url) as client, pytest.raises(cohere.UnauthorizedError):
        client.rerank(query=QUERY, documents=TEXTS, model=MODEL)
    with version(KEY, base_url=locked.url) as client:
        check(client.rerank(query=QUERY, documents=TEXTS, model=MODEL).results)


def test_llamaindex_orders_nodes_as_the_reference(server: ServerProcess) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    ranker = JinaRerank(top_n=3, model=MODEL, base_url=f"{server.url}/v1", api_key="none")
    ranked = ranker.postprocess_nodes(nodes, QueryBundle(QUERY))
    assert [node.text for node in ranked] == [TEXTS[index] for index in BEST[:3]]
    np.testing.assert_allclose([node.score for node in ranked], EXPECTED[BEST[:3]], atol=CLOSE)


def test_llamaindex_raises_our_message(server: ServerProcess) -> None:
    ranker = JinaRerank(model="nobody", base_url=f"{server.url}/v1", api_key="none")
    with pytest.raises(RuntimeError, match="There is no such model"):
        ranker.postprocess_nodes([NodeWithScore(node=TextNode(text="a"))], QueryBundle(QUERY))


def test_the_code_of_the_page_runs(server: ServerProcess) -> None:
    variables: dict[str, Any] = {}
    exec(code_of_page("import cohere", server), variables)
    assert variables["best"] in (0, 1)
