"""LangChain's embeddings of an endpoint."""

import asyncio
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError
from langchain_huggingface import HuggingFaceEndpointEmbeddings

from tests.clients.conftest import KEY, answers, code_of_page
from tests.support import ServerProcess

CASES = [
    case
    for case in answers("bert-embed")["cases"]
    if case["answers"][0]["parameters"] == {} and "\n" not in case["input"]  # which LangChain replaces
]
TEXTS = [case["input"] for case in CASES]
EXPECTED = [case["answers"][0]["prediction"] for case in CASES]
# Stored with 7 digits; another CPU rounds the last ones otherwise.
CLOSE = 1e-5


def embeddings_of(url: str, token: str | None = None, **more: Any) -> HuggingFaceEndpointEmbeddings:
    """Return embeddings of a URL. It is refused as `model` itself, and asked as a keyword of each call."""
    return HuggingFaceEndpointEmbeddings(model_kwargs={"model": url, **more}, huggingfacehub_api_token=token)


@pytest.mark.parametrize("path", ["/embed", "/models/bert-embed/embed"])
def test_embeddings_are_those_of_the_reference(server: ServerProcess, path: str) -> None:
    embeddings = embeddings_of(server.url + path)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), EXPECTED, atol=CLOSE)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), EXPECTED[0], atol=CLOSE)


def test_the_asynchronous_methods_get_them_too(server: ServerProcess) -> None:
    async def main() -> Any:
        embeddings = embeddings_of(f"{server.url}/embed")
        async with embeddings.async_client:
            return [await embeddings.aembed_query(TEXTS[0]), *await embeddings.aembed_documents(TEXTS)]

    np.testing.assert_allclose(asyncio.run(main()), [EXPECTED[0], *EXPECTED], atol=CLOSE)


def test_parameters_are_honoured(server: ServerProcess) -> None:
    raw = embeddings_of(f"{server.url}/embed", normalize=False).embed_documents(TEXTS)
    np.testing.assert_allclose(raw, [case["embedding"] for case in CASES], atol=CLOSE)


def test_the_token_is_the_key(locked: ServerProcess) -> None:
    url = f"{locked.url}/embed"
    assert len(embeddings_of(url, KEY).embed_query("Good")) == len(EXPECTED[0])
    with pytest.raises(HfHubHTTPError, match="401"):
        embeddings_of(url, "wrong").embed_query("Good")


def test_the_code_of_the_page_runs(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    exec(code_of_page("langchain", server), {})
    assert "[0." in capsys.readouterr().out
