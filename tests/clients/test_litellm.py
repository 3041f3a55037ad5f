"""LiteLLM, as a client of the APIs that it has providers for."""

import litellm
import numpy as np
import pytest

from tests.clients.conftest import answers
from tests.support import ServerProcess

# What LiteLLM's own types make pydantic say.
pytestmark = pytest.mark.filterwarnings("ignore:Item:UserWarning")

CASE = answers("bert-embed")["cases"][0]
# Stored with 7 digits; another CPU rounds the last ones otherwise.
CLOSE = 1e-5


def test_embeddings_are_those_of_the_reference(server: ServerProcess) -> None:
    answer = litellm.embedding(
        model="openai/bert-embed", input=[CASE["input"]], api_base=f"{server.url}/v1", api_key="none"
    )
    np.testing.assert_allclose(answer.data[0]["embedding"], CASE["answers"][0]["prediction"], atol=CLOSE)


def test_a_model_that_is_not_there_is_not_found(server: ServerProcess) -> None:
    with pytest.raises(litellm.NotFoundError, match="There is no such model"):
        litellm.embedding(model="openai/nobody", input=["a"], api_base=f"{server.url}/v1", api_key="none")
