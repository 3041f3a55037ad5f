"""KServe's protocol, version 1: instances are the inputs of the native API, and so are their predictions."""

from typing import Any

import pytest

from tests.support import ServerProcess

TEXT = "The quick brown fox"


def predict(server: ServerProcess, model: str, body: Any) -> Any:
    return server.post(f"/v1/models/{model}:predict", body)


@pytest.mark.parametrize(
    ("task", "model", "instances", "parameters"),
    [
        ("classify", "sentiment", [TEXT, {"text": TEXT, "text_pair": "It rains."}], {}),
        ("classify", "toxicity", [TEXT], {"top_k": 2, "function_to_apply": "none"}),
        ("fill-mask", "masked", ["It [MASK].", "[MASK] [MASK]"], {"top_k": 1}),
    ],
)
def test_predictions_are_those_of_the_native_api(
    shared_server: ServerProcess, task: str, model: str, instances: Any, parameters: Any
) -> None:
    native = {"model": model, "inputs": instances, "parameters": parameters}
    reply = predict(shared_server, model, {"instances": instances, "parameters": parameters, "signature_name": "x"})
    assert reply.json == {"predictions": shared_server.post(f"/v1/{task}", native).json["predictions"]}


def test_parameters_that_are_null_are_none(shared_server: ServerProcess) -> None:
    replies = [predict(shared_server, "sentiment", {"instances": [TEXT]} | more) for more in ({}, {"parameters": None})]
    assert replies[0].json == replies[1].json
    assert "predictions" in replies[1].json


@pytest.mark.parametrize(
    ("model", "body", "status", "says"),
    [
        ("nobody", {"instances": [TEXT]}, 404, "There is no such model"),
        ("sentiment", {"inputs": [TEXT]}, 422, "instances: is missing"),
        ("sentiment", {"instances": TEXT}, 422, "instances: input should be a valid array"),
        ("sentiment", {"instances": []}, 422, "instances: list should have at least 1 item"),
        ("sentiment", {"instances": [TEXT, ""]}, 422, "inputs[1]: is an empty string"),
        ("sentiment", {"instances": [TEXT], "parameters": {"top_n": 1}}, 422, "parameters.top_n: is not a parameter"),
        ("sentiment", b"{", 400, "The body is not valid JSON"),
    ],
)
def test_a_request_that_the_model_does_not_take_is_refused(
    shared_server: ServerProcess, model: str, body: Any, status: int, says: str
) -> None:
    reply = predict(shared_server, model, body)
    assert reply.status == status
    assert says in reply.error


def test_explanations_are_those_of_the_native_route(shared_server: ServerProcess) -> None:
    parameters = {"method": "shapley", "max_runs": 100}
    native = {"model": "sentiment", "inputs": [TEXT, "good"], "parameters": parameters}
    expected = shared_server.post("/v1/explain", native).json["predictions"]
    body = {"instances": [TEXT, "good"], "parameters": parameters}
    assert shared_server.post("/v1/models/sentiment:explain", body).json == {"explanations": expected}
    assert shared_server.post("/v1/models/nobody:explain", body).status == 404


def test_a_model_says_that_it_is_ready(shared_server: ServerProcess) -> None:
    card = shared_server.ask("GET", "/v1/models/sentiment").json
    assert (card["name"], card["ready"]) == ("sentiment", True)


def test_requests_are_counted_by_dialect(shared_server: ServerProcess) -> None:
    before = shared_server.metric("bert_requests_total", api="kserve", model="masked", status="200")
    predict(shared_server, "masked", {"instances": ["[MASK]"]})
    assert shared_server.metric("bert_requests_total", api="kserve", model="masked", status="200") == before + 1
