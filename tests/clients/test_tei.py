"""What people use with text-embeddings-inference: the integrations of LlamaIndex and Haystack, and LiteLLM."""

import asyncio
from collections.abc import Callable
from typing import Any

import litellm
import numpy as np
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker, TruncationDirection
from huggingface_hub.errors import HfHubHTTPError
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.clients.conftest import KEY, answers, code_of_page
from tests.support import ServerProcess

# What LiteLLM's own types make pydantic say.
pytestmark = pytest.mark.filterwarnings("ignore:Item:UserWarning")

CASES = [case for case in answers("bert-embed")["cases"] if case["answers"][0]["parameters"] == {}]
TEXTS = [case["input"] for case in CASES]
# The checkpoint normalizes by default.
EXPECTED = [case["answers"][0]["prediction"] for case in CASES]
RAW = [case["embedding"] for case in CASES]
RANKED, RANKED_LEFT, *_ = answers("roberta-rerank")["cases"]
ASKED = RANKED["input"]


def ranking(case: Any, function: str | None = None) -> list[dict[str, Any]]:
    """Return the stored answer to a case with this function, the checkpoint's own being none."""
    for answer in case["answers"]:
        if answer["parameters"].get("function_to_apply") == function and "top_n" not in answer["parameters"]:
            return list(answer["prediction"])
    raise AssertionError


def scores(ranked: list[dict[str, Any]]) -> list[float]:
    return [one["score"] for one in ranked]


SIGMOIDS = ranking(RANKED, "sigmoid")
LOGITS = ranking(RANKED)
CUT_LEFT = ranking(RANKED_LEFT, "sigmoid")
# Stored with 7 digits; another CPU rounds the last ones otherwise.
CLOSE = 1e-5

BELOW = pytest.mark.parametrize("below", ["", "/models/bert-embed"])


def llama_index(url: str, **more: Any) -> TextEmbeddingsInference:
    return TextEmbeddingsInference(
        model_name="bert-embed", base_url=url, text_instruction="", query_instruction="", **more
    )


def haystack(kind: Callable[..., Any], url: str, token: str | None = None, **more: Any) -> Any:
    secret = None if token is None else Secret.from_token(token)
    return kind(api_type="text_embeddings_inference", api_params={"url": url}, token=secret, **more)


@BELOW
def test_llama_index_embeds_as_the_reference(server: ServerProcess, below: str) -> None:
    # It removes whitespace around a text itself.
    embed = llama_index(server.url + below)
    stripped = [i for i, text in enumerate(TEXTS) if text == text.strip()]
    texts, expected = [TEXTS[i] for i in stripped], [EXPECTED[i] for i in stripped]
    np.testing.assert_allclose(embed.get_text_embedding_batch(texts), expected, atol=CLOSE)
    np.testing.assert_allclose(embed.get_query_embedding(texts[0]), expected[0], atol=CLOSE)

    async def main() -> Any:
        return [await embed.aget_query_embedding(texts[0]), *await embed.aget_text_embedding_batch(texts)]

    np.testing.assert_allclose(asyncio.run(main()), [expected[0], *expected], atol=CLOSE)


def test_llama_index_sends_its_token_as_the_key(locked: ServerProcess) -> None:
    assert len(llama_index(locked.url, auth_token=KEY).get_text_embedding("Good")) == len(EXPECTED[0])


@BELOW
def test_haystack_embeds_as_the_reference(server: ServerProcess, below: str) -> None:
    url = f"{server.url}{below}/embed"
    embedder = haystack(HuggingFaceAPIDocumentEmbedder, url, normalize=True, batch_size=5, progress_bar=False)
    documents = [Document(content=text) for text in TEXTS]
    embedded = embedder.run(documents=documents)["documents"]
    np.testing.assert_allclose([document.embedding for document in embedded], EXPECTED, atol=CLOSE)

    async def main() -> Any:
        try:
            return await embedder.run_async(documents=documents)
        finally:
            await embedder.close_async()

    embedded = asyncio.run(main())["documents"]
    np.testing.assert_allclose([document.embedding for document in embedded], EXPECTED, atol=CLOSE)
    query = haystack(HuggingFaceAPITextEmbedder, url)  # asks for embeddings that are not normalized
    np.testing.assert_allclose(query.run(text=TEXTS[0])["embedding"], RAW[0], atol=CLOSE)


def test_haystack_sends_its_token_as_the_key(locked: ServerProcess) -> None:
    url = f"{locked.url}/embed"
    assert haystack(HuggingFaceAPITextEmbedder, url, KEY).run(text="Good")
    with pytest.raises(HfHubHTTPError, match="401"):
        haystack(HuggingFaceAPITextEmbedder, url, "wrong").run(text="Good")


def test_haystack_shows_what_was_wrong(server: ServerProcess) -> None:
    embedder = haystack(HuggingFaceAPITextEmbedder, f"{server.url}/embed", truncate=False)
    with pytest.raises(HfHubHTTPError, match="has more than 32 tokens"):
        embedder.run(text="the cat sat on the mat " * 20)


def test_litellm_embeds_as_the_reference(server: ServerProcess) -> None:
    # With `input_type` it does not ask the hub what the model is for.
    answer = litellm.embedding(
        model="huggingface/bert-embed", input=TEXTS, api_base=f"{server.url}/embed", input_type="embed"
    )
    np.testing.assert_allclose([one["embedding"] for one in answer.data], EXPECTED, atol=CLOSE)


def test_llama_index_reranks_as_the_reference(server: ServerProcess) -> None:
    for base_url in (server.url, f"{server.url}/models/roberta-rerank"):
        ranker = TextEmbeddingInference(base_url=base_url, top_n=3)
        nodes = [NodeWithScore(node=TextNode(text=text), score=0.1) for text in ASKED["texts"]]
        ranked = ranker.postprocess_nodes(nodes, query_str=ASKED["query"])
        assert [node.text for node in ranked] == [ASKED["texts"][one["index"]] for one in SIGMOIDS[:3]]
        np.testing.assert_allclose([node.score for node in ranked], scores(SIGMOIDS[:3]), atol=CLOSE)


@pytest.mark.parametrize("authorization", [KEY, f"Bearer {KEY}"])
def test_llama_index_sends_a_token_of_the_ranker_as_it_is(locked: ServerProcess, authorization: str) -> None:
    ranker = TextEmbeddingInference(base_url=locked.url, auth_token=authorization)
    [node] = ranker.postprocess_nodes([NodeWithScore(node=TextNode(text="a"))], query_str="Good")
    assert node.score is not None


@pytest.mark.parametrize(
    ("raw_scores", "direction", "expected"), [(False, None, SIGMOIDS), (True, None, LOGITS), (False, "LEFT", CUT_LEFT)]
)
def test_haystack_reranks_as_the_reference(
    server: ServerProcess, raw_scores: bool, direction: str | None, expected: list[dict[str, Any]]
) -> None:
    ranker = HuggingFaceTEIRanker(url=server.url, top_k=3, raw_scores=raw_scores, token=None)
    documents = [Document(content=text) for text in ASKED["texts"]]
    cut = None if direction is None else TruncationDirection[direction]
    asked = {"query": ASKED["query"], "documents": documents, "truncation_direction": cut}
    for answer in (ranker.run(**asked), asyncio.run(ranker.run_async(**asked))):
        ranked = answer["documents"]
        assert [one.content for one in ranked] == [ASKED["texts"][one["index"]] for one in expected[:3]]
        np.testing.assert_allclose([one.score for one in ranked], scores(expected[:3]), atol=CLOSE)


def test_haystack_shows_why_texts_are_not_ranked(locked: ServerProcess) -> None:
    documents = [Document(content="Good")]
    ranker = HuggingFaceTEIRanker(url=locked.url, token=Secret.from_token(KEY))
    with pytest.raises(RuntimeError, match="query: is an empty string"):
        ranker.run(query="", documents=documents)
    ranker = HuggingFaceTEIRanker(url=locked.url, token=Secret.from_token("wrong"))
    with pytest.raises(RuntimeError, match="The API key is missing or wrong"):
        ranker.run(query="Good", documents=documents)


def test_litellm_reranks_as_the_reference(server: ServerProcess) -> None:
    answer = litellm.rerank(
        model="huggingface/roberta-rerank",
        query=ASKED["query"],
        documents=ASKED["texts"],
        api_base=server.url,
        api_key="none",
        return_documents=True,
    )
    found = [(one["index"], one["document"]["text"]) for one in answer.results]
    assert found == [(one["index"], ASKED["texts"][one["index"]]) for one in SIGMOIDS]
    np.testing.assert_allclose([one["relevance_score"] for one in answer.results], scores(SIGMOIDS), atol=CLOSE)


@pytest.mark.parametrize("imported", ["llama_index", "haystack"])
def test_the_code_of_the_page_runs(server: ServerProcess, imported: str) -> None:
    asked: dict[str, Any] = {}
    exec(code_of_page(imported, server), asked)
    if imported == "llama_index":
        assert asked["ranker"].postprocess_nodes([NodeWithScore(node=TextNode(text="a"))], query_str="Good")
    else:
        assert asked["ranker"].run(query="Good", documents=[Document(content="a")])["documents"]
