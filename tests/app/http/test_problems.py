"""An error says what was probably meant, in names of this server only."""

import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel, ValidationError

from app.http.dialects.kserve import PredictRequest
from app.http.dialects.openai import EmbeddingsRequest
from app.http.dialects.rerank import DocumentsRequest
from app.http.parsing import parse
from app.http.problems import explain
from app.tasks.answer import AnswerRequest
from app.tasks.classify import ClassifyRequest
from app.tasks.fill_mask import FillMaskRequest

SECRET = "Zwetschgenknoedel"
GOOD = json.dumps({"inputs": SECRET})


def told(body: object, form: type[BaseModel] = ClassifyRequest) -> str:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ValidationError) as refused:
        parse(form, raw)
    message = explain(refused.value, raw, form).message
    assert SECRET not in message
    return message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"text": SECRET}, "text: is not a parameter of this endpoint; did you mean inputs?"),
        ({"texts": [SECRET], "user": SECRET}, "texts: is not a parameter of this endpoint; did you mean inputs?"),
        ({"Inputs": SECRET}, "did you mean inputs?"),
        ({SECRET + " is late": 1}, "(a key): is not a parameter of this endpoint; did you mean inputs?"),
        ({"inputs": SECRET, "top_k": 1}, 'did you mean {"parameters": {"top_k": ...}}?'),
        ({"inputs": SECRET, "topk": 1}, 'did you mean {"parameters": {"top_k": ...}}?'),
        ({"inputs": SECRET, "parameters": {"topK": 1}}, "parameters.topK: is not a parameter of this endpoint; did you mean top_k?"),
        ({"inputs": SECRET, "parameters": {"model": SECRET}}, "did you mean model beside parameters?"),
        ({"inputs": SECRET, "modle": SECRET}, "modle: is not a parameter of this endpoint; did you mean model?"),
        ({"inputs": {"txt": SECRET}}, "inputs.txt: is not a parameter of this endpoint; did you mean text?"),
        ({"text": SECRET, "text_pair": SECRET}, 'did you mean {"inputs": {"text": ..., "text_pair": ...}}?'),
        ({"inputs": SECRET, "temperature": 1}, "temperature: is not a parameter of this endpoint; remove it"),
        ({"inputs": {"text": SECRET, "textPair": SECRET}}, "inputs.textPair: is not a parameter of this endpoint; did you mean text_pair?"),
        ({"inputs": [{"text": SECRET, "question": SECRET}]}, "inputs[0].question: is not a parameter of this endpoint; remove it"),
        ([SECRET], 'body: input should be an object, as in {"inputs": ...}'),
        (SECRET, 'as in {"inputs": ...}'),
        (GOOD, "is a text that holds JSON; encode it once"),
    ],
)  # fmt: skip
def test_a_native_request_is_told_what_it_probably_meant(body: object, says: str) -> None:
    assert says in told(body)


def test_two_unknown_keys_of_no_known_kind_are_no_guess() -> None:
    assert "did you mean" not in told({"aaa": SECRET, "bbb": SECRET})


@pytest.mark.parametrize(
    ("form", "body", "says"),
    [
        (AnswerRequest, {"question": SECRET, "context": SECRET}, '{"inputs": {"question": ..., "context": ...}}?'),
        (FillMaskRequest, {"inputs": "[MASK]", "target": [SECRET]}, '{"parameters": {"targets": ...}}?'),
        (EmbeddingsRequest, {"inputs": [SECRET], "user": SECRET}, "input: is missing; rename inputs to that"),
        (EmbeddingsRequest, [SECRET], 'as in {"input": ...}'),
        (DocumentsRequest, {"query": SECRET, "docs": [SECRET]}, "documents: is missing; rename docs to that"),
        (PredictRequest, {"inputs": [SECRET]}, "instances: is missing; rename inputs to that"),
    ],
)
def test_each_api_is_told_so_in_its_own_names(form: type[BaseModel], body: Any, says: str) -> None:
    assert says in told(body, form)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "It is empty"),
        (f"inputs={SECRET}&top_k=1".encode(), "It is a form"),
        (f"--x\r\nContent-Disposition: form-data; name=inputs\r\n\r\n{SECRET}".encode(), "It is a multipart form"),
        (GOOD.encode("utf-8-sig"), "byte order mark"),
        (GOOD.replace('"', "").encode(), "double quotes around keys"),
        (f"{{“inputs”: “{SECRET}”}}".encode(), "straight double quotes"),
        (quote(GOOD).encode(), "percent-encoded"),
        (f"<inputs>{SECRET}</inputs>".encode(), "XML or HTML"),
        (GOOD.encode("utf-16"), "UTF-16"),
        (gzip.compress(GOOD.encode(), mtime=0), "compressed by gzip: send Content-Encoding: gzip"),
        (str({"inputs": SECRET}).encode(), "json.dumps"),
        (f"'{GOOD}'".encode(), "single quote"),
        (b"@file.json", "curl reads a file"),
    ],
)
def test_a_body_that_is_no_json_is_told_what_it_is(body: bytes, says: str) -> None:
    message = told(body)
    assert message.startswith("The body is not valid JSON: ")
    assert says in message
    assert message.endswith("Send JSON in UTF-8.")


def test_keys_and_bodies_of_any_size_are_explained_in_little_time() -> None:
    told({"a" * 1_000_000: 1, "inputs": 5})
    told({f"top{i}": 1 for i in range(4000)})
    told(json.dumps({"user": SECRET * 100_000}).encode(), EmbeddingsRequest)
