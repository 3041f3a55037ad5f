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
from huggingface_hub.errors import HfHubHTTPError
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from tests.clients.conftest import KEY, answers
from tests.support import ServerProcess

# What LiteLLM's own types make pydantic say.
pytestmark = pytest.mark.filterwarnings("ignore:Item:UserWarning")

CASES = [case for case in answers("bert-embed")["cases"] if case["answers"][0]["parameters"] == {}]
TEXTS = [case["input"] for case in CASES]
# The checkpoint normalizes by default.
EXPECTED = [case["answers"][0]["prediction"] for case in CASES]
RAW = [case["embedding"] for case in CASES]
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
