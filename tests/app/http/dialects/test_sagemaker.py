"""The container as Amazon SageMaker asks it."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import NotReady
from app.http.api import Limits, Received, Served
from app.http.dialects.sagemaker import SageMakerApi
from app.http.readiness import Readiness
from app.tasks.catalog import Catalog
from tests.conftest import ModelsOf
from tests.support import ServerProcess, serving

TEXT = "Good"


@pytest.fixture(scope="module")
def server(models_of: ModelsOf) -> Iterator[ServerProcess]:
    names = ("bert-single-label", "bert-entities")
    with serving(models_of({name: name for name in names}), "--threads", "1") as server:
        yield server


def ask(server: ServerProcess, body: Any, attributes: str = "") -> Any:
    reply = server.post("/invocations", body, X_Amzn_SageMaker_Custom_Attributes=attributes)
    return reply.json if reply.status == 200 else reply.json["error_type"]


def test_an_invocation_is_answered_as_a_pipeline_answers(server: ServerProcess) -> None:
    native = server.post("/v1/classify", {"inputs": TEXT}).json["predictions"]
    body = {"inputs": TEXT, "model": "bert-single-label"}
    assert ask(server, body) == [native[0][0]]
    assert ask(server, {**body, "parameters": {"top_k": 2}}) == native[0][:2]


@pytest.mark.parametrize(
    "attributes", ["model=bert-entities", "trace=1,model=bert-entities", "a=b; model=bert-entities"]
)
def test_a_custom_attribute_names_the_model(server: ServerProcess, attributes: str) -> None:
    parameters = {"aggregation_strategy": "none"}
    native = server.post("/v1/entities", {"inputs": TEXT, "parameters": parameters}).json["predictions"]
    assert ask(server, {"inputs": TEXT}, attributes) == native[0]


@pytest.mark.parametrize("attributes", ["", "submodel=bert-entities"])
def test_without_a_name_the_error_tells_the_models(server: ServerProcess, attributes: str) -> None:
    assert ask(server, {"inputs": TEXT}, attributes) == "validation"


def test_a_ping_says_that_the_server_is_ready(server: ServerProcess) -> None:
    reply = server.ask("GET", "/ping")
    assert (reply.status, reply.body) == (200, b"")


def test_a_ping_fails_while_the_server_is_not_ready() -> None:
    api = SageMakerApi(Served(Catalog([]), lambda _: None, Readiness(), Limits(1, 1, 1.0, None)))
    with pytest.raises(NotReady):
        api.ping(Received({}, b"", {}))
