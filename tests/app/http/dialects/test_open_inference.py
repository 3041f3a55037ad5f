"""The Open Inference Protocol: tensors in and out, as JSON and as bytes, answer what the native API answers."""

import gzip
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from app.errors import EngineLost, NotReady
from app.http.api import Limits, Received, Served, Utility
from app.http.dialects.open_inference import OpenInferenceApi
from app.http.dialects.open_inference.forms import FORMS
from app.http.readiness import Readiness
from app.tasks import TASKS
from app.tasks.catalog import Catalog
from tests.conftest import ModelsOf
from tests.support import Reply, ServerProcess, serving

MODELS = {
    "classify": "bert-single-label",
    "fill-mask": "bert-fill-mask",
    "next-sentence": "bert-next-sentence",
    "entities": "bert-entities",
    "answer": "bert-answer",
    "embed": "bert-embed",
    "rerank": "roberta-rerank",
    "nli": "bert-nli",
}
MODEL_OF = {"zero-shot": "nli", "similarity": "embed"}
"""The models of tasks that another task's model does."""
FOX, RAIN = "The quick brown fox lives in Zürich.", "It rains. 猫"
ASKED: list[tuple[str, dict[str, list[str]], Any, dict[str, Any]]] = [
    ("classify", {"text": [FOX, RAIN]}, [FOX, RAIN], {}),
    ("classify", {"text": [FOX]}, [FOX], {"top_k": 2, "function_to_apply": "none", "truncation_direction": "left"}),
    ("classify", {"text_pair": [RAIN, ""], "text": [FOX, RAIN]}, [{"text": FOX, "text_pair": RAIN}, RAIN], {}),
    ("fill-mask", {"text": ["It [MASK]."]}, ["It [MASK]."], {"top_k": 3}),
    ("next-sentence", {"text": [FOX, RAIN], "text_pair": [RAIN, FOX]},
     [{"text": FOX, "text_pair": RAIN}, {"text": RAIN, "text_pair": FOX}], {}),
    ("entities", {"text": [FOX, RAIN]}, [FOX, RAIN], {"aggregation_strategy": "max"}),
    ("answer", {"question": ["Where?"], "context": [FOX]}, [{"question": "Where?", "context": FOX}], {"top_k": 2}),
    ("embed", {"text": [FOX, RAIN]}, [FOX, RAIN], {"normalize": False}),
    ("zero-shot", {"text": [FOX, RAIN], "candidate_labels": ["weather", "animals"]}, [FOX, RAIN], {}),
    ("rerank", {"query": ["Where?"], "texts": [FOX, RAIN]}, {"query": "Where?", "texts": [FOX, RAIN]}, {"top_n": 1}),
    ("similarity", {"source_sentence": [FOX], "sentences": [RAIN, FOX]},
     {"source_sentence": FOX, "sentences": [RAIN, FOX]}, {}),
]  # fmt: skip
"""The task, the inputs, what they are to the native API, and the parameters of both."""


@pytest.fixture(scope="module")
def server(models_of: ModelsOf) -> Iterator[ServerProcess]:
    with serving(models_of(MODELS), "--threads", "1") as server:
        yield server
        assert server.stop() == 0, server.log


def tensor(name: str, texts: Sequence[str], **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)} | changes


def packed(texts: Sequence[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def with_bytes(request: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request whose inputs are bytes."""
    inputs, rest = [], b""
    for one in request["inputs"]:
        raw = packed(one["data"])
        rest += raw
        inputs.append({key: value for key, value in one.items() if key != "data"})
        inputs[-1]["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({**request, "inputs": inputs}).encode()
    return head + rest, {"inference_header_content_length": str(len(head))}


def outputs(reply: Reply) -> dict[str, Any]:
    """The outputs of an answer by name, as arrays."""
    assert reply.status == 200, reply.body
    length = int(reply.headers.get("inference-header-content-length", len(reply.body)))
    assert reply.headers["content-type"] == (
        "application/json" if length == len(reply.body) else "application/octet-stream"
    )
    rest = reply.body[length:]
    dtypes: dict[str, Any] = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?", "BYTES": object}
    found = {}
    for one in json.loads(reply.body[:length])["outputs"]:
        if "data" in one:
            values = one["data"]
        else:
            size = one["parameters"]["binary_data_size"]
            raw, rest = rest[:size], rest[size:]
            values = np.frombuffer(raw, dtypes[one["datatype"]]) if one["datatype"] != "BYTES" else texts_of(raw)
        found[one["name"]] = np.array(values, dtypes[one["datatype"]]).reshape(one["shape"])
    assert rest == b""
    return found


def texts_of(raw: bytes) -> list[str]:
    texts = []
    while raw:
        [length] = struct.unpack("<I", raw[:4])
        texts.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return texts


def infer(server: ServerProcess, model: str, body: Any, **headers: str) -> Reply:
    return server.post(f"/v2/models/{model}/infer", body, **headers)


def refusal(server: ServerProcess, model: str, body: Any, status: int = 422, **headers: str) -> str:
    reply = infer(server, model, body, **headers)
    assert reply.status == status, reply.body
    return reply.error


@pytest.mark.parametrize("binary", [False, True], ids=["json", "bytes"])
@pytest.mark.parametrize(("task", "inputs", "native", "parameters"), ASKED)
def test_outputs_are_what_the_native_api_answers(
    server: ServerProcess, task: str, inputs: dict[str, list[str]], native: Any, parameters: Any, binary: bool
) -> None:
    model = MODEL_OF.get(task, task)
    lists = {name: inputs[name] for name in FORMS[task].parameters if name in inputs}
    asked = {"model": model, "inputs": native, "parameters": parameters | lists}
    expected = server.post(f"/v1/{task}", asked).json["predictions"]
    body: Any = {
        "inputs": [tensor(name, texts) for name, texts in inputs.items()],
        "parameters": {**parameters, "binary_data_output": binary},
    }
    content, headers = with_bytes(body) if binary else (body, {})
    found = outputs(infer(server, model, content, **headers))
    assert set(found) == set(FORMS[task].outputs)
    if task == "embed":
        assert found["embedding"].tolist() == np.array(expected, np.float32).tolist()
        return
    assert [json.loads(text) for text in found["prediction"]] == expected
    for key in set(found) & {"index", "score", "label"}:
        shown = np.array([[one[key] for one in row] if isinstance(row, list) else row[key] for row in expected])
        assert found[key].tolist() == shown.astype(found[key].dtype).tolist()
    if task == "similarity":
        assert found["similarity"].tolist() == np.array(expected, "f4").tolist()
    if task == "next-sentence":
        assert found["is_next"].tolist() == [one["is_next"] for one in expected]


def test_every_task_has_tensors_but_explanations() -> None:
    """The names of tensors say which task a model is asked for, and those of an explanation would be another's."""
    assert set(TASKS) - set(FORMS) == {"explain"}
    for task, form in FORMS.items():
        if task in TASKS:
            parameters: Any = TASKS[task].request.model_fields["parameters"].annotation
            assert {*form.parameters, *form.fixed} <= set(parameters.model_fields)


def test_lists_of_texts_are_inputs(server: ServerProcess) -> None:
    reply = infer(server, "fill-mask", {"inputs": [tensor("text", ["It [MASK]."]), tensor("targets", ["the", "a"])]})
    [document] = outputs(reply)["prediction"]
    assert {one["token_str"] for one in json.loads(document)[0]} == {"the", "a"}
    reply = infer(server, "entities", {"inputs": [tensor("ignore_labels", ["LOC", "PER"]), tensor("text", [FOX])]})
    [document] = outputs(reply)["prediction"]
    assert not {one["entity_group"] for one in json.loads(document)} & {"LOC", "PER"}


def test_an_answer_has_the_outputs_that_are_asked_for_as_they_are_asked_for(server: ServerProcess) -> None:
    body: Any = {
        "id": "a-1",
        "model_name": "some other server's",
        "inputs": [tensor("text", [FOX, RAIN], data=[[FOX], [RAIN]], shape=[2, 1])],
        "outputs": [{"name": "score"}, {"name": "label", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True, "priority": 1, "timeout": 5, "sequence_id": 3, "triton_x": True},
    }
    reply = server.post("/v2/models/classify/versions/1/infer", body)
    length = int(reply.headers["inference-header-content-length"])
    head = json.loads(reply.body[:length])
    assert (head["id"], head["model_name"], head["model_version"]) == ("a-1", "classify", "1")
    assert [sorted(one) for one in head["outputs"]] == [
        ["datatype", "name", "parameters", "shape"],
        ["data", "datatype", "name", "shape"],
    ]
    assert list(outputs(reply)) == ["score", "label"]
    assert "id" not in infer(server, "classify", {"inputs": [tensor("text", [FOX])]}).json


def test_null_is_what_is_not_there(server: ServerProcess) -> None:
    text, asked = tensor("text", [FOX]), {"name": "label"}
    plain = infer(server, "classify", {"inputs": [text], "outputs": [asked]}).json
    nulls = {"parameters": None}
    body = {"id": None, "inputs": [text | nulls], "outputs": [asked | nulls]} | nulls
    assert infer(server, "classify", body).json == plain
    assert infer(server, "classify", {"inputs": [text], "outputs": None}).json["outputs"][0] == plain["outputs"][0]


@pytest.mark.parametrize(
    ("model", "body", "says"),
    [
        ("classify", {"inputs": []}, r"^inputs: this model takes text and text_pair \(optional\)"),
        ("answer", {"inputs": [tensor("question", ["a"])]}, "takes question and context"),
        ("classify", {"inputs": [tensor("text", ["a"]), tensor("secret", ["a"])]}, "takes text and text_pair"),
        ("classify", {"inputs": [tensor("text", ["a"])] * 2}, r"^inputs\[1\].name: another input has this name"),
        ("classify", {"inputs": [tensor("text", ["a", "b"]), tensor("text_pair", ["a"])]}, "same number of texts"),
        ("classify", {"inputs": [tensor("text", ["a"], datatype="FP32")]}, r"^inputs\[0\].datatype: should be BYTES"),
        ("classify", {"inputs": [tensor("text", ["a"], shape=[])]}, r"^inputs\[0\].shape: should be \[n\]"),
        ("classify", {"inputs": [tensor("text", ["a", "b"], shape=[1, 2])]}, r"^inputs\[0\].shape: should be \[n\]"),
        ("classify", {"inputs": [tensor("text", ["a"], shape=[-1])]}, r"^inputs\[0\].shape: should be \[n\]"),
        ("classify", {"inputs": [tensor("text", ["a"], shape=[4097])]}, r"^inputs\[0\].shape: at most 4096"),
        ("classify", {"inputs": [tensor("text", ["a"], shape=[2])]}, "has 1 elements, but the shape says 2"),
        ("classify", {"inputs": [tensor("text", ["a"], data=[1])]}, r"^inputs\[0\].data\[0\]: should be a text"),
        ("classify", {"inputs": [tensor("text", ["a"], data=None)]}, r"^inputs\[0\].data: is missing"),
        ("classify", {"inputs": [tensor("text", ["a"], parameters={"binary_data_size": 5})]}, "as JSON and as bytes"),
        ("classify", {"inputs": [tensor("text", ["a"], parameters={"shared_memory_region": "r"})]}, "no shared memory"),
        ("classify", {"inputs": [tensor("text", [])]}, "inputs: list should have at least 1 item"),
        ("classify", {"inputs": [tensor("text", ["a", ""])]}, r"inputs\[1\].text: is an empty string"),
        ("classify", {"inputs": [tensor("text", ["a"])], "parameters": {"top_n": 1}}, "parameters.top_n: is not"),
        ("classify", {"inputs": [tensor("text", ["a"])], "parameters": {"top_k": "1"}}, "parameters.top_k: "),
        ("classify", {"inputs": [tensor("text", ["a"])], "parameters": {"binary_data_output": 1}}, "true or false"),
        ("embed", {"inputs": [tensor("text", ["a"])], "parameters": {"encoding_format": "float"}}, "encoding_format: "),
        ("classify", {"inputs": [tensor("text", ["a"])], "outputs": [{"name": "logits"}]},
         r"^outputs\[0\].name: the outputs of this model are label, score, prediction"),
        ("classify", {"inputs": [tensor("text", ["a"])], "outputs": [{"name": "label"}] * 2}, r"^outputs\[1\].name: "),
        ("classify", {"inputs": [tensor("text", ["a"])],
                      "outputs": [{"name": "label", "parameters": {"classification": 2}}]}, "classification: "),
        ("classify", {"inputs": [tensor("text", ["a"])],
                      "outputs": [{"name": "label", "parameters": {"shared_memory_region": "r"}}]}, "no shared memory"),
        ("classify", {"outputs": []}, "^inputs: is missing"),
    ],
)  # fmt: skip
def test_a_request_that_the_model_does_not_take_is_refused_by_name(
    server: ServerProcess, model: str, body: Any, says: str
) -> None:
    message = refusal(server, model, body)
    assert re.search(says, message), message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("raw", "size", "says"),
    [
        (packed(["ab"])[:-1], None, "are not the 1 texts"),
        (packed(["ab"]) + b"c", None, "are not the 1 texts"),
        (b"\2\0", None, "are not the 1 texts"),
        (b"\1\0\0\0\xff", None, "its element 0 is not UTF-8"),
        (packed(["ab"]), 99, "has 6 bytes after its JSON, but the inputs' binary_data_size are 99"),
        (packed(["ab"]) + b"cd", 6, "has 8 bytes after its JSON, but the inputs' binary_data_size are 6"),
    ],
)
def test_damaged_bytes_are_refused(server: ServerProcess, raw: bytes, size: int | None, says: str) -> None:
    one = tensor("text", ["ab"], data=None, parameters={"binary_data_size": len(raw) if size is None else size})
    head = json.dumps({"inputs": [one]}).encode()
    length = str(len(head))
    assert says in refusal(server, "classify", head + raw, inference_header_content_length=length)


@pytest.mark.parametrize("length", ["", "-1", "1e2", "9" * 5000, "1000"])
def test_a_length_of_the_json_that_cannot_be_is_refused(server: ServerProcess, length: str) -> None:
    body = {"inputs": [tensor("text", ["a"])]}
    message = refusal(server, "classify", body, 400, inference_header_content_length=length)
    assert "Inference-Header-Content-Length should be" in message


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_request_is_read(server: ServerProcess, encoding: str, compress: Any) -> None:
    body, headers = with_bytes({"inputs": [tensor("text", [FOX] * 64)]})
    plain = outputs(infer(server, "embed", body, **headers))["embedding"]
    reply = infer(server, "embed", compress(body), content_encoding=encoding, **headers)
    assert outputs(reply)["embedding"].tolist() == plain.tolist()


def test_no_such_model_or_version(server: ServerProcess) -> None:
    body = {"inputs": [tensor("text", ["a"])]}
    assert "There is no such model" in refusal(server, "nobody", body, 404)
    for path, method in [("/infer", "POST"), ("", "GET"), ("/ready", "GET"), ("/config", "GET")]:
        reply = server.ask(method, f"/v2/models/embed/versions/2{path}", body)
        assert (reply.status, "no such version" in reply.error) == (404, True)
    assert server.ask("GET", "/v2/models/embed/stats").status == 404


def test_metadata_has_the_tensors_of_a_model(server: ServerProcess) -> None:
    assert server.ask("GET", "/v2").json["extensions"] == ["binary_tensor_data", "model_configuration", "parameters"]
    shown = server.ask("GET", "/v2/models/classify").json
    assert shown == server.ask("GET", "/v2/models/classify/versions/1").json
    assert (shown["name"], shown["versions"]) == ("classify", ["1"])
    assert shown["inputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [-1], "optional": False},
        {"name": "text_pair", "datatype": "BYTES", "shape": [-1], "optional": True},
    ]
    assert shown["outputs"][1] == {"name": "score", "datatype": "FP32", "shape": [-1, -1]}
    config = server.ask("GET", "/v2/models/classify/config").json
    assert config["max_batch_size"] == 0
    assert config["input"][1] == {"name": "text_pair", "data_type": "TYPE_STRING", "dims": [-1], "optional": True}
    assert config["output"][1] == {"name": "score", "data_type": "TYPE_FP32", "dims": [-1, -1]}


def test_a_ready_server_says_so(server: ServerProcess) -> None:
    assert server.ask("GET", "/v2/health/live").json == {"live": True}
    assert server.ask("GET", "/v2/health/ready").json == {"ready": True}
    assert server.ask("GET", "/v2/models/embed/ready").json == {"name": "embed", "ready": True}
    listed = server.ask("POST", "/v2/repository/index", b"").json
    assert {(one["name"], one["state"]) for one in listed} == {(name, "READY") for name in MODELS}


def test_requests_are_counted_by_dialect(server: ServerProcess) -> None:
    before = server.metric("bert_requests_total", api="open-inference", model="embed", status="200")
    infer(server, "embed", {"inputs": [tensor("text", ["a"])]})
    assert server.metric("bert_requests_total", api="open-inference", model="embed", status="200") == before + 1


def api(readiness: Readiness) -> OpenInferenceApi:
    return OpenInferenceApi(Served(Catalog([]), lambda _: None, readiness, Limits(1, 1, 1.0, None)))


def test_health_needs_no_key_and_follows_readiness() -> None:
    readiness = Readiness()
    routes = {route.path: route for route in api(readiness).routes if isinstance(route, Utility)}
    assert {path for path, route in routes.items() if route.is_open} == {"/v2/health/live", "/v2/health/ready"}
    received = Received({}, b'{"ready": true}', {})
    with pytest.raises(NotReady):
        routes["/v2/health/ready"].answer(received)
    readiness.engine = "lost"
    with pytest.raises(EngineLost):
        routes["/v2/health/ready"].answer(received)
    assert routes["/v2/repository/index"].answer(received) == []
