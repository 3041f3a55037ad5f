"""Bodies of pipelines become requests of tasks, and predictions become the answers that pipelines and the hosted API give."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from app.bundle.files import load_bundle
from app.errors import NotFound, ServiceError, ValidationFailed
from app.http.api import Call, Received
from app.http.pipelines.body import Form
from app.http.pipelines.call import read_call
from app.http.problems import explain
from app.tasks.catalog import Catalog, load_model
from app.telemetry.record import RequestRecord
from tests.conftest import BundleOf

NAMES = (
    "bert-single-label",
    "bert-next-sentence",
    "bert-entities",
    "bert-fill-mask",
    "bert-answer",
    "bert-embed",
    "bert-nli",
    "roberta-rerank",
)
A, B = {"label": "A", "score": 0.75}, {"label": "B", "score": 0.25}
QUESTION = {"question": "Where?", "context": "In Paris."}
RANKED = [{"index": 1, "score": 0.75}, {"index": 0, "score": 0.25}]
RECORD = RequestRecord("id", "test", "none")

Read = Callable[..., Call]


@pytest.fixture(scope="module")
def read(bundle_of: BundleOf) -> Read:
    """Read a body, for a server of some models."""
    models = {name: load_model(load_bundle(bundle_of(name))) for name in NAMES}

    def read(body: Any, name: str | None = None, form: Form = "hosted", **more: Any) -> Call:
        catalog = Catalog([models[one] for one in more.pop("served", NAMES)], more.pop("defaults", None))
        return read_call(catalog, Received({}, json.dumps(body).encode(), {}), form, name=name, **more)

    return read


def refused(read: Callable[[], Call]) -> ServiceError:
    """Return what a caller is told."""
    try:
        call = read()
    except ValidationError as error:
        return explain(error)
    except ServiceError as error:
        return error
    raise AssertionError(call)


@pytest.mark.parametrize(
    ("inputs", "predictions", "parameters", "hosted", "pipeline"),
    [
        ("a", [[A, B]], {}, [[A, B]], [A]),
        ("a", [[A, B]], {"top_k": None}, [[A, B]], [A, B]),
        (["a"], [[A]], {}, [[A]], [A]),
        (["a", "b"], [[A], [B]], {}, [[A], [B]], [A, B]),
        (["a", "b"], [[A], [B]], {"top_k": 1}, [[A], [B]], [[A], [B]]),
        ({"text": "a", "text_pair": "b"}, [[A]], {}, [[A]], A),
        ({"text": "a"}, [[A, B]], {"top_k": 2}, [[A, B]], [A, B]),
    ],
)
def test_text_classification_gives_lists_of_labels(
    read: Read, inputs: Any, predictions: Any, parameters: Any, hosted: Any, pipeline: Any
) -> None:
    body = {"inputs": inputs, "parameters": parameters}
    assert read(body, "bert-single-label").write(predictions, RECORD) == hosted
    assert read(body, "bert-single-label", "pipeline").write(predictions, RECORD) == pipeline


@pytest.mark.parametrize(
    ("form", "inputs", "parameters", "top_k"),
    [
        ("hosted", "a", {}, 5),
        ("hosted", ["a"], {}, 1),
        ("pipeline", "a", {}, 1),
        ("hosted", "a", {"top_k": 2}, 2),
        ("pipeline", "a", {"top_k": 2}, 2),
        ("hosted", ["a"], {"top_k": None}, None),
        ("pipeline", "a", {"top_k": None}, None),
    ],
)
def test_text_classification_gives_as_many_labels_as_the_original(
    read: Read, form: Form, inputs: Any, parameters: Any, top_k: int | None
) -> None:
    call = read({"inputs": inputs, "parameters": parameters}, "bert-single-label", form)
    assert call.request.parameters.top_k == top_k


@pytest.mark.parametrize(
    "inputs",
    [["a", "b"], {"text": "a", "text_pair": "b"}, [["a", "b"]]],
    ids=["in a list", "an object", "in two lists"],
)
@pytest.mark.parametrize("name", ["bert-single-label", "bert-next-sentence"])
def test_pairs_of_texts_are_written_in_three_ways(read: Read, name: str, inputs: Any) -> None:
    assert read({"inputs": [inputs]}, name).request.listed == [("a", "b")]


def test_next_sentence_gives_its_labels(read: Read) -> None:
    pair = {"text": "a", "text_pair": "b"}
    predictions = [{"is_next": True, "score": 0.75}, {"is_next": False, "score": 0.25}]
    is_next, is_not = {"label": "IS_NEXT", "score": 0.75}, {"label": "NOT_NEXT", "score": 0.75}
    hosted = read({"inputs": [pair, pair]}, "bert-next-sentence").write(predictions, RECORD)
    assert hosted == [
        [is_next, {"label": "NOT_NEXT", "score": 0.25}],
        [is_not, {"label": "IS_NEXT", "score": 0.25}],
    ]
    assert read({"inputs": [pair, pair]}, "bert-next-sentence", "pipeline").write(predictions, RECORD) == [
        is_next,
        is_not,
    ]
    assert read({"inputs": pair}, "bert-next-sentence", "pipeline").write(predictions[:1], RECORD) == is_next


@pytest.mark.parametrize(("form", "strategy"), [("hosted", "simple"), ("pipeline", "none")])
def test_token_classification_joins_tokens_only_where_the_original_does(read: Read, form: Form, strategy: str) -> None:
    assert read({"inputs": "a"}, "bert-entities", form).request.parameters.aggregation_strategy == strategy
    asked = {"inputs": "a", "parameters": {"aggregation_strategy": "MAX", "ignore_labels": [], "stride": 2}}
    parameters = read(asked, "bert-entities", form).request.parameters
    assert (parameters.aggregation_strategy, parameters.ignore_labels, parameters.stride) == ("max", [], 2)


@pytest.mark.parametrize("name", ["bert-entities", "bert-embed"])
def test_one_text_gives_one_answer_and_a_list_gives_a_list(read: Read, name: str) -> None:
    assert read({"inputs": "a"}, name).write([["one"]], RECORD) == ["one"]
    assert read({"inputs": ["a"]}, name).write([["one"]], RECORD) == [["one"]]


@pytest.mark.parametrize(
    ("predictions", "answer"),
    [
        ([[["x", "y"]]], ["x", "y"]),
        ([[["x"], ["y"]]], [["x"], ["y"]]),
        ([[["x"]], [["y"]]], [["x"], ["y"]]),
        ([[["x"]], [["y"], ["z"]]], [["x"], [["y"], ["z"]]]),
    ],
)
def test_fill_mask_nests_what_a_pipeline_nests(read: Read, predictions: Any, answer: Any) -> None:
    texts = ["[MASK]"] * len(predictions)
    call = read({"inputs": texts, "parameters": {"targets": "good"}}, "bert-fill-mask")
    assert call.request.parameters.targets == ["good"]
    assert call.write(predictions, RECORD) == answer


@pytest.mark.parametrize(
    ("predictions", "answer"), [([["x"]], "x"), ([["x", "y"]], ["x", "y"]), ([["x"], ["y", "z"]], ["x", ["y", "z"]])]
)
def test_question_answering_gives_an_object_for_one_answer(read: Read, predictions: Any, answer: Any) -> None:
    assert read({"inputs": [QUESTION] * len(predictions)}, "bert-answer").write(predictions, RECORD) == answer


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": QUESTION},
        QUESTION,
        {"inputs": [QUESTION]},
        {"inputs": {"question": ["Where?"], "context": "In Paris."}},
        {"inputs": {"question": ["Where?"], "context": ["In Paris."]}},
    ],
)
def test_a_question_is_written_in_several_ways(read: Read, body: Any) -> None:
    assert read(body, "bert-answer").request.listed == [("Where?", "In Paris.")]


def test_question_answering_has_the_pipelines_parameters(read: Read) -> None:
    asked = {"top_k": 2, "max_answer_len": 3, "max_question_len": 4, "doc_stride": 5, "handle_impossible_answer": True}
    fixed = {"max_seq_len": 40, "align_to_words": True}
    parameters = read({"inputs": QUESTION, "parameters": asked | fixed}, "bert-answer").request.parameters
    assert parameters.model_dump() == {
        "top_k": 2,
        "max_answer_length": 3,
        "max_question_length": 4,
        "stride": 5,
        "handle_impossible_answer": True,
    }


@pytest.mark.parametrize("labels", [["A", "B"], "A, B,"], ids=["list", "text"])
@pytest.mark.parametrize("key", ["candidate_labels", "candidateLabels"])
@pytest.mark.parametrize("inputs", ["a", {"sequences": "a"}, {"text": "a"}])
def test_zero_shot_classification_takes_labels_and_texts_as_the_original_does(
    read: Read, inputs: Any, key: str, labels: Any
) -> None:
    asked = {key: labels, "multi_label": True, "hypothesis_template": "It is {}."}
    request = read({"inputs": inputs, "parameters": asked}).request
    assert request.listed == ["a"]
    assert request.parameters.candidate_labels == ["A", "B"]
    assert (request.parameters.multi_label, request.parameters.hypothesis_template) == (True, "It is {}.")


def test_zero_shot_classification_gives_labels_for_a_text_and_objects_for_a_list(read: Read) -> None:
    def write(inputs: Any, predictions: Any, form: Form) -> Any:
        body = {"inputs": inputs, "parameters": {"candidate_labels": ["A", "B"]}}
        return read(body, form=form).write(predictions, RECORD)

    one = {"sequence": "a", "labels": ["A", "B"], "scores": [0.75, 0.25]}
    assert write("a", [[A, B]], "hosted") == [A, B]
    assert write("a", [[A, B]], "pipeline") == one
    assert write(["a", "b"], [[A, B], [A]], "hosted") == [one, {"sequence": "b", "labels": ["A"], "scores": [0.75]}]


@pytest.mark.parametrize("body", [{"inputs": {"query": "q", "texts": ["a", "b"]}}, {"query": "q", "texts": ["a", "b"]}])
def test_text_ranking_gives_the_texts_best_first(read: Read, body: Any) -> None:
    call = read(body)
    assert (call.model.name, call.request.inputs.texts) == ("roberta-rerank", ["a", "b"])
    assert call.write([RANKED], RECORD) == RANKED
    assert not call.request.parameters.return_documents
    body.get("inputs", body)["return_documents"] = True
    assert read(body).request.parameters.return_documents


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}, "parameters": {"truncate": False}},
        {"source_sentence": "a", "sentences": ["b", "c"]},
    ],
)
def test_sentence_similarity_gives_a_number_for_each_sentence(read: Read, body: Any) -> None:
    call = read(body)
    assert (call.handler.task, call.model.name, call.request.inputs.sentences) == (
        "similarity",
        "bert-embed",
        ["b", "c"],
    )
    assert call.request.parameters.truncation == ("parameters" not in body)
    assert call.write([[0.75, 0.25]], RECORD) == [0.75, 0.25]


@pytest.mark.parametrize(
    ("name", "inputs", "theirs", "ours"),
    [
        (
            "bert-single-label",
            "a",
            {"top_k": 2, "function_to_apply": "NONE"},
            {"top_k": 2, "function_to_apply": "none"},
        ),
        ("bert-single-label", {"text": "a"}, {"top_k": None, "padding": True}, {"top_k": None}),
        ("bert-next-sentence", {"text": "a", "text_pair": "b"}, {"truncation": False}, {"truncation": False}),
        ("bert-entities", "a", {"aggregation_strategy": "NONE"}, {"aggregation_strategy": "none"}),
        ("bert-fill-mask", "[MASK]", {"targets": "good"}, {"targets": ["good"]}),
        ("bert-answer", QUESTION, {"top_k": 2, "doc_stride": 3}, {"top_k": 2, "stride": 3}),
        ("bert-nli", "a", {"candidateLabels": "A,B"}, {"candidate_labels": ["A", "B"]}),
        ("bert-nli", {"sequences": "a"}, {"candidate_labels": ["A"]}, {"candidate_labels": ["A"]}),
        ("roberta-rerank", {"query": "q", "texts": ["a"]}, {"top_n": 1}, {"top_n": 1}),
        ("bert-embed", {"source_sentence": "a", "sentences": ["b"]}, {"truncate": False}, {"truncation": False}),
    ],
)
def test_parameters_may_stand_beside_what_they_are_for(
    read: Read, name: str, inputs: Any, theirs: Any, ours: Any
) -> None:
    bodies = [{"inputs": inputs, "parameters": theirs}, {"inputs": inputs, **theirs, "options": {}}]
    if isinstance(inputs, dict):
        bodies += [{"inputs": inputs | theirs}, {**inputs, **theirs, "options": {}}]
    for body in bodies:
        parameters = read(body, name).request.parameters
        assert {key: getattr(parameters, key) for key in ours} == ours


@pytest.mark.parametrize("place", ["root", "parameters"])
def test_feature_extraction_takes_its_parameters_in_two_places(read: Read, place: str) -> None:
    asked: dict[str, Any] = {"normalize": False, "truncate": False, "truncation_direction": "Left", "prompt_name": ""}
    asked |= {"dimensions": 8, "encoding_format": None}
    body = {"inputs": "a", **(asked if place == "root" else {"parameters": asked})}
    parameters = read(body, "bert-embed").request.parameters
    assert (parameters.normalize, parameters.truncation, parameters.truncation_direction) == (False, False, "left")
    assert (parameters.prompt_name, parameters.dimensions, parameters.encoding_format) == ("", 8, "float")


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("bert-answer", {"inputs": QUESTION, "parameters": {"max_answer_len": 0}}, "parameters.max_answer_len: "),
        ("bert-answer", {"inputs": QUESTION, "parameters": {"doc_stride": "1"}}, "parameters.doc_stride: "),
        (
            "bert-answer",
            {"inputs": QUESTION, "parameters": {"max_seq_len": 384}},
            "parameters.max_seq_len: is always 40",
        ),
        (
            "bert-answer",
            {"inputs": QUESTION, "parameters": {"align_to_words": False}},
            "parameters.align_to_words: is always true",
        ),
        ("bert-answer", {"inputs": {"question": ["a", "b"], "context": ["c"]}}, "lists of different length"),
        ("bert-answer", {"inputs": {"question": "a"}}, "inputs.context: is missing"),
        ("bert-answer", {"inputs": {"question": ["a"], "context": "b", "c": 1}}, "inputs[0].c: is not"),
        ("bert-answer", {"inputs": "a"}, "inputs: should be"),
        ("bert-single-label", {"inputs": "a", "parameters": {"max_length": 8}}, "parameters.max_length: is always 40"),
        ("bert-single-label", {"inputs": "a", "parameters": {"temperature": 1}}, "parameters.temperature: is not"),
        ("bert-single-label", {"inputs": [["a", "b", "c"]]}, "inputs[0]: should be"),
        ("bert-single-label", {"parameters": {}}, "inputs.text: is missing"),
        ("bert-next-sentence", {"inputs": "a"}, "inputs: should be"),
        ("bert-nli", {"inputs": "a", "parameters": {"candidate_labels": " , "}}, "parameters.candidate_labels: "),
        ("bert-nli", {"inputs": {"sequences": "a", "b": 1}, "candidate_labels": ["A"]}, "inputs: should be a text or"),
        ("roberta-rerank", {"inputs": {"query": "a", "texts": "b"}}, "inputs.texts: "),
        ("bert-entities", {"inputs": {"text": "a"}}, "inputs: should be a text or a list of texts"),
        ("bert-embed", {"inputs": "a", "normalize": 1}, "parameters.normalize: "),
        ("bert-embed", {"inputs": "a", "truncate": "END"}, "parameters.truncate: should be true or false"),
        ("bert-embed", {"inputs": "a", "parameters": []}, "parameters: "),
        ("bert-embed", {"inputs": "a", "model": 1}, "model: "),
        ("bert-embed", {"inputs": []}, "inputs: list should have at least 1 item"),
        ("bert-embed", {"inputs": 5}, "inputs: should be a text or a list of texts"),
        ("bert-nli", {"inputs": 5}, "inputs: should be a text, {"),
    ],
)
def test_a_refusal_names_what_the_caller_wrote(read: Read, name: str, body: Any, says: str) -> None:
    error = refused(lambda: read(body, name))
    assert isinstance(error, ValidationFailed)
    assert error.message.startswith(says) or says in error.message


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"doc_stride": 39}, "parameters.doc_stride: must be less than"),
        ({"max_question_len": 99}, "lower parameters.max_question_len."),
    ],
)
def test_what_does_not_fit_the_model_is_named_as_the_caller_named_it(read: Read, parameters: Any, says: str) -> None:
    asked = {"question": "Where? " * 40, "context": "In Paris. " * 40}
    call = read({"inputs": asked, "parameters": {"max_question_len": 1} | parameters}, "bert-answer")
    with pytest.raises(ValidationFailed, match=re.escape(says)):
        call.handler.prepare(call.model, call.request)


def test_what_changes_no_answer_is_ignored(read: Read) -> None:
    body = {"inputs": "a", "options": {"wait_for_model": True}, "parameters": {"padding": True, "max_length": 40}}
    assert read(body, "bert-single-label").request.listed == ["a"]


@pytest.mark.parametrize(
    ("body", "more", "model"),
    [
        ({"inputs": "a"}, {"served": ["bert-entities"]}, "bert-entities"),
        ({"inputs": "a", "model": "bert-embed"}, {}, "bert-embed"),
        ({"inputs": QUESTION}, {}, "bert-answer"),
        ({"inputs": "a"}, {"pipeline": "fill-mask"}, "bert-fill-mask"),
        ({"inputs": "a"}, {"pipeline": "text-classification", "defaults": {"classify": "bert-nli"}}, "bert-nli"),
        (
            {"inputs": [["a", "b"]]},
            {"name": "bert-next-sentence", "pipeline": "text-classification"},
            "bert-next-sentence",
        ),
        ({"inputs": "a"}, {"served": ["bert-answer", "bert-embed"]}, "bert-embed"),
        ({"inputs": "a", "parameters": {"candidate_labels": ["A"]}}, {}, "bert-nli"),
        ({"inputs": [["a", "b"]]}, {"name": "roberta-rerank"}, "roberta-rerank"),
        ({"inputs": "a"}, {"defaults": {"embed": "bert-embed", "answer": "bert-answer"}}, "bert-embed"),
    ],
)
def test_a_request_finds_its_model(read: Read, body: Any, more: Any, model: str) -> None:
    assert read(body, **more).model.name == model


@pytest.mark.parametrize(
    ("body", "more", "error", "says"),
    [
        ({"inputs": "a"}, {}, ValidationFailed, "several models for such inputs; name one of: bert-single-label, "),
        (
            {"inputs": "a"},
            {"defaults": {"embed": "bert-embed", "classify": "bert-single-label"}},
            ValidationFailed,
            "name one of: bert-single-label",
        ),
        ({"inputs": {"a": "b"}}, {}, ValidationFailed, "inputs: should be a text, "),
        ({"inputs": QUESTION}, {"served": ["bert-embed", "bert-entities"]}, NotFound, "no model for answer"),
        ({"inputs": "a"}, {"name": "nowhere"}, NotFound, "There is no such model"),
        ({"inputs": "a"}, {"pipeline": "translation"}, NotFound, "There is no such pipeline"),
        ({"inputs": "a"}, {"name": "bert-embed", "pipeline": "ner"}, NotFound, "but sentence-similarity, feature-extr"),
        ({"inputs": "a"}, {"name": "bert-embed", "pipeline": "ner"}, NotFound, "Models with ner: bert-entities"),
    ],
)
def test_a_request_without_one_model_is_refused(
    read: Read, body: Any, more: Any, error: type[ServiceError], says: str
) -> None:
    told = refused(lambda: read(body, **more))
    assert isinstance(told, error)
    assert says in told.message
