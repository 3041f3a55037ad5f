"""Every task over a real socket, in one process and in several: as described, alone and in company of all others."""

import base64
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from app.http.inference import INLINE_WEIGHT
from app.tasks import TASKS
from app.tasks.windows import MAX_WINDOWS
from tests.conftest import ModelsOf
from tests.e2e.test_openapi import answer_of, resolve
from tests.fixtures.corpus import CLASSIFY
from tests.support import Connection, Reply, ServerProcess, serving

CHECKPOINTS: dict[str, str] = {
    "classify": "bert-single-label",
    "fill-mask": "bert-fill-mask",
    "next-sentence": "bert-next-sentence",
    "entities": "roberta-entities",
    "answer": "bert-answer",
    "embed": "bert-embed-dense",
    "rerank": "roberta-rerank",
    "nli": "bert-nli",
}
ALSO: dict[str, str] = {"similarity": "embed", "zero-shot": "nli", "explain": "classify"}
"""Tasks that a model of another one does, too."""
EXAMPLES: dict[str, set[str]] = {
    "classify": {"classify", "rerank", "nli"},
    "explain": {"classify", "entities", "fill-mask", "next-sentence", "nli", "rerank"},
}
"""The models that have an example of a task, where there are several."""
DEFAULTS = ("--default-models", "classify=classify,explain=classify")
"""`nli` classifies, too, and nearly all can be explained."""
TEXTS = [one for one in CLASSIFY if isinstance(one, str)]
TEXT = "The cat sat on the mat in Paris."
LONG = " ".join([TEXT] * 20)
QUESTION = {"question": "Where is it?", "context": TEXT}
RANKED = {"query": "Where is the cat?", "texts": TEXTS}
ASKED: list[tuple[str, Any, dict[str, Any]]] = [
    ("classify", TEXTS, {}),
    ("fill-mask", "The [MASK] sat on the [MASK].", {}),
    ("next-sentence", [{"text": text, "text_pair": TEXT} for text in TEXTS], {}),
    ("next-sentence", {"text": TEXT, "text_pair": LONG}, {}),
    *(("entities", TEXTS, {"aggregation_strategy": name}) for name in ("none", "simple", "first", "average", "max")),
    ("entities", [LONG, TEXT], {"stride": 7}),
    ("entities", LONG, {"truncation_direction": "left"}),
    ("answer", [QUESTION, QUESTION | {"context": LONG}], {"top_k": 4}),
    *(("answer", QUESTION | {"context": text}, {"handle_impossible_answer": True, "top_k": 2}) for text in TEXTS),
    ("embed", TEXTS, {}),
    ("embed", LONG, {"normalize": False, "encoding_format": "base64"}),
    *(("embed", TEXTS, {"prompt_name": name, "dimensions": 5}) for name in ("query", "document", "")),
    ("embed", TEXT, {"input_type": "query", "dimensions": 24}),
    ("similarity", {"source_sentence": TEXT, "sentences": TEXTS}, {}),
    (
        "similarity",
        [{"source_sentence": text, "sentences": [TEXT, LONG]} for text in TEXTS],
        {"input_type": "document"},
    ),
    ("rerank", RANKED, {}),
    ("rerank", [RANKED, {"query": LONG, "texts": [LONG, TEXT, ""]}], {"top_n": 2, "return_documents": True}),
    ("zero-shot", TEXTS, {"candidate_labels": ["travel", "cats", "food"]}),
    ("zero-shot", LONG, {"candidate_labels": ["travel", "cats"], "multi_label": True}),
    ("explain", [TEXT, {"text": TEXT, "text_pair": "Really?"}, LONG], {}),
    ("explain", [TEXT, LONG], {"method": "shapley", "max_runs": 300, "perturbation": "remove"}),
]


@pytest.fixture(scope="module")
def models(models_of: ModelsOf) -> Path:
    return models_of(CHECKPOINTS)


@pytest.fixture(scope="module", params=["1", "2"], ids=["alone", "workers"])
def server(models: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with serving(models, "--threads", "1", "--workers", request.param, *DEFAULTS) as server:
        yield server
        assert server.stop() == 0, server.log


def ask(server: ServerProcess, task: str, inputs: Any, **parameters: Any) -> Any:
    reply = server.post(f"/v1/{task}", {"inputs": inputs, "parameters": parameters})
    assert reply.status == 200, reply.body
    return reply.json


def refusal(server: ServerProcess, task: str, inputs: Any, **parameters: Any) -> str:
    reply = server.post(f"/v1/{task}", {"inputs": inputs, "parameters": parameters})
    assert reply.status == 422, reply.body
    return reply.error


def test_there_is_a_request_for_every_task() -> None:
    assert {task for task, _, _ in ASKED} == {*CHECKPOINTS, *ALSO} - {"nli"} == set(TASKS)


def test_no_answer_depends_on_its_batch_or_its_process(server: ServerProcess) -> None:
    """Bit for bit: `==` on the answers' JSON."""
    bodies = [(f"/v1/{task}", {"inputs": inputs, "parameters": parameters}) for task, inputs, parameters in ASKED]
    alone = [server.post(*body) for body in bodies]
    assert [reply.status for reply in alone] == [200] * len(bodies)
    order = list(range(len(bodies))) * 4
    random.Random(3).shuffle(order)

    def ask_all(numbers: Sequence[int]) -> list[tuple[int, bytes]]:
        connection = Connection(server.url)
        try:
            return [(i, connection.ask("POST", *bodies[i]).body) for i in numbers]
        finally:
            connection.close()

    with ThreadPoolExecutor(12) as threads:
        for answers in threads.map(ask_all, [order[i::12] for i in range(12)]):
            for i, body in answers:
                assert body == alone[i].body, bodies[i]


@pytest.mark.parametrize("task", TASKS)
def test_the_example_of_every_task_works_as_described(server: ServerProcess, task: str) -> None:
    description = server.ask("GET", "/openapi.json").json
    content = description["paths"][f"/v1/{task}"]["post"]["requestBody"]["content"]["application/json"]
    examples = content["examples"]
    name = ALSO.get(task, task)
    assert examples.keys() == EXAMPLES.get(task, {name})
    example = examples[name]
    request, answer = resolve(description, content["schema"]), answer_of(description, f"/v1/{task}", "post", 200)
    replies = [server.post(f"/v1/{task}", example["value"])]
    jsonschema.validate(example["value"], request)
    for other, inputs, parameters in ASKED:
        if other == task:
            body = {"inputs": inputs, "parameters": parameters}
            jsonschema.validate(body, request)
            replies.append(server.post(f"/v1/{task}", body))
    for reply in replies:
        assert reply.status == 200, reply.body
        jsonschema.validate(reply.json, answer)


def test_inputs_are_answered_in_order_whatever_they_take(server: ServerProcess) -> None:
    texts = [TEXT, LONG, "good", LONG + " good"]
    together = ask(server, "entities", texts, stride=5)
    alone = [ask(server, "entities", text, stride=5) for text in texts]
    assert together["predictions"] == [one["predictions"][0] for one in alone]
    assert together["usage"]["tokens"] == sum(one["usage"]["tokens"] for one in alone)
    assert together["usage"]["truncated"] == 0
    questions = [QUESTION | {"context": text} for text in texts]
    assert ask(server, "answer", questions, top_k=3)["predictions"] == [
        ask(server, "answer", question, top_k=3)["predictions"][0] for question in questions
    ]


def test_entities_have_their_offsets(server: ServerProcess) -> None:
    for text in [*TEXTS, LONG]:
        [tokens] = ask(server, "entities", text, aggregation_strategy="none", ignore_labels=[])["predictions"]
        [groups] = ask(server, "entities", text, ignore_labels=[], stride=4)["predictions"]
        assert [one["index"] for one in tokens] == list(range(1, len(tokens) + 1))
        for entity in [*tokens, *groups]:
            assert 0 <= entity["start"] <= entity["end"] <= len(text)
        ends = [entity["end"] for entity in groups]
        assert ends == sorted(ends)
        assert ends[-1] >= len(text.rstrip())


def test_an_answer_is_part_of_its_context(server: ServerProcess) -> None:
    answer: dict[str, Any] = {}
    for context in [*TEXTS, LONG]:
        answer = ask(server, "answer", QUESTION | {"context": context}, top_k=7)
        [answers] = answer["predictions"]
        for one in answers:
            assert one["answer"] == context[one["start"] : one["end"]]
            assert 0 <= one["score"] <= 1
        wordings = [one["answer"].lower() for one in answers]
        assert len(wordings) == len(set(wordings))
    assert answer["usage"]["tokens"] > 200  # every window counts


def test_an_embedding_has_length_one_if_checkpoint_or_request_ask_for_it(server: ServerProcess) -> None:
    def embedding(**parameters: Any) -> Any:
        [one] = ask(server, "embed", TEXT, **parameters)["predictions"]
        return one

    raw, made = np.array(embedding(normalize=False)), np.array(embedding())
    assert np.linalg.norm(made) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=1e-2)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), made, atol=1e-6)
    assert np.frombuffer(base64.b64decode(embedding(encoding_format="base64")), "<f4").tolist() == made.tolist()


def test_similarities_are_the_cosines_of_embeddings(server: ServerProcess) -> None:
    def directions(texts: list[str], **parameters: Any) -> Any:
        return np.array(ask(server, "embed", texts, normalize=True, **parameters)["predictions"])

    inputs = [{"source_sentence": text, "sentences": TEXTS} for text in (TEXT, LONG)]
    for parameters in ({}, {"prompt_name": "query"}):
        answer = ask(server, "similarity", inputs, **parameters)
        expected = directions([TEXT, LONG], **parameters) @ directions(TEXTS, **parameters).T
        np.testing.assert_allclose(answer["predictions"], expected, atol=1e-6)  # float32 numbers of length one


@pytest.mark.parametrize("task", ["entities", "answer"])
def test_many_inputs_are_answered_as_few_are(server: ServerProcess, task: str) -> None:
    """Large ones are written in another way."""
    inputs = [text if task == "entities" else QUESTION | {"context": text} for text in TEXTS]
    few, many = ask(server, task, inputs[:5]), ask(server, task, inputs[:5] * 12)
    assert many["usage"]["tokens"] > INLINE_WEIGHT
    assert many["predictions"] == few["predictions"] * 12
    assert many["usage"] == {key: value * 12 for key, value in few["usage"].items()}
    assert many["model"] == few["model"]


@pytest.mark.parametrize(
    ("task", "inputs", "parameters", "says"),
    [
        ("next-sentence", TEXT, {}, 'inputs: should be {"text": ..., "text_pair": ...} or a list of these'),
        ("answer", [TEXT], {}, "inputs[0]: should be an object; /docs shows what it holds"),
        ("answer", {"question": "?"}, {}, "inputs.context: is missing"),
        ("answer", QUESTION | {"question": "good " * 64}, {}, "inputs[0].question leaves no room for the context"),
        ("entities", LONG, {"truncation": False}, "inputs[0] has more than 40 tokens"),
        ("entities", TEXT, {"stride": 40}, "parameters.stride: must be less than 38"),
        ("entities", [LONG * 50], {"stride": 37}, f"at most {MAX_WINDOWS}"),
        ("embed", {"text": TEXT}, {}, "inputs: should be a text or a list of texts"),
        ("rerank", TEXT, {}, 'inputs: should be {"query": ..., "texts": [...]} or a list of these'),
        ("rerank", [RANKED, {"query": TEXT, "texts": TEXTS * 40}], {}, "at most 512 are allowed"),
        (
            "rerank",
            RANKED | {"texts": [LONG]},
            {"truncation": False},
            "inputs[0].texts[0] with its query has more than 40",
        ),
        ("zero-shot", TEXT, {"candidate_labels": ["x"] * 513}, "at most 512 are allowed"),
        ("zero-shot", TEXT, {"candidate_labels": [LONG]}, "Shorten the second"),
        ("embed", TEXT, {"pooling": "mean"}, "parameters.pooling: is not a parameter of this endpoint"),
        ("embed", TEXT, {"dimensions": 25}, "parameters.dimensions: this model's embeddings have 24 numbers"),
        ("embed", TEXT, {"prompt_name": "cat"}, "no such prompt; its prompts are: query, document, topic"),
        ("similarity", TEXT, {}, 'inputs: should be {"source_sentence": ..., "sentences": [...]} or a list of these'),
        ("similarity", {"source_sentence": TEXT, "sentences": []}, {}, "inputs.sentences: list should have at least 1"),
        (
            "similarity",
            {"source_sentence": TEXT, "sentences": [TEXT] * 512},
            {},
            "has 513 texts or pairs for the model; at most 512",
        ),
    ],
)
def test_refusals_name_the_remedy(
    server: ServerProcess, task: str, inputs: Any, parameters: dict[str, Any], says: str
) -> None:
    said = refusal(server, task, inputs, **parameters)
    assert says in said
    assert "cat" not in said


def test_model_cards_name_task_and_labels(server: ServerProcess) -> None:
    def card(task: str) -> Any:
        return server.ask("GET", f"/v1/models/{task}").json

    exported_as = {name: "classify" if name == "nli" else name for name in CHECKPOINTS}
    assert {name: card(name)["task"] for name in CHECKPOINTS} == exported_as
    assert card("next-sentence")["labels"] == ["IS_NEXT", "NOT_NEXT"]
    embed = card("embed")
    assert (embed["pooling"], embed["normalizes"], embed["dimensions"]) == ("mean", True, 24)
    assert (embed["prompts"], embed["default_prompt_name"]) == (["query", "document", "topic"], "topic")
    assert (card("classify")["dimensions"], card("classify")["prompts"]) == (None, [])
    assert (card("answer")["labels"], card("answer")["pooling"], card("answer")["normalizes"]) == ([], None, None)


def test_every_task_has_its_metrics(server: ServerProcess) -> None:
    for name in CHECKPOINTS:
        assert server.metric("bert_requests_total", model=name) >= 0
    before: Reply = server.post("/v1/embed", {"inputs": TEXT})
    assert before.status == 200
    assert server.metric("bert_requests_total", task="embed", status="200") >= 1


def test_the_wrong_endpoint_says_what_the_model_does(server: ServerProcess) -> None:
    reply = server.post("/v1/embed", {"model": "answer", "inputs": TEXT})
    assert reply.status == 404
    assert "does answer, not embed" in reply.error
    assert json.loads(reply.body)["error_type"] == "not_found"
