"""Requests from bytes: everything that is not a request is refused, by place and kind, and without a word of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from app.errors import InvalidJson, ServiceError, ValidationFailed
from app.http.problems import explain
from app.settings import Settings
from app.tasks.answer import AnswerRequest
from app.tasks.classify import ClassifyRequest
from app.tasks.embed import EmbedRequest
from app.tasks.entities import EntitiesRequest
from app.tasks.fill_mask import FillMaskRequest
from app.tasks.inputs import MAX_INPUTS, MAX_TOP_K
from app.tasks.next_sentence import NextSentenceRequest
from app.tasks.similarity import SimilarityRequest

ONE_TEXT: list[type[BaseModel]] = [ClassifyRequest, FillMaskRequest, EntitiesRequest, EmbedRequest]
REQUESTS = [*ONE_TEXT, NextSentenceRequest, AnswerRequest, SimilarityRequest]


def refusal(body: bytes, model: type[BaseModel] = ClassifyRequest) -> ServiceError:
    with pytest.raises(ValidationError) as refused:
        model.model_validate_json(body)
    return explain(refused.value)


def classify(**keys: Any) -> ClassifyRequest:
    return ClassifyRequest.model_validate_json(json.dumps(keys))


def test_a_text_is_an_input() -> None:
    request = classify(inputs="a")
    assert request.listed == ["a"]
    assert request.model is None
    assert request.parameters.model_dump() == {
        "top_k": None,
        "function_to_apply": None,
        "truncation": True,
        "truncation_direction": None,
    }


def test_texts_and_pairs_may_be_mixed() -> None:
    pairs = [
        {"text": "a"},
        {"text": "b", "text_pair": ""},
        {"text": "c", "text_pair": None},
        {"text": "d", "text_pair": "e"},
    ]
    assert classify(inputs=pairs[3]).listed == [("d", "e")]
    assert classify(inputs=["x", *pairs]).listed == ["x", "a", "b", "c", ("d", "e")]


def test_masked_texts_are_texts() -> None:
    request = FillMaskRequest.model_validate_json('{"inputs": ["a", "b"]}')
    assert request.listed == ["a", "b"]
    assert request.parameters.model_dump() == {"top_k": 5, "targets": None}
    assert FillMaskRequest.model_validate_json('{"inputs": "a"}').listed == ["a"]


@pytest.mark.parametrize("text", [" ", "\n", "\U0001f600", "\x7f", "a" * 10**6, "\\", '"', "\u202e", "\ufeff"])
def test_any_nonempty_text_is_valid(text: str) -> None:
    assert classify(inputs=text).listed == [text]


def test_the_schema_limits_the_inputs() -> None:
    assert len(classify(inputs=["a"] * MAX_INPUTS).listed) == MAX_INPUTS
    for request in ONE_TEXT:
        error = refusal(json.dumps({"inputs": ["a"] * (MAX_INPUTS + 1)}).encode(), request)
        assert error.message == f"inputs: list should have at most {MAX_INPUTS} items"


@pytest.mark.parametrize(
    ("model", "first", "second"), [(NextSentenceRequest, "text", "text_pair"), (AnswerRequest, "question", "context")]
)
def test_a_pair_needs_both_texts(model: Any, first: str, second: str) -> None:
    def told(inputs: Any) -> str:
        return refusal(json.dumps({"inputs": inputs}).encode(), model).message

    pair = {first: "a", second: "b"}
    assert model.model_validate_json(json.dumps({"inputs": pair})).listed == [("a", "b")]
    assert model.model_validate_json(json.dumps({"inputs": [pair, pair]})).listed == [("a", "b")] * 2
    shape = f'{{"{first}": ..., "{second}": ...}}'
    assert told("a") == f"inputs: should be {shape} or a list of these"
    assert told({first: "a"}) == f"inputs.{second}: is missing"
    assert told([pair, {first: "", second: "b"}]) == f"inputs[1].{first}: is an empty string; send some text"
    assert told([pair, {first: "a", second: ""}]) == f"inputs[1].{second}: is an empty string; send some text"
    assert told({first: "a", second: "\0"}) == f"inputs.{second}: contains a NUL character; remove it"
    assert told([pair] * (MAX_INPUTS + 1)) == f"inputs: list should have at most {MAX_INPUTS} items"


@pytest.mark.parametrize(
    ("model", "inputs", "parameters"),
    [
        (EntitiesRequest, "a", {"aggregation_strategy": "best"}),
        (EntitiesRequest, "a", {"stride": -1}),
        (EntitiesRequest, "a", {"ignore_labels": "O"}),
        (AnswerRequest, {"question": "a", "context": "b"}, {"top_k": 0}),
        (AnswerRequest, {"question": "a", "context": "b"}, {"top_k": MAX_TOP_K + 1}),
        (AnswerRequest, {"question": "a", "context": "b"}, {"max_answer_length": 0}),
        (AnswerRequest, {"question": "a", "context": "b"}, {"max_question_length": 0}),
        (AnswerRequest, {"question": "a", "context": "b"}, {"stride": 1.5}),
        (EmbedRequest, "a", {"encoding_format": "hex"}),
        (EmbedRequest, "a", {"normalize": 1}),
        (EmbedRequest, "a", {"dimensions": 0}),
        (EmbedRequest, "a", {"dimensions": 8.0}),
        (EmbedRequest, "a", {"input_type": "passage"}),
        (EmbedRequest, "a", {"prompt_name": 1}),
        (SimilarityRequest, {"source_sentence": "a", "sentences": ["b"]}, {"input_type": "passage"}),
    ],
)
def test_invalid_parameters_are_refused(model: type[BaseModel], inputs: Any, parameters: dict[str, Any]) -> None:
    [name] = parameters
    told = refusal(json.dumps({"inputs": inputs, "parameters": parameters}).encode(), model).message
    assert told.startswith(f"parameters.{name}: ")
    assert ";" not in told


def test_the_setting_cannot_allow_more_than_the_schema() -> None:
    with pytest.raises(ValidationError, match=f"less than or equal to {MAX_INPUTS}"):
        Settings(max_inputs=MAX_INPUTS + 1)
    assert Settings(max_inputs=MAX_INPUTS).max_inputs == MAX_INPUTS


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs": ""}', "inputs: is an empty string; send some text"),
        (b'{"inputs": []}', "inputs: list should have at least 1 item"),
        (b'{"inputs": ["a", "\\u0000"]}', "inputs[1]: contains a NUL character; remove it"),
        (b'{"inputs": {"text": "a", "pair": "b"}}', "inputs.pair: is not a parameter of this endpoint; remove it"),
        (
            b'{"inputs": "a", "parameters": {"top_k": 0}}',
            "parameters.top_k: input should be greater than or equal to 1",
        ),
        (b"{}", "inputs: is missing"),
        (b"5", "body: input should be an object"),
        (b'{"inputs": 1, "model": 2, "x": 3}', None),
        (b'{"inputs": [1, 2, 3, 4, 5, 6, 7, 8]}', None),
    ],
)
def test_an_error_names_the_place_and_the_kind(body: bytes, message: str | None) -> None:
    error = refusal(body)
    assert isinstance(error, ValidationFailed)
    if message is None:
        assert error.message.count(";") >= 2
    else:
        assert error.message == message


def test_many_problems_are_counted() -> None:
    body = json.dumps({"inputs": [None] * 100}).encode()
    assert refusal(body).message.endswith("; and 95 more")
    keys = json.dumps({"inputs": "a", **{f"k{i}": 0 for i in range(10_000)}}).encode()
    assert refusal(keys).message.startswith("The body has 10000 problems; /docs")


def test_a_key_is_repeated_only_if_it_looks_like_a_name() -> None:
    keys = {"temperature": True, "I wrote this": False, "": False, "k" * 33: False, "<b>": False, "\n": False}
    for key, is_repeated in keys.items():
        message = refusal(json.dumps({"inputs": "a", key: 1}).encode()).message
        assert message.startswith(key if is_repeated else "(a key)")


def test_invalid_json_is_located() -> None:
    error = refusal(b'{"inputs": "a"')
    assert isinstance(error, InvalidJson)
    assert "EOF while parsing an object at line 1 column 14" in error.message
    assert "Send JSON in UTF-8" in error.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just("Zwetschgenknoedel"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "text",
                    "text_pair",
                    "question",
                    "context",
                    "source_sentence",
                    "sentences",
                    "Zwetschgenknoedel is late",
                    "top_k",
                    "stride",
                    "targets",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "inputs": json_values,
        "parameters": json_values,
        "model": json_values,
        "Zwetschgenknoedel!": json_values,
    },
)


@pytest.mark.parametrize("model", REQUESTS)
@given(body=bodies)
def test_no_error_repeats_the_body(model: type[BaseModel], body: dict[str, Any]) -> None:
    encoded = json.dumps(body).encode()
    try:
        request = model.model_validate_json(encoded)
    except ValidationError as error:
        told = explain(error)
        assert told.status in (400, 422)
        assert "Zwetschgenknoedel" not in told.message
        assert 0 < len(told.message) < 1000
    else:
        assert all(request.listed)  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", REQUESTS)
@given(body=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_valid_or_refused(model: type[BaseModel], body: bytes) -> None:
    try:
        model.model_validate_json(body)
    except ValidationError as error:
        told = explain(error)
    else:
        return  # as good as any
    assert told.status in (400, 422)


def test_limits_are_in_the_schema() -> None:
    top_k = FillMaskRequest.model_json_schema()["$defs"]["FillMaskParameters"]["properties"]["top_k"]
    assert (top_k["minimum"], top_k["maximum"], top_k["default"]) == (1, MAX_TOP_K, 5)
